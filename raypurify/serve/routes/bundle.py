"""``GET /v1/bundle``: what is served, its clusters and what it holds of clean distances; the atoms as pictures."""

import hashlib
import io
import logging
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from PIL import Image
from pydantic import BaseModel, Field

from raypurify.bundle.atoms import read_atoms
from raypurify.bundle.manifest import Manifest
from raypurify.errors import BundleError
from raypurify.methods import opened
from raypurify.pictures import mosaic
from raypurify.serve.caching import kept
from raypurify.serve.front import Front, caller, front
from raypurify.serve.http import Refusal
from raypurify.serve.openapi import refusal

router = APIRouter(prefix="/v1/bundle", dependencies=[Depends(caller)])
_LOG = logging.getLogger("ray.serve")


class Cluster(BaseModel):
    """One cluster: its number, its class, null where it is of none, and whose dictionary it has (a cluster's number,
    "own" or "global")."""

    cluster: int
    name: str | None = Field(serialization_alias="class")
    dictionary: str


class Atoms(BaseModel):
    """The dictionary of each cluster: so many atoms, of so many pixels."""

    count: int
    height: int
    width: int


class Distances(BaseModel):
    """What the bundle holds of distances: above ``threshold``, the ``quantile`` of those of clean validation
    ``images``, an image is flagged. ``quantiles`` are the curve of theirs, from the least to the greatest at equal
    steps of their number, empty where the bundle does not keep it. Means of clean and of attacked ones are null where
    they were not measured."""

    threshold: float
    quantile: float
    images: int
    quantiles: tuple[float, ...]
    mean: float | None
    attacked_mean: float | None


class Meaning(BaseModel):
    """The method of the bundle, and what it says with the ``cluster`` and the ``distance`` of an image."""

    name: str
    cluster: str
    distance: str


class BundleAnswer(BaseModel):
    """What is served."""

    name: str
    digest: str
    method: Meaning
    classes: list[str]
    clusters: list[Cluster]
    atoms: Atoms
    distances: Distances


class _Served(NamedTuple):
    digest: str
    facts: bytes
    atoms: np.ndarray


def _answers(text: str, content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    etag = {"ETag": {"description": "names this version of the bundle", "schema": {"type": "string"}}}
    return {
        200: {"description": text, "headers": etag, "content": content},
        304: {"description": "the caller holds it already: If-None-Match names its ETag"},
        401: refusal("no token, or a wrong one"),
        503: refusal("the bundle cannot be read"),
    }


@router.get("", response_model=BundleAnswer, responses=_answers("the bundle", {}))
def bundle(request: Request, front: Annotated[Front, Depends(front)]) -> Response:
    """What is served: the bundle's name, digest and method, its classes, its clusters and its clean distances."""
    served = _read(front)
    # What is told of the same bundle differs between versions of this.
    told = hashlib.sha256(served.facts).hexdigest()[:16]
    return kept(request, served.facts, "application/json", f"{served.digest}-{told}")


@router.get(
    "/clusters/{cluster}/atoms.png",
    response_class=Response,
    responses={
        **_answers("the atoms", {"image/png": {"schema": {"type": "string", "format": "binary"}}}),
        404: refusal("no such cluster"),
    },
)
def atoms(
    request: Request,
    front: Annotated[Front, Depends(front)],
    cluster: Annotated[str, Path(description="the cluster's number, from 0")],
) -> Response:
    """The atoms of a cluster side by side, pixel by pixel, each scaled to its own range around mid-grey."""
    served = _read(front)
    if not (cluster.isascii() and cluster.isdigit() and len(cluster) < 9 and int(cluster) < len(served.atoms)):
        raise Refusal(404, "no-cluster", f"there is no such cluster; name one from 0 to {len(served.atoms) - 1}")
    picture = mosaic(served.atoms[int(cluster)].astype(np.float32))
    return kept(request, _png(picture), "image/png", f"{served.digest}-{int(cluster)}")


def _read(front: Front) -> _Served:
    try:
        return _served(front.settings.bundle)
    except BundleError as error:
        _LOG.exception("the ingress cannot read the bundle")
        raise Refusal(503, "no-bundle", "the ingress cannot read the bundle; the log of the server says why") from error


@lru_cache(1)
def _served(where: str) -> _Served:
    method, folder = opened(where)
    atoms, manifest = read_atoms(folder), folder.manifest
    answer = BundleAnswer(
        name=manifest.name,
        digest=folder.digest,
        method=Meaning(name=method.name, cluster=method.cluster, distance=method.distance),
        classes=manifest.classes,
        clusters=[
            Cluster(cluster=k, name=None if c is None else manifest.classes[c], dictionary=source)
            for k, (c, source) in enumerate(zip(manifest.cluster_class, manifest.dictionary_source))
        ],
        atoms=Atoms(count=atoms.shape[1], height=atoms.shape[3], width=atoms.shape[4]),
        distances=Distances(
            threshold=manifest.calibration.distance_threshold,
            quantile=manifest.calibration.quantile,
            images=manifest.calibration.images,
            quantiles=manifest.calibration.quantiles,
            mean=_mean(manifest, "clean"),
            attacked_mean=_mean(manifest, "attacked"),
        ),
    )
    return _Served(folder.digest, answer.model_dump_json(by_alias=True).encode(), atoms)


def _mean(manifest: Manifest, kind: str) -> float | None:
    measured = manifest.measured.get(kind)
    mean = measured.get("distance_mean") if isinstance(measured, dict) else None
    return float(mean) if isinstance(mean, int | float) else None


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
