"""What a check of ``doctor`` says: that something is well, or what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass

from raypurify.errors import one_line


@dataclass(frozen=True)
class Finding:
    """What one check found; ``text`` says what is there, and what to do where it is not ``ok``, or where it is and yet
    a ``warning``."""

    name: str
    ok: bool
    text: str
    warning: bool = False

    @property
    def state(self) -> str:
        """How it is marked before people: "ok", "warn" or "FAIL"."""
        return "warn" if self.warning else "ok" if self.ok else "FAIL"


def find(name: str, check: Callable[[], str]) -> Finding:
    """The finding of a check, which returns what is there, raises what is wrong, or raises a Warning."""
    try:
        return Finding(name, True, check())
    except Warning as warning:
        return Finding(name, True, str(warning), warning=True)
    except Exception as error:  # whatever is broken, the other checks say their part
        return Finding(name, False, one_line(error))


def all_well(wrong: list[str], well: str) -> str:
    """``well``, where nothing is wrong. Raises RuntimeError with all that is."""
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return well


def nodes_text(count: int) -> str:
    """A number of nodes in words.

    >>> nodes_text(1), nodes_text(3)
    ('1 node', '3 nodes')
    """
    return f"{count} node{'s' * (count != 1)}"
