"""The witness of a node: an actor that tells what its node has, and reads and writes there.

It travels by value and imports what it needs when it is asked, so that a node without raypurify, or with another, can
say so.
"""

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from typing import Any


class Witness:
    """What one process of a node sees; ``doctor`` also keeps one of its own process."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def facts(self, gpus: bool) -> dict:
        """Versions (None: not installed), whether the processes of its node ask for a token, free disk where Ray
        works, and with ``gpus`` how many torch can use. Raises ImportError where a package is there and does not
        load."""
        versions: dict[str, str | None] = {"python": platform.python_version()}
        for name in ("ray", "torch", "raypurify"):
            versions[name] = None
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        seen = 0
        if versions["raypurify"]:
            import raypurify.purifiers  # noqa: F401  (that it and torch can be imported there)
            from raypurify.version import __version__

            # What runs, where a checkout stands before what is installed.
            versions["raypurify"] = __version__
        if gpus and versions["torch"]:
            import torch

            seen = torch.cuda.device_count()
        folder = _ray_folder()
        free = shutil.disk_usage(folder).free
        return {"versions": versions, "gpus": seen, "token": _token(), "folder": folder, "free": free}

    def now(self) -> float:
        """Its clock, in seconds since 1970."""
        return time.time()

    def write(self, where: str, name: str) -> None:
        """Write a file of this name, with its name in it, to a folder or URI, which is made where it is missing.
        Raises OSError or ValueError."""
        from raypurify.storage import resolve

        folder = resolve(where)
        if folder.remote is None:
            above = folder.path
            while not os.path.isdir(above):
                self._made.append(above)
                above = os.path.dirname(above)
        (folder / name).write(name.encode(), folder)

    def missing(self, where: str, names: list[str]) -> list[str]:
        """Those of the files that are not there as they were written. Raises OSError where they cannot be read."""
        from raypurify.storage import resolve

        folder, lost = resolve(where), []
        for name in names:
            try:
                if (folder / name).read() != name.encode():
                    lost.append(name)
            except FileNotFoundError:
                lost.append(name)
        return lost

    def delete(self, where: str, names: list[str]) -> None:
        """Remove files that were written, and the folders that this witness has made. Raises OSError."""
        from raypurify.storage import resolve

        folder = resolve(where)
        for name in names:
            (folder / name).delete()
        for made in self._made:
            with suppress(OSError):  # others have files in it
                os.rmdir(made)
        self._made = []

    def digest(self, bundle: str) -> str:
        """The digest of a bundle whose every file was checked. Raises BundleError."""
        from raypurify.methods import checked_facts

        return checked_facts(bundle).digest


def _token() -> bool:
    try:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
    except ImportError:  # a Ray without tokens
        return False
    return is_token_auth_enabled()


def _ray_folder() -> str:
    try:
        from ray._private import worker

        node: Any = worker._global_node
        return node.get_session_dir_path()
    except (AttributeError, ImportError):  # not known to this Ray
        return tempfile.gettempdir()
