"""The graph of RSFP: the stages of its Algorithm 1.

Bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

import hashlib
import os
from functools import partial
from typing import Any

from raypurify.config import INITS, RobustTrainingSettings, Settings
from raypurify.fit import shared
from raypurify.fit.graph import Fit, Graph, Stage, always, part
from raypurify.runtime.stages import StageOutput
from raypurify.storage import Place, resolve
from raypurify.supervision import in_own_latents


def _architecture(fit: Fit) -> dict[str, Any]:
    return fit.settings.network.model_dump() | {"classes": len(fit.classes)}


def _baseline(fit: Fit, folder: Place, prepared: StageOutput) -> dict[str, Any]:
    from raypurify.fit.train import train
    from raypurify.training.start import starting_network

    settings, seed = fit.settings, fit.settings.seed
    start = partial(starting_network, "random", _architecture(fit), seed)
    shape = (prepared.folder, prepared.report["train"], settings.data.image_size)
    return train(folder, *shape, start, settings.baseline, seed)


def _own_latents(settings: Settings) -> bool:
    return in_own_latents(settings.clusters.latents, settings.robust.semantic, settings.robust.alpha)


def _clusters_depend(settings: Settings) -> dict[str, Any]:
    # How large a block is decides where the work is done, whose latents a bundle has which clusters it takes.
    return {"clusters": part(settings.clusters, "block_mb", "latents")}


def _clusters(fit: Fit, folder: Place, latents: StageOutput, known: StageOutput | None = None) -> dict[str, Any]:
    from raypurify.fit.clustering import cluster

    settings, rows = fit.settings, fit.source.rows
    arguments = (folder, latents.folder, fit.classes, rows, settings.clusters, settings.seed)
    return cluster(*arguments, known.folder if known else None)


def _robust(name: str, before: str) -> Stage:
    """A robust training by the settings of its name, which may start from the network of the stage ``before``."""

    def chosen(settings: Settings) -> RobustTrainingSettings:
        return getattr(settings, name)

    def depends(settings: Settings) -> dict[str, Any]:
        how = chosen(settings)
        return {"network": part(settings.network), "robust": part(how), **start_digest(how.init)}

    def body(
        fit: Fit, folder: Place, prepared: StageOutput, first: StageOutput, clusters: StageOutput
    ) -> dict[str, Any]:
        from raypurify.fit.train import NETWORK, train
        from raypurify.training.start import starting_network

        how, seed = chosen(fit.settings), fit.settings.seed
        # Workers have a working directory of their own.
        named = how.init in INITS or "://" in how.init
        init = how.init if named else os.path.abspath(os.path.expanduser(how.init))
        start = partial(starting_network, init, _architecture(fit), seed, first.folder / NETWORK)
        shape = (prepared.folder, prepared.report["train"], fit.settings.data.image_size)
        return train(folder, *shape, start, how, seed, clusters=clusters.folder)

    return Stage(name, ("prepare", before, "clusters"), depends, body, chosen if name == "robust_first" else always)


def start_digest(init: str) -> dict[str, str]:
    """The digest of the network that robust training starts from, where it is a file of its own."""
    if init in INITS or (file := resolve(os.path.expanduser(init))).kind != "file":
        return {}
    return {"start": hashlib.sha256(file.read()).hexdigest()}


def _calibrate(
    fit: Fit,
    folder: Place,
    prepared: StageOutput,
    baseline: StageOutput,
    clusters: StageOutput,
    dictionaries: StageOutput,
    robust: StageOutput,
) -> dict[str, Any]:
    from raypurify.clusters.files import load_clusters
    from raypurify.fit.calibrate import write_bundle
    from raypurify.fit.dictionaries import load_dictionaries
    from raypurify.fit.train import NETWORK

    sizes = {name: clusters.report[name] for name in ("clusters", "smallest")}
    trained = {name: fit.done[name].report for name in ("baseline", "robust_first", "robust") if name in fit.done}
    about = shared.learned_from(fit, dictionaries.report["source"]) | {
        "cluster_class": clusters.report["cluster_class"],
        "training": trained | {"cluster_sizes": sizes},
    }
    return shared.in_a_task(
        write_bundle,
        folder,
        prepared.folder,
        baseline.folder / NETWORK,
        robust.folder / NETWORK,
        load_clusters(clusters.folder)[0],
        load_dictionaries(dictionaries.folder, dictionaries.report["source"]),
        fit.settings,
        about,
    )


GRAPH: Graph = (
    shared.PREPARE,
    Stage(
        "baseline",
        ("prepare",),
        lambda settings: {"network": part(settings.network), "baseline": part(settings.baseline)},
        _baseline,
    ),
    shared.latents("baseline"),
    Stage("clusters", ("latents",), _clusters_depend, _clusters),
    shared.samples("clusters"),
    shared.dictionaries("clusters"),
    _robust("robust_first", "baseline"),
    _robust("robust", "robust_first|baseline"),
    shared.latents("robust", "robust_latents", _own_latents),
    Stage("robust_clusters", ("robust_latents", "clusters"), _clusters_depend, _clusters, _own_latents),
    Stage(
        "calibrate",
        ("prepare", "baseline", "robust_clusters|clusters", "dictionaries", "robust"),
        shared.calibrate_depends,
        _calibrate,
    ),
)
