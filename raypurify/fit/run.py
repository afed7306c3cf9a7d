"""Fit: the stages of RSFP's Algorithm 1 in order, each skipped, resumed or run by its fingerprint."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from raypurify.config import INITS, Settings
from raypurify.errors import BundleError, ConfigError
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.stages import StageOutput, open_run, run_stage
from raypurify.storage import Place, Where, resolve

if TYPE_CHECKING:
    from raypurify.containers.source import Source

STAGES = (
    "prepare",
    "baseline",
    "latents",
    "clusters",
    "samples",
    "dictionaries",
    "robust_first",
    "robust",
    "calibrate",
)
# Stages that only some settings ask for.
OPTIONAL = ("samples", "robust_first")


def fit(
    data: list[str],
    settings: Settings,
    run_dir: Where,
    address: str | None = None,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    kind: str | None = None,
    follow_links: bool = False,
    image_member: str | None = None,
    until: str | None = None,
) -> Place:
    """Learn a bundle from clean labelled images and return its folder, ``run_dir/bundle``.

    Runs on the Ray cluster there is (see ``session``), or starts one on this machine. Call it again with the same
    arguments after any interruption: complete stages are skipped, the rest goes on. ``run_dir`` is a folder or a URI
    (``s3://…``, ``gs://…``); on several machines one that all of them reach. ``image_column``, ``id_column`` and
    ``label_column`` are those of Parquet files, ``image_member`` names the images of tars; where they are not given,
    they are found
    (:func:`raypurify.containers.source.open_source`, which says what ``kind`` and ``follow_links`` do). With ``until``,
    the name of a stage, the fit ends after it, and the stage's folder is returned.

    Raises ConfigError, SourceError, DataError, TrainingError or SinkError with what to do about it.
    """
    from raypurify.containers.source import open_source
    from raypurify.runtime.session import ray_session

    asked = {"samples": _own_size(settings), "robust_first": settings.robust_first}
    stages = [name for name in STAGES if asked.get(name, True)]
    if until not in {None, *stages}:
        raise ConfigError(f"there is no stage {until}; use one of {', '.join(stages)}")
    source = open_source(
        data,
        image_column=image_column,
        id_column=id_column,
        label_column=label_column,
        image_member=image_member,
        kind=kind,
        follow_links=follow_links,
    )
    with open_run(run_dir) as folder, ray_session(address):
        for done in _stages(folder, source, settings):
            if done.folder.name == until:
                return done.folder
        _publish(done.folder / "bundle", folder / "bundle")
    return folder / "bundle"


def _stages(run_dir: Place, source: "Source", settings: Settings) -> Iterator[StageOutput]:
    # Imported late: they load torch and Ray, which ``--help`` and a wrong path should not wait for.
    import numpy as np

    from raypurify.clusters.files import load_clusters
    from raypurify.fit.clustering import cluster
    from raypurify.fit.dictionaries import learn_dictionaries, load_dictionaries
    from raypurify.fit.latents import extract_latents
    from raypurify.fit.prepare import prepare
    from raypurify.fit.samples import choose_samples
    from raypurify.fit.train import NETWORK, train
    from raypurify.training.start import starting_network

    seed, side = settings.seed, settings.data.image_size

    def stage(name: str, depends: dict[str, Any], inputs: tuple[StageOutput, ...], body: Callable) -> StageOutput:
        marks = tuple(done.fingerprint for done in inputs) or (source.digest,)
        return run_stage(run_dir, name, {"seed": seed} | depends, marks, body)

    part = {
        name: getattr(settings, name).model_dump(exclude={"checkpoint_steps"})
        for name in type(settings).model_fields
        if name not in ("name", "note", "seed") and getattr(settings, name) is not None
    }
    prepared = stage("prepare", {"data": part["data"]}, (), lambda folder: prepare(folder, source, settings.data, seed))
    yield prepared
    classes, rows = prepared.report["classes"], prepared.report["train"]
    shape = (prepared.folder, rows, side)
    architecture = settings.network.model_dump() | {"classes": len(classes)}
    baseline = stage(
        "baseline",
        {"network": part["network"], "baseline": part["baseline"]},
        (prepared,),
        lambda folder: train(
            folder, *shape, partial(starting_network, "random", architecture, seed), settings.baseline, seed
        ),
    )
    yield baseline
    latents = stage(
        "latents",
        {},
        (prepared, baseline),
        lambda folder: extract_latents(folder, prepared.folder, baseline.folder / NETWORK, side),
    )
    yield latents
    # How large a block is decides where the work is done, not what comes of it.
    clusters = stage(
        "clusters",
        {"clusters": {k: v for k, v in part["clusters"].items() if k != "block_mb"}},
        (latents,),
        lambda folder: cluster(folder, latents.folder, classes, source.rows, settings.clusters, seed),
    )
    yield clusters
    cluster_class = clusters.report["cluster_class"]
    distributions, cluster_of_row = load_clusters(clusters.folder)
    # What dictionaries are learned from: the prepared images, or some of the source's at a size of their own.
    pictures, large = prepared, _own_size(settings)
    if large:
        chosen = choose_samples(cluster_of_row, len(cluster_class), settings.dictionaries.images, seed)
        pictures = stage(
            "samples",
            {"data": part["data"], "image_size": large, "images": settings.dictionaries.images},
            (prepared, clusters),
            lambda folder: prepare(
                folder,
                source,
                settings.data.model_copy(update={"image_size": large}),
                seed,
                only=np.concatenate(chosen),
            ),
        )
        yield pictures
    # The number of actors changes how fast the dictionaries come, not what they are.
    dictionaries = stage(
        "dictionaries",
        {
            "csc": {k: part["csc"][k] for k in ("lmbda", "tikhonov", "pad")},
            "dictionaries": {k: v for k, v in part["dictionaries"].items() if k not in ("actors", "image_size")},
        },
        (pictures, clusters),
        lambda folder: learn_dictionaries(
            folder,
            pictures.folder,
            cluster_of_row,
            cluster_class,
            large or side,
            settings.csc,
            settings.dictionaries,
            seed,
        ),
    )

    yield dictionaries

    def robust_stage(name: str, before: StageOutput) -> StageOutput:
        chosen = getattr(settings, name)
        # Workers have a working directory of their own.
        named = chosen.init in INITS or "://" in chosen.init
        init = chosen.init if named else os.path.abspath(os.path.expanduser(chosen.init))
        start = partial(starting_network, init, architecture, seed, before.folder / NETWORK)
        return stage(
            name,
            {"network": part["network"], "robust": part[name], **_start(chosen.init)},
            (prepared, before, clusters),
            lambda folder: train(folder, *shape, start, chosen, seed, clusters=clusters.folder),
        )

    first = robust_stage("robust_first", baseline) if settings.robust_first else None
    if first:
        yield first
    robust = robust_stage("robust", first or baseline)
    yield robust
    about = {
        "method": settings.method,
        "name": settings.name,
        "settings": settings,
        "classes": classes,
        "cluster_class": cluster_class,
        "dictionary_source": dictionaries.report["source"],
        "training_data": {
            "digest": source.digest,
            **{k: prepared.report[k] for k in ("train", "validation", "failed")},
        },
        "training": {
            "baseline": baseline.report,
            **({"robust_first": first.report} if first else {}),
            "robust": robust.report,
            "cluster_sizes": {"clusters": clusters.report["clusters"], "smallest": clusters.report["smallest"]},
        },
    }
    yield stage(
        "calibrate",
        {"csc": part["csc"], "calibration": part["calibration"], "name": settings.name, "note": settings.note},
        (prepared, baseline, clusters, dictionaries, robust),
        lambda folder: _calibrate(
            folder,
            prepared.folder,
            baseline.folder / NETWORK,
            robust.folder / NETWORK,
            distributions,
            load_dictionaries(dictionaries.folder, dictionaries.report["source"]),
            settings,
            about,
        ),
    )


def _own_size(settings: Settings) -> int | None:
    """The size of the images that dictionaries are learned from, where it is not that of all."""
    size = settings.dictionaries.image_size
    return None if size == settings.data.image_size else size


def _start(init: str) -> dict[str, str]:
    """The digest of the network that robust training starts from, where it is a file of its own."""
    if init in INITS or (file := resolve(os.path.expanduser(init))).kind != "file":
        return {}
    return {"start": hashlib.sha256(file.read()).hexdigest()}


def _calibrate(*arguments: Any) -> dict[str, Any]:
    """Measured where there is a GPU or a free core, not in the driver."""
    import ray

    from raypurify.fit.calibrate import write_bundle

    gpus = min(1, cluster_resources().gpus)
    return ray.get(ray.remote(num_cpus=1, num_gpus=gpus)(write_bundle).remote(*arguments, "cuda" if gpus else "cpu"))


def _publish(made: Place, bundle: Place) -> None:
    """Copy the finished bundle to where people look for it; a folder with a manifest is whole."""
    from raypurify.bundle.manifest import MANIFEST, open_bundle

    whole = open_bundle(made)
    try:
        if open_bundle(bundle).digest == whole.digest:
            return
    except BundleError:
        pass
    (bundle / MANIFEST).delete()
    for name in (*whole.manifest.files, MANIFEST):
        (bundle / name).write((made / name).read())
