"""The HTTP endpoint: one image in, the purified image out, on Ray Serve."""

from raypurify.serve.settings import ServeSettings

__all__ = ["ServeSettings", "build", "run", "serving"]


def __getattr__(name: str):
    # Ray is imported only by those who serve.
    if name == "build":
        from raypurify.serve.app import build

        return build
    if name in ("run", "serving"):
        from raypurify.serve import local

        return getattr(local, name)
    raise AttributeError(name)
