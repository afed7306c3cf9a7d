"""Who calls, and how much of the endpoint each caller may have, without Ray.

A rate is counted at each ingress by itself: with as many as there may be under load, a caller who meets all of them
gets so many times as much. Sharing the count would cost every image a call to another process.
"""

import hashlib
import time
from collections.abc import Callable

from raypurify.serve.gate import retry_after
from raypurify.serve.http import Refusal
from raypurify.serve.settings import Limits, ServeSettings

# Of an endpoint that asks nobody for a token.
ANYONE = "anyone"


class Bucket:
    """A token bucket: ``per_s`` come in a second, up to ``most``."""

    def __init__(self, per_s: float, most: float, clock: Callable[[], float] = time.monotonic):
        self.per_s, self.most, self._clock = per_s, most, clock
        self._level, self._seen = most, clock()

    def take(self, count: float) -> float:
        """Take ``count``, or nothing, and say in how many seconds there will be enough; 0.0 where it was taken.

        More than the bucket holds is taken when it is full, and owed.

        >>> bucket = Bucket(2, 3, clock=lambda: 0.0)
        >>> bucket.take(2), bucket.take(2), bucket.take(1)
        (0.0, 0.5, 0.0)
        """
        now = self._clock()
        self._level = min(self.most, self._level + self.per_s * (now - self._seen))
        self._seen = now
        short = min(count, self.most) - self._level
        if short > 1e-9:
            return short / self.per_s
        self._level -= count
        return 0.0


class Caller:
    """Who sends a request: a name for its jobs, from which its token cannot be told, and its limits."""

    def __init__(self, digest: str | None, limits: Limits, settings: ServeSettings):
        self.owner = hashlib.sha256(f"owner {digest}".encode()).hexdigest()[:32] if digest else ANYONE
        self.limits = limits
        self.max_bytes = min(limits.max_bytes or settings.max_bytes, settings.max_bytes)
        # A caller's own largest body is that of any call.
        self.max_batch_bytes = min(limits.max_bytes or settings.max_batch_bytes, settings.max_batch_bytes)
        self.max_pixels = min(limits.max_pixels or settings.max_pixels, settings.max_pixels)
        # Of a job's images, by who purifies them: what bounds a replica is nothing to actors of the job's own.
        self.job_pixels = {"serve": self.max_pixels, "actors": limits.max_pixels}
        self._bucket = Bucket(limits.images_per_s, limits.burst) if limits.images_per_s else None

    def charge(self, images: int = 1) -> None:
        """Count so many images. Raises Refusal 429 where they are too many for now."""
        wait = self._bucket.take(images) if self._bucket else 0.0
        if wait:
            message = f"more than {self.limits.images_per_s:g} images a second with this token; slow down"
            raise Refusal(429, "too-fast", message, retry_after(wait))


class Callers:
    """The callers of one ingress, by the digests of their tokens."""

    def __init__(self, settings: ServeSettings):
        default = settings.limits.get("default", Limits())
        digests: list[str | None] = [*settings.token_sha256] or [None]
        self._callers = {
            digest: Caller(digest, settings.limits.get(digest, default) if digest else default, settings)
            for digest in digests
        }

    @property
    def owners(self) -> frozenset[str]:
        """The names of all for their jobs."""
        return frozenset(caller.owner for caller in self._callers.values())

    def of(self, digest: str | None) -> Caller:
        """The caller with a token of this digest, None where no token is asked for."""
        return self._callers[digest]
