"""Retraining of a grid's classifier on what a purifier makes of clean images: STL's mode (Sun et al., section 3.5).

The stages of a run, each skipped, resumed or run by its fingerprint:

    RUN/images        the images of ``retraining``, decoded, split
    RUN/purified      the same as the purifier leaves them
    RUN/classifier    the classifier trained on those, from the weights it had, by Ray Train
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raypurify.config import DataSettings
from raypurify.errors import ConfigError, DataError
from raypurify.evaluation.grid import Grid
from raypurify.evaluation.specs import ClassifierSpec
from raypurify.runtime.stages import open_run, run_stage
from raypurify.storage import Place, Where

if TYPE_CHECKING:
    from torch import nn

STAGES = ("images", "purified", "classifier")


def retrain(grid: Grid, classifier: str, purifier: str, run_dir: Where, *, address: str | None = None) -> Place:
    """Train a classifier of a grid on purified images, and return its weights' file, for ``retrained`` in a grid.

    Call it again with the same arguments after any interruption: it goes on.

    Raises ConfigError for a name the grid does not have, or a grid without ``retraining``; SourceError, DataError,
    TrainingError or SinkError with what to do about it.
    """
    for group, name in (("classifiers", classifier), ("purifiers", purifier)):
        if name not in (known := getattr(grid, group)):
            raise ConfigError(f"{name!r} is none of the {group} of the grid: {', '.join(known)}; name one of these")
    if grid.retraining is None:
        raise ConfigError("the grid has no part retraining: say there which images to train on")
    # Imported late: they load torch and Ray, which ``status`` and a wrong name should not wait for.
    import torch

    from raypurify.evaluation.digests import classifier_code, classifier_digest, purifier_code, purifier_digest
    from raypurify.evaluation.own import made_with
    from raypurify.evaluation.plan import load_own
    from raypurify.evaluation.purified import purify_prepared
    from raypurify.evaluation.subjects import make_classifier, make_purifier
    from raypurify.fit.prepare import prepare
    from raypurify.fit.train import NETWORK, train
    from raypurify.runtime.session import ray_session

    how, seed, own = grid.retraining, grid.seed, load_own(grid)
    spec, defence = _resolved(grid.classifiers[classifier]), grid.purifiers[purifier]
    data = DataSettings(image_size=how.size, validation=how.validation, limit=how.limit)
    outputs = make_classifier(spec)(torch.zeros(1, 3, how.size, how.size)).shape[1]
    source = how.open()
    marks = [purifier_digest(defence), purifier_code(defence)], [classifier_digest(spec)]
    if spec.kind == "python":
        marks[1].append(classifier_code(spec))
    with open_run(run_dir) as run, ray_session(address):
        images = run_stage(
            run,
            "images",
            {"seed": seed, "data": data.model_dump()},
            (source.digest,),
            lambda folder: prepare(folder, source, data, seed),
        )
        if len(classes := images.report["classes"]) > outputs:
            raise DataError(f"{classifier} tells {outputs} classes apart, the images have {len(classes)}")
        purified = run_stage(
            run,
            "purified",
            {"seed": seed, "noise": how.noise, "purifier": purifier},
            (images.fingerprint, *marks[0]),
            lambda folder: purify_prepared(
                folder,
                images.folder,
                how.size,
                partial(made_with, own, make_purifier, purifier, defence),
                how.noise,
                seed,
            ),
        )
        trained = run_stage(
            run,
            "classifier",
            {"seed": seed, "training": how.training.model_dump(exclude={"checkpoint_steps"})},
            (purified.fingerprint, *marks[1]),
            lambda folder: train(
                folder,
                purified.folder,
                purified.report["train"],
                how.size,
                partial(made_with, own, _trainable, spec),
                how.training,
                seed,
            ),
        )
    return trained.folder / NETWORK


def _resolved(spec: ClassifierSpec) -> ClassifierSpec:
    """Workers have a working directory of their own."""
    paths = {name: getattr(spec, name) for name in ("path", "weights", "retrained")}
    settings = spec.settings and {**spec.settings, **_found(spec.settings)}
    # Nor do they train what a network learned beside itself.
    return spec.model_copy(update=_found(paths) | {"settings": settings, "centres": None})


def _found(values: dict) -> dict[str, str]:
    """Those of values by name that are paths of what is there, absolute."""
    return {
        name: str(Path(value).resolve())
        for name, value in values.items()
        if isinstance(value, str) and value and Path(value).exists()
    }


def _trainable(spec: ClassifierSpec) -> "nn.Module":
    from raypurify.evaluation.subjects import make_classifier

    return make_classifier(spec).requires_grad_(True)
