"""A running application as the purifier of bulk work, from inside the same Ray cluster."""

import time
from typing import Any

import numpy as np

from raypurify.errors import BundleError, ConfigError
from raypurify.serve.local import APP

_TRIES, _PAUSE_S = 5, 2.0


def check_endpoint(digest: str) -> None:
    """Check that the application runs on this cluster and serves the bundle of this digest.

    Raises ConfigError where it does not run, BundleError where it serves another bundle.
    """
    from ray import serve

    application = serve.status().applications.get(APP)
    if application is None or application.status != "RUNNING":
        state = "no application" if application is None else f"an application in state {application.status}, named"
        raise ConfigError(
            f"this Ray cluster runs {state} {APP!r}; deploy it first (deploy/serve.yaml), join the cluster it "
            "runs on with --address, or use --engine actors"
        )
    served = _handle().digest.remote().result()
    if served != digest:
        raise BundleError(f"the endpoint serves the bundle {served[:16]}…, not {digest[:16]}…; name the same one")


def purify_there(images: list[np.ndarray]) -> list:  # type: ignore[return]  # the last try returns or raises
    """Purify uint8 (H, W, 3) images in a replica, with the results of :func:`raypurify.purifiers.batch.purify_pixels`.

    A replica that dies over them is replaced by Serve, and asked again.
    """
    from ray.exceptions import RayActorError

    for attempt in range(1, _TRIES + 1):
        try:
            return _handle().purify_all.remote(images).result()
        except RayActorError:
            if attempt == _TRIES:
                raise
            time.sleep(_PAUSE_S)


def _handle() -> Any:
    from ray import serve

    return serve.get_deployment_handle("Purifier", APP)
