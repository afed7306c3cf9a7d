"""The errors raypurify raises on purpose.

Each message says what was wrong, where, and what to do about it. The command line prints such a message as one line
and exits with 2; anything else that escapes is a defect and keeps its traceback.

Wrong values are also ``ValueError``, and what cannot be read or written also ``OSError``, for those who catch these. In
this package, who catches these to say what failed lets errors of this module pass first: they say it already.
"""

import re

# What libraries write where a file holds more than they read safely: they advise to switch that off.
_UNSAFE = re.compile(r"weights[_ ]only|allow_pickle", re.IGNORECASE)


class RaypurifyError(Exception):
    """Base of every error a caller can provoke with bad input or bad settings."""


class ConfigError(RaypurifyError, ValueError):
    """A preset, a settings file or an override that cannot be used."""


class SourceError(RaypurifyError, OSError):
    """An input that cannot be read as a whole: missing, empty, or of no known container."""


class SinkError(RaypurifyError, OSError):
    """An output that cannot be written, or that belongs to another job."""


class BundleError(RaypurifyError, OSError):
    """A bundle that is missing, damaged, of an unknown version, or does not fit its use."""


class DataError(RaypurifyError, ValueError):
    """Arrays that cannot be computed with: wrong shape, not finite, labels out of range."""


class TrainingError(RaypurifyError):
    """A training run that cannot go on: loss not finite, no images, unreadable checkpoint."""


class ImageError(RaypurifyError, ValueError):
    """One image that cannot be purified. The rest of the work goes on.

    ``reason`` is a short stable slug (``empty``, ``not-an-image``, ``truncated``, ``too-large``, ``too-small``,
    ``too-complex``, ``animated``, ``unsupported-mode``, ``unreadable``, ``changed``, ``bad-name``, ``kills``) for
    tables and counters; the message is for people.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))


def of_file(error: BaseException) -> str:
    """What a library says of a file that it cannot read, as a short line; nothing of how to load it unsafely.

    >>> of_file(ValueError("Cannot load file containing pickled data when allow_pickle=False"))
    'it is damaged, or holds more than plain arrays'
    >>> of_file(KeyError("label")), of_file(EOFError("No data left in file"))
    ("it has no 'label'", 'No data left in file')
    """
    text = one_line(error)
    if _UNSAFE.search(str(error)):
        return "it is damaged, or holds more than plain arrays"
    return (f"it has no {text}" if isinstance(error, KeyError) else text)[:300]


def one_line(error: BaseException) -> str:
    """An error as one line, without the traceback that Ray puts before it.

    >>> one_line(ValueError("no\\n such  thing")), one_line(KeyError())
    ('no such thing', 'KeyError')
    >>> one_line(RuntimeError('died:\\nTraceback (most recent call last):\\n  File "a", line 1\\nOSError: no\\nroom'))
    'OSError: no room'
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause)
    text = str(error)
    if "Traceback (most recent call last)" in text:
        # What was raised, in as many lines as it has, stands below the last line of the traceback, which is indented.
        _, *below = re.split(r"^ +.*\n", text.strip(), flags=re.MULTILINE)
        text = below[-1] if below else text
    return " ".join(text.split())[:1000] or type(error).__name__
