"""Bearer tokens. Only a token's SHA-256 is kept, because deployment arguments show in dashboards and logs."""

import hashlib
import hmac


def hash_token(token: str) -> str:
    """SHA-256 of a token, in hexadecimal.

    >>> hash_token("secret")[:16]
    '2bb80d537b1da3e3'
    """
    return hashlib.sha256(token.encode()).hexdigest()


def token_fits(authorization: str | None, token_sha256: str) -> bool:
    """Whether the value of an ``Authorization`` header carries the token, compared in constant time.

    >>> token_fits("Bearer secret", hash_token("secret")), token_fits("Basic secret", hash_token("secret"))
    (True, False)
    """
    scheme, _, token = (authorization or "").partition(" ")
    # HTTP headers arrive as Latin-1 text; back to the bytes that were sent.
    given = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
    return hmac.compare_digest(given, token_sha256) and scheme.lower() == "bearer"
