"""``python -m raypurify``, the same as the command ``raypurify``."""

from raypurify.cli.app import main

if __name__ == "__main__":
    main()
