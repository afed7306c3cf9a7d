"""A running application as the purifier of bulk work, from inside the same Ray cluster."""

import random
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from raypurify.errors import BundleError, ConfigError, RaypurifyError
from raypurify.purifiers.batch import size_groups
from raypurify.runtime.poison import BLAMED, LIVES, poisonous
from raypurify.serve.lanes import Full
from raypurify.serve.local import APP

# Calls of one job actor that are under way.
IN_FLIGHT = 4
_PAUSE_S = 5.0
# How long an application that is being deployed, maybe anew, is waited for.
_DEPLOYS_S = 60.0


def check_endpoint(digest: str) -> None:
    """Check that the application runs on this cluster and serves the bundle of this digest.

    Raises ConfigError where it does not run, BundleError where it serves another bundle.
    """
    from ray import serve

    until = time.monotonic() + _DEPLOYS_S
    application = serve.status().applications.get(APP)
    while application and application.status == "DEPLOYING" and time.monotonic() < until:
        time.sleep(0.5)
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


def purify_there(images: list[np.ndarray], heard: Callable[[], None] = lambda: None, digest: str | None = None) -> list:
    """Purify uint8 (H, W, 3) images in the replicas, with the results of ``purifiers.batch.purify_pixels``.

    What that purifies together is one call, so that the bytes are the same. A replica takes a call beside the one that
    it works on, and refuses the next, so that whichever is free first gets it; it fetches the images when their turn
    comes. A replica that dies over a call is replaced by Serve, and another one is asked. ``heard`` is called whenever
    a replica has answered, be it with a refusal, or died.

    After two deaths over a call each of its images is asked for alone, with nothing else of this caller under way, and
    one over which two more replicas die gets an ImageError. The others are then purified together, because alone they
    could come out with other roundings. Raises RaypurifyError where replicas go on dying and no image is to blame, and
    BundleError where one answers by another bundle than that of ``digest``.
    """
    results: list = [None] * len(images)
    groups, handle = size_groups(images), _handle()
    calls: deque[_Call] = deque()
    suspects: deque[_Call] = deque()

    def ask(group: list[int], cleared: bool = False) -> _Call:
        return _Call(images, group, handle, heard, cleared)

    while True:
        calls.extend(ask(group) for group in islice(groups, IN_FLIGHT - len(calls)))
        if not calls:
            if not suspects:
                return results
            call = suspects.popleft()
            killers = [i for i in call.group if ask([i]).kills()]
            for i in killers:
                results[i] = poisonous()
            others = [i for i in call.group if i not in killers]
            if others:
                calls.append(ask(others, cleared=True))
            continue
        call = calls.popleft()
        answer = call.answer()
        if answer is not None:
            _check_bundle(answer, digest)
            for i, result in zip(call.group, answer):
                results[i] = result
        elif call.deaths == BLAMED and not call.cleared:
            suspects.append(call)
        else:
            call.ask()
            calls.append(call)


class _Call:
    """Images that one replica is asked for together, how many replicas died over them, and whether each is cleared of
    these deaths because it was purified alone."""

    def __init__(
        self, images: list[np.ndarray], group: list[int], handle: Any, heard: Callable[[], None], cleared: bool
    ) -> None:
        import ray

        self.group, self.cleared, self.deaths = group, cleared, 0
        self._handle, self._heard = handle, heard
        # A reference, which replicas resolve when they begin.
        self._images = ray.put([images[i] for i in group])
        self._pixels = sum(images[i].shape[0] * images[i].shape[1] for i in group)
        self.ask()

    def ask(self) -> None:
        # In a list it travels as a reference.
        self._response = self._handle.purify_all.remote([self._images], self._pixels)

    def answer(self) -> list | None:
        """The results, or after a pause None where it was refused or the replica died, and it is to be asked again."""
        from ray.exceptions import RayActorError

        try:
            answer = self._response.result()
        except RayActorError as error:
            self.deaths += 1
            if self.cleared and self.deaths == LIVES:
                raise RaypurifyError(
                    f"replicas of the endpoint died {LIVES} times over images together, and no image of them "
                    "alone is to blame; if memory ran out, give each replica more of it (deploy/serve.yaml)"
                ) from error
            answer = Full(_PAUSE_S)
        self._heard()
        if not isinstance(answer, Full):
            return answer
        # Whoever was refused together does not come back together.
        time.sleep(random.uniform(0.1, 0.3) * min(answer.retry_after, _PAUSE_S))
        return None

    def kills(self) -> bool:
        """Wait for the answer; whether as many replicas died over it as it takes to blame it."""
        while self.answer() is None:
            if self.deaths == BLAMED:
                return True
            self.ask()
        return False


def _check_bundle(answer: list, digest: str | None) -> None:
    for result in answer:
        if digest and not isinstance(result, Exception) and result[1]["bundle"] != digest:
            raise BundleError(
                f"the endpoint was given another bundle during this job, {result[1]['bundle'][:16]}…; deploy "
                f"{digest[:16]}… again and run the job again, which goes on from here, or use --engine actors"
            )


def _handle() -> Any:
    from ray import serve

    # Images of a job stay in the object store until a replica begins; gRPC would carry them in the request.
    return serve.get_deployment_handle("Purifier", APP).options(_by_reference=True)
