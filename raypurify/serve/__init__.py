"""The HTTP endpoint: one image in, the purified image out, on Ray Serve.

    request ─► Ingress (token, gate, decoding) ─► PurifierReplica (lanes) ─► Ingress (encoding) ─► PNG, X-Raypurify-*

``app`` is the ingress and the Serve application, ``routes`` its calls, ``front`` what these share, ``many`` several
images of one request, ``replica`` what owns a purifier and ``known`` how it proves that it is right, ``client`` the way
in for a bulk job of the same cluster, ``jobs`` the data sets that callers post, ``metrics`` what is counted. Without
Ray: ``lanes`` in which images wait, the ``gate`` that counts who is let in, ``limits`` of each caller, ``http`` for
bodies and errors and ``asgi`` around it, ``accept``, ``deadline``, ``parts`` of an answer of several images,
``tensors`` of the Open Inference Protocol, ``auth`` for tokens, ``openapi`` and ``openapi_v2`` for the page,
``scaling`` for the number of replicas, ``hops`` for how its parts ask each other. ``settings`` is what a Serve config
file or ``raypurify serve`` may say; ``local`` serves from this process. Whatever goes wrong with one image is a
:class:`~raypurify.serve.http.Refusal`, answered as JSON.

**To add a call:** a module of ``routes``. **To add a setting:** a field of ``ServeSettings``, and its use in
``app.build``. **To add a reason to refuse:** its status in ``http.STATUS``.
"""

from typing import Any

from raypurify.serve.settings import ServeSettings

__all__ = ["ServeSettings", "build", "run", "serving"]


def __getattr__(name: str) -> Any:
    # Ray is imported only by those who serve.
    if name == "build":
        from raypurify.serve.app import build

        return build
    if name in ("run", "serving"):
        from raypurify.serve import local

        return getattr(local, name)
    raise AttributeError(name)
