"""``raypurify demo``: the example images that are shipped with the package, purified."""

from importlib import resources
from typing import Annotated

import typer

from raypurify.cli.options import Address, LogFormat
from raypurify.cli.outcome import tell
from raypurify.cli.purify import purify


def demo(
    output: Annotated[str, typer.Argument(metavar="OUT", help="A folder for what is made.")] = "demo-out",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo wrote to OUT.")] = False,
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Purify 24 images of CIFAR-10, and the same 24 under attack, and draw what that did to some of them."""
    print("images:     24 of CIFAR-10, 32×32 pixels, and the same under an attack (BIM) that fools a ResNet-56")
    images = resources.files("raypurify.examples") / "cifar10"
    purify([str(images)], output, overwrite=overwrite, address=address)
    picture = f"{output.rstrip('/')}/_raypurify/sheet.png"
    tell(picture=picture)
    print(f"look at:    {picture}, rows from above: input, purified, their difference ×3, the atoms that were used")
