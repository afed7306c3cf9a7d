"""What a command made, or why it made nothing, for whoever started it as a job."""

from typing import Any

_FACTS: dict[str, Any] = {}


def tell(**facts: Any) -> None:
    """Add facts about what the command of this process made."""
    _FACTS.update(facts)


def told() -> dict[str, Any]:
    """All facts so far."""
    return dict(_FACTS)
