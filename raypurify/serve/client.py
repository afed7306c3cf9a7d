"""A running application as the purifier of bulk work, from inside the same Ray cluster."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from raypurify.errors import BundleError, ConfigError
from raypurify.purifiers.batch import size_groups
from raypurify.serve.lanes import Full
from raypurify.serve.local import APP

# Calls of one job actor that are under way.
IN_FLIGHT = 4
_TRIES, _PAUSE_S = 5, 5.0


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


def purify_there(images: list[np.ndarray], heard: Callable[[], None] = lambda: None) -> list:
    """Purify uint8 (H, W, 3) images in the replicas, with the results of ``purifiers.batch.purify_pixels``.

    What that purifies together is one call, so that the bytes are the same. A replica takes a call beside the one that
    it works on, and refuses the next, so that whichever is free first gets it; it fetches the images when their turn
    comes. A replica that dies over a call is replaced by Serve, and another one is asked. ``heard`` is called whenever
    a replica has answered, be it with a refusal.
    """
    import ray
    from ray.exceptions import RayActorError

    results: list = [None] * len(images)
    groups, handle = size_groups(images), _handle()
    calls: deque[_Call] = deque()
    while True:
        for group in islice(groups, IN_FLIGHT - len(calls)):
            calls.append(_Call(group, ray.put([images[i] for i in group]), _pixels(images, group)))
            calls[-1].ask(handle)
        if not calls:
            return results
        call = calls.popleft()
        try:
            answer = call.response.result()
            heard()
        except RayActorError:
            call.deaths += 1
            if call.deaths == _TRIES:
                raise
            answer = Full(_PAUSE_S)
        if isinstance(answer, Full):
            # Whoever was refused together does not come back together.
            time.sleep(random.uniform(0.1, 0.3) * min(answer.retry_after, _PAUSE_S))
            call.ask(handle)
            calls.append(call)
            continue
        for i, result in zip(call.group, answer):
            results[i] = result


@dataclass
class _Call:
    group: list[int]
    images: Any  # a reference, which replicas resolve when they begin
    pixels: int
    deaths: int = 0
    response: Any = None

    def ask(self, handle: Any) -> None:
        # In a list it travels as a reference.
        self.response = handle.purify_all.remote([self.images], self.pixels)


def _pixels(images: list[np.ndarray], group: list[int]) -> int:
    return sum(images[i].shape[0] * images[i].shape[1] for i in group)


def _handle() -> Any:
    from ray import serve

    return serve.get_deployment_handle("Purifier", APP)
