"""raypurify removes adversarial perturbations from images, from ten on a laptop to ImageNet-sized sets on Ray.

>>> import raypurify, torch
>>> purifier = raypurify.load("cifar10")
>>> purifier.purify(torch.rand(4, 3, 32, 32)).images.shape
torch.Size([4, 3, 32, 32])
"""

from typing import TYPE_CHECKING, Any

from raypurify.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from raypurify.client import Client
    from raypurify.purifiers import Bundled

__all__ = ["Client", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from raypurify.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(bundle: "str | Path", device: str = "cpu") -> "Bundled":
    """The purifier of a bundle: the name of a shipped one ("cifar10"), a folder, or a URI.

    Of which class it is, the method of the bundle decides (``raypurify.methods``). Raises
    raypurify.errors.BundleError when there is no such bundle, it is damaged, or its method is not known.
    """
    from raypurify.methods import load

    return load(bundle, device)
