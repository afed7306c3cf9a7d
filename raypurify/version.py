"""The version, on its own so that every room can read it.

It is that of the release under way, X.Y.Z, until the tag vX.Y.Z; CHANGELOG.md says what is in it. A new one is a new
identity: nodes of other versions are refused, and what ``evaluate`` kept is computed anew.
"""

import platform
from importlib import metadata
from pathlib import Path

__version__ = "0.1.0"


def described() -> str:
    """What ``raypurify --version`` prints: the version, where it is installed, and what it runs on."""
    found = []
    for name in ("ray", "torch"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    where = Path(__file__).parent
    return f"raypurify {__version__} from {where} (Python {platform.python_version()}, {', '.join(found)})"
