"""Bearer tokens. Only a token's SHA-256 is kept, because deployment arguments show in dashboards and logs."""

import hashlib
import hmac
from collections.abc import Sequence

from raypurify.errors import ConfigError


def hash_token(token: str) -> str:
    """SHA-256 of a token, in hexadecimal.

    >>> hash_token("secret")[:16]
    '2bb80d537b1da3e3'
    """
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(token: str) -> str:
    """The token, if callers can send it. Raises ConfigError for an empty one, and for other than printable ASCII."""
    if not token.strip():
        raise ConfigError("the token is empty; give a long random one, e.g. the output of `openssl rand -hex 16`")
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise ConfigError(
            "the token holds characters that HTTP clients cannot send in a header; give printable ASCII without "
            "spaces around it, e.g. the output of `openssl rand -hex 16`"
        )
    return token


def token_fits(authorization: str | None, digests: Sequence[str]) -> str | None:
    """The digest of the token that the value of an ``Authorization`` header carries, None where it is none of them;
    takes equally long for any.

    >>> token_fits("Bearer secret", [hash_token("secret")]) == hash_token("secret")
    True
    >>> token_fits("Basic secret", [hash_token("secret")])
    """
    scheme, _, token = (authorization or "").partition(" ")
    # HTTP headers arrive as Latin-1 text; back to the bytes that were sent.
    given = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
    fits = [hmac.compare_digest(given, digest) for digest in digests]
    return given if any(fits) and scheme.lower() == "bearer" else None
