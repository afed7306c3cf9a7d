"""The deployment that does jobs: one replica, whose supervisor starts a process for each job at work.

Serve replaces the replica when it dies, and a head that comes back deploys it again; it then reads the records and goes
on. A driver outlives its replica by half a minute at most, and the lease of the output keeps the next one waiting.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ray import serve

from raypurify.serve.jobs.bundles import another_bundle
from raypurify.serve.jobs.driver import Driver
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.registry import Record, Registry
from raypurify.serve.jobs.request import arguments, bounded, parse_request
from raypurify.serve.jobs.supervisor import Supervisor
from raypurify.serve.limits import Callers
from raypurify.serve.settings import ServeSettings

# A supervisor that looks at nothing for so long hangs, be it at a disk that does not answer, and is replaced.
_HANGS_S = 900.0
# Time for interrupted jobs to stop.
_ENDS_S = 40.0
_NEVER_FULL = 1000


@serve.deployment(name="Jobs")
class Jobs:
    """The supervisor of the jobs below the roots of an endpoint, for its ingresses."""

    def __init__(self, settings: ServeSettings):
        from ray import get_runtime_context

        self.settings, self.address = settings, get_runtime_context().gcs_address
        self.application = serve.get_replica_context().app_name
        registry = Registry(settings.job_roots)
        self.supervisor = Supervisor(
            registry,
            self._start,
            self._hindered,
            self._hopeless,
            at_once=settings.jobs_at_once,
            owners=Callers(settings).owners,
        )
        # Who calls as soon as this replica runs finds the records read.
        self.supervisor.tick()
        self._thread = threading.Thread(target=self.supervisor.run, name="jobs", daemon=True)
        self._thread.start()

    async def post(self, owner: str, body: bytes, most: int, max_pixels: Mapping[str, int | None]) -> Any:
        """Take in the job that a body asks for, of a caller whose images have at most the ``max_pixels`` of an engine:
        its view, or a Refused."""
        return await _answer(lambda: self.supervisor.post(owner, bounded(parse_request(body), max_pixels), most))

    async def jobs(self, owner: str) -> Any:
        """The views of a caller's jobs, or a Refused."""
        return await _answer(partial(self.supervisor.jobs, owner))

    async def job(self, owner: str, id: str) -> Any:
        """The view of a job, or a Refused."""
        return await _answer(partial(self.supervisor.job, owner, id))

    async def cancel(self, owner: str, id: str) -> Any:
        """End or forget a job: its view, or a Refused."""
        return await _answer(partial(self.supervisor.cancel, owner, id))

    async def check_health(self) -> None:
        """Raises RuntimeError where nobody sees to the jobs any more, so that Serve replaces this replica."""
        if not self._thread.is_alive() or time.monotonic() - self.supervisor.ticked > _HANGS_S:
            raise RuntimeError("nobody sees to the jobs")

    def __del__(self) -> None:
        # Serve calls it when the replica is to end.
        if hasattr(self, "supervisor"):
            self.supervisor.close()

    def _start(self, record: Record, overwrite: bool) -> Driver:
        request = record.request
        words = arguments(request, bundle=self.settings.bundle, address=self.address, overwrite=overwrite)
        return Driver(words, request.input, request.output, self.settings.job_roots)

    def _hindered(self, record: Record) -> str | None:
        if record.request.options.engine != "serve":
            return None
        application = serve.status().applications.get(self.application)
        if application is None or application.status != "RUNNING":
            return f"the endpoint is {application.status if application else 'not there'}, and is waited for"
        return None

    def _hopeless(self, record: Record) -> str | None:
        return another_bundle(record.request.output, self.settings.bundle)


def supervised(settings: ServeSettings) -> serve.Application | None:
    """The deployment for an application, None where there are no jobs."""
    if not settings.job_roots:
        return None
    return Jobs.options(  # type: ignore[attr-defined]  # a deployment, which Ray types as the class
        num_replicas=1,
        # As good as none, but not on a node that is kept free of replicas, whose memory is not for drivers.
        ray_actor_options={"num_cpus": 0.01},
        max_ongoing_requests=_NEVER_FULL,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=_ENDS_S,
    ).bind(settings)


async def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(ask)
    except Refused as error:  # as a value: Ray would wrap what is raised
        return error
