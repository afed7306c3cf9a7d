"""The stages that graphs of several methods have: preparing, latents, samples, dictionaries.

Their bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

from collections.abc import Callable
from typing import Any

from raypurify.config import Settings
from raypurify.fit.graph import Fit, Stage, always, part
from raypurify.runtime.stages import StageOutput
from raypurify.storage import Place


def own_size(settings: Settings) -> int | None:
    """The size of the images that dictionaries are learned from, where it is not that of all."""
    size = settings.dictionaries.image_size
    return None if size == settings.data.image_size else size


def _prepare(fit: Fit, folder: Place) -> dict[str, Any]:
    from raypurify.fit.prepare import prepare

    return prepare(folder, fit.source, fit.settings.data, fit.settings.seed)


PREPARE = Stage("prepare", (), lambda settings: {"data": part(settings.data)}, _prepare)


def latents(network: str, name: str = "latents", asked: Callable[[Settings], Any] = always) -> Stage:
    """The stage latents, or one of another name, of the network that the stage ``network`` trains."""
    return Stage(name, ("prepare", network), lambda settings: {}, _latents, asked)


def _latents(fit: Fit, folder: Place, prepared: StageOutput, trained: StageOutput) -> dict[str, Any]:
    from raypurify.fit.latents import extract_latents
    from raypurify.fit.train import NETWORK

    return extract_latents(folder, prepared.folder, trained.folder / NETWORK, fit.settings.data.image_size)


def samples(groups: str) -> Stage:
    """The stage samples: images of every cluster that the stage ``groups`` made, at the size of dictionaries."""
    return Stage("samples", ("prepare", groups), _samples_depend, _samples, asked=own_size)


def _samples_depend(settings: Settings) -> dict[str, Any]:
    images = settings.dictionaries.images
    return {"data": part(settings.data), "image_size": own_size(settings), "images": images}


def _samples(fit: Fit, folder: Place, prepared: StageOutput, groups: StageOutput) -> dict[str, Any]:
    import numpy as np

    from raypurify.clusters.files import load_labels
    from raypurify.fit.prepare import prepare
    from raypurify.fit.samples import choose_samples

    settings, seed = fit.settings, fit.settings.seed
    count = len(groups.report["cluster_class"])
    chosen = choose_samples(load_labels(groups.folder), count, settings.dictionaries.images, seed)
    data = settings.data.model_copy(update={"image_size": own_size(settings)})
    return prepare(folder, fit.source, data, seed, only=np.concatenate(chosen))


def dictionaries(groups: str) -> Stage:
    """The stage dictionaries: atoms for every cluster that the stage ``groups`` made."""
    return Stage("dictionaries", ("samples|prepare", groups), _dictionaries_depend, _dictionaries)


def _dictionaries_depend(settings: Settings) -> dict[str, Any]:
    return {
        "csc": {name: getattr(settings.csc, name) for name in ("lmbda", "tikhonov", "pad")},
        # The number of actors changes how fast the dictionaries come, not what they are.
        "dictionaries": part(settings.dictionaries, "actors", "image_size"),
    }


def _dictionaries(fit: Fit, folder: Place, pictures: StageOutput, groups: StageOutput) -> dict[str, Any]:
    from raypurify.clusters.files import load_labels
    from raypurify.fit.dictionaries import learn_dictionaries

    settings = fit.settings
    return learn_dictionaries(
        folder,
        pictures.folder,
        load_labels(groups.folder),
        groups.report["cluster_class"],
        own_size(settings) or settings.data.image_size,
        settings.csc,
        settings.dictionaries,
        settings.seed,
    )


def learned_from(fit: Fit, dictionary_source: list[str]) -> dict[str, Any]:
    """What a bundle says of itself, of any method: name, settings, classes, whose dictionary each cluster has, data."""
    prepared = fit.done["prepare"].report
    return {
        "method": fit.settings.method,
        "name": fit.settings.name,
        "settings": fit.settings,
        "classes": fit.classes,
        "dictionary_source": dictionary_source,
        "training_data": {
            "digest": fit.source.digest,
            **{name: prepared[name] for name in ("train", "validation", "failed")},
        },
    }


def calibrate_depends(settings: Settings) -> dict[str, Any]:
    """The settings that decide what the stage calibrate writes, of methods that code high parts."""
    return {"csc": part(settings.csc)} | calibrated_by(settings)


def calibrated_by(settings: Settings) -> dict[str, Any]:
    """The settings that decide what the stage calibrate writes, of any method."""
    return {
        "calibration": part(settings.calibration),
        "name": settings.name,
        "note": settings.note,
    }


def in_a_task(function: Any, *arguments: Any) -> dict[str, Any]:
    """The function's report, worked out where there is a GPU or a free core, not in the driver; its last argument is
    the device."""
    import ray

    from raypurify.runtime.resources import cluster_resources

    gpus = min(1, cluster_resources().gpus)
    return ray.get(ray.remote(num_cpus=1, num_gpus=gpus)(function).remote(*arguments, "cuda" if gpus else "cpu"))
