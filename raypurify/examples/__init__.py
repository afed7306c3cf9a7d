"""Example images, shipped with the package: ``raypurify demo`` purifies them."""
