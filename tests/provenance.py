"""What a purifier says of an image, for tests that write shards without one."""

from typing import Any


def facts(**more: Any) -> dict[str, Any]:
    """The columns of ``ledger.FACTS``."""
    said = {"cluster": 3, "class": "cat", "distance": 1.5, "flagged": False, "relative_change": 0.25, "iterations": 7}
    return said | {"mode": "RGB", "width": 1, "height": 1, "bundle": "abc"} | more
