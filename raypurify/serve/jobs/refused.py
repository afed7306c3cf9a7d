"""The refusal of what a caller asks of jobs, which travels from the supervisor to the ingress."""

from raypurify.errors import RaypurifyError


class Refused(RaypurifyError):
    """Refusal of what was asked: an HTTP status, a short stable slug, a message for people, and the seconds after which
    it may be asked again, where that helps."""

    def __init__(self, status: int, error: str, message: str, retry_s: float | None = None):
        super().__init__(message)
        self.status, self.error, self.retry_s = status, error, retry_s

    def __reduce__(self) -> tuple:
        return type(self), (self.status, self.error, str(self), self.retry_s)
