"""Events of a run, by the standard ``logging``: a line for people, or a line of JSON for what collects logs.

Every event is a record of the logger ``raypurify.events``, at level INFO, where work was lost WARNING, where it failed
ERROR; its ``facts`` say of which run, stage and shard it is. They hold numbers, names and redacted URIs alone.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

from raypurify.errors import ConfigError
from raypurify.storage import redact

FORMATS, VARIABLE = ("plain", "json"), "RAYPURIFY_LOG"
_EVENTS = logging.getLogger("raypurify.events")
# Who has not asked for the events has them as lines, not twice.
_EVENTS.addHandler(logging.NullHandler())
_ABOUT: ContextVar[dict[str, Any]] = ContextVar("about")
_URI = re.compile(r"\w[\w+.-]*://\S+")
_LONGEST = 1000
_QUIET = False


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, event, and its facts; the text of a record that is no
    event is in ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without URIs' secrets."""
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower()}
        facts = getattr(record, "facts", None)
        if facts is None:
            facts = {"logger": record.name, "message": record.getMessage()}
            if record.exc_info:
                facts["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        else:
            line["event"] = record.getMessage()
        return json.dumps(line | {name: _shown(value) for name, value in facts.items()}, default=str)


class _OnStderr(logging.Handler):
    """Writes to what standard error is now."""

    def emit(self, record: logging.LogRecord) -> None:
        if not is_quiet(record.levelno):
            print(self.format(record), file=sys.stderr, flush=True)


def _shown(value: Any) -> Any:
    """A fact as it may be read.

    >>> _shown("cannot read s3://key:secret@bucket/a now"), _shown(0.123456)
    ('cannot read s3://bucket/a now', 0.123)
    """
    if isinstance(value, float):
        return round(value, 3)
    return _URI.sub(lambda found: redact(found[0]), value)[:_LONGEST] if isinstance(value, str) else value


def log_as(form: str | None) -> None:
    """Write events as ``form`` says from now on, "plain" or "json", on standard error; None: as ``RAYPURIFY_LOG`` says,
    or plain. Raises ConfigError for any other."""
    form = form or os.environ.get(VARIABLE) or FORMATS[0]
    if form not in FORMATS:
        raise ConfigError(f"unknown form of logs {form!r}; give --log-format {' or '.join(FORMATS)}")
    logger = logging.getLogger("raypurify")
    for handler in _handlers():
        logger.removeHandler(handler)
    logger.propagate, level = form == "plain", logging.NOTSET
    if form == "json":
        handler, level = _OnStderr(), logging.INFO
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
    logger.setLevel(level)


def quieten(quiet: bool) -> None:
    """From now on, write warnings and errors alone, or everything again; loggers of others are told as before."""
    global _QUIET
    _QUIET = quiet


def is_quiet(level: int = logging.INFO) -> bool:
    """Whether events of a level are kept from people and from standard error."""
    return _QUIET and level < logging.WARNING


def as_json() -> bool:
    """Whether events are written as JSON."""
    return bool(_handlers())


def _handlers() -> list[logging.Handler]:
    return [one for one in logging.getLogger("raypurify").handlers if isinstance(one, _OnStderr)]


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Give all events of the block these facts, beside those of the blocks around it."""
    token = _ABOUT.set(surroundings() | facts)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def surroundings() -> dict[str, Any]:
    """The facts that an event would be given here."""
    return _ABOUT.get({})


def log_event(event: str, plain: str = "", level: int = logging.INFO, aside: bool = False, **facts: Any) -> None:
    """Log an event; for people ``plain`` is printed in its place, ``aside`` on standard error."""
    _EVENTS.log(level, event, extra={"facts": surroundings() | facts})
    if plain and not as_json() and not is_quiet(level):
        print(plain, file=sys.stderr if aside else sys.stdout, flush=True)
