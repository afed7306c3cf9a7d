"""The Ray Serve application: a FastAPI ingress that checks and decodes, in front of purifier replicas.

``raypurify.serve.app:build`` is the ``import_path`` of a Serve config file; its ``args`` are
:class:`~raypurify.serve.settings.ServeSettings`.
"""

from inspect import signature
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from raypurify.serve.asgi import Answering
from raypurify.serve.front import Front
from raypurify.serve.gate import MAX_READERS
from raypurify.serve.hops import check_hops
from raypurify.serve.hosts import KnownHosts
from raypurify.serve.http import fail, refuse, refuse_arguments
from raypurify.serve.jobs.deployment import supervised
from raypurify.serve.replica import PurifierReplica
from raypurify.serve.routes import ROUTERS
from raypurify.serve.settings import MAX_INGRESSES, ServeSettings, parse_settings
from raypurify.version import __version__

# Above what the gates of all ingresses let in: Serve itself refuses in plain text.
_NEVER_FULL = 4 * MAX_READERS
# How long a replica too many is kept: starting one takes a while.
_DOWN_S = 600
# How often Serve looks whether a replica lives.
_HEALTH_S = 2
# Replicas of a new bundle that start beside the old ones, in percent of these and one at least: an old one goes when a
# new one has solved its known image.
_SURGE = 25


def api() -> FastAPI:
    """The HTTP side of an ingress: every route, and errors in one form."""
    app = FastAPI(
        title="raypurify",
        version=__version__,
        description="Removes adversarial perturbations from images. Send an image, get the purified image.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, refuse)  # type: ignore[arg-type]  # it is called with these alone
    app.add_exception_handler(RequestValidationError, refuse_arguments)  # type: ignore[arg-type]  # likewise
    app.add_exception_handler(Exception, fail)
    app.add_middleware(KnownHosts)
    # Around all else, as it was added last.
    app.add_middleware(Answering)
    for router in ROUTERS:
        app.include_router(router)
    return app


# Requests are in the log of Serve's proxy.
@serve.deployment(logging_config={"enable_access_log": False})
@serve.ingress(api)
class Ingress:
    """The ingress: what answers HTTP, by the routes of :mod:`raypurify.serve.routes`."""

    def __init__(self, purifier: DeploymentHandle, settings: ServeSettings, jobs: DeploymentHandle | None = None):
        self.front = Front(purifier, settings, jobs)

    async def end(self) -> int:
        """Take in nothing more; how many callers still wait for their answer."""
        self.front.gate.end()
        return self.front.gate.inside


def build(args: dict[str, Any]) -> serve.Application:
    """The application for ``serve.run`` or a Serve config file.

    Raises ConfigError for settings that are wrong or say nothing about who may call, and for a bundle whose images are
    not for all; BundleError for the bundle.
    """
    from raypurify.methods import opened_for_all

    settings: ServeSettings = parse_settings(args)
    check_hops()
    # Its files are looked at by replicas, which try again: they may be on their way.
    opened_for_all(settings.bundle)
    ends: dict[str, Any] = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": settings.timeout_s}
    if "max_surge_percent" in signature(serve.Deployment.options).parameters:  # as of Ray 2.60
        ends["max_surge_percent"] = _SURGE
    purifier = PurifierReplica.options(  # type: ignore[attr-defined]  # a deployment, which Ray types as the class
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "policy": {"policy_function": "raypurify.serve.scaling:by_work"},
            "upscale_delay_s": 5,
            "downscale_delay_s": _DOWN_S,
            "look_back_period_s": 15,
        },
        health_check_period_s=_HEALTH_S,
        max_ongoing_requests=_NEVER_FULL,
        max_queued_requests=-1,
        **ends,
    ).bind(
        settings.bundle,
        settings.device,
        max(1, int(settings.num_cpus)),
        settings.batch,
        settings.max_waiting_pixels,
    )
    return Ingress.options(  # type: ignore[attr-defined]  # likewise
        ray_actor_options={"num_cpus": 0.1},
        autoscaling_config={
            "min_replicas": settings.min_ingresses,
            "max_replicas": MAX_INGRESSES,
            "target_ongoing_requests": max(1, settings.max_queued_requests // 2),
        },
        max_ongoing_requests=_NEVER_FULL,
        max_queued_requests=-1,
        **ends,
    ).bind(purifier, settings, supervised(settings))
