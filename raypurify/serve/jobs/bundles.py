"""By which bundle a job was begun, and whether the endpoint serves that one still."""

from raypurify.bundle.manifest import open_bundle
from raypurify.containers.ledger import read_job
from raypurify.errors import BundleError, SinkError
from raypurify.storage import resolve


def another_bundle(output: str, served: str) -> str | None:
    """What a caller is told of a job whose output another bundle has begun than the one that is ``served``; None where
    it can go on, or where something else is the matter, which the job itself will say. Raises OSError."""
    try:
        job, now = read_job(resolve(output)), open_bundle(served).digest
    except (SinkError, BundleError, IsADirectoryError):
        return None
    settings = (job or {}).get("settings")
    begun = settings.get("bundle") if isinstance(settings, dict) else None
    if not isinstance(begun, str) or begun == now:
        return None
    return (
        f"the endpoint has another bundle by now ({now[:16]}…) than the one that began this output ({begun[:16]}…); "
        "post the job again with the option overwrite, which does every image anew, or with another output"
    )
