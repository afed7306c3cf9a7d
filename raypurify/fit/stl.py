"""The graph of STL: an auto-encoder, strata of its code over all classes together, a dictionary for each.

Bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

from functools import partial
from typing import Any

from raypurify.errors import DataError
from raypurify.fit import shared
from raypurify.fit.graph import Fit, Graph, Stage, part
from raypurify.runtime.stages import StageOutput
from raypurify.storage import Place


def _dae(fit: Fit, folder: Place, prepared: StageOutput) -> dict[str, Any]:
    from raypurify.fit.train import train
    from raypurify.nets.dae import DenoisingAutoEncoder
    from raypurify.training.start import drawn_network

    how, side, seed = fit.settings.dae, fit.settings.data.image_size, fit.settings.seed
    count, strata = prepared.report["train"], fit.settings.strata
    # What strata need is known before hours are spent on the auto-encoder.
    if count < max(strata.count, strata.neighbours):
        raise DataError(
            f"{count} training images are too few for {strata.count} strata of which {strata.neighbours} neighbours "
            "vote: give more images, or lower strata.count and strata.neighbours"
        )
    start = partial(drawn_network, partial(DenoisingAutoEncoder, how.width, side), seed)
    return train(folder, prepared.folder, prepared.report["train"], side, start, how, seed)


def _strata(fit: Fit, folder: Place, prepared: StageOutput, latents: StageOutput) -> dict[str, Any]:
    from raypurify.fit.strata import find_strata

    settings, rows, side = fit.settings, fit.source.rows, fit.settings.data.image_size
    return find_strata(folder, latents.folder, prepared.folder, fit.classes, rows, side, settings.strata, settings.seed)


def _calibrate(
    fit: Fit,
    folder: Place,
    prepared: StageOutput,
    dae: StageOutput,
    strata: StageOutput,
    dictionaries: StageOutput,
) -> dict[str, Any]:
    from raypurify.fit.calibrate import write_stl_bundle
    from raypurify.fit.dictionaries import load_dictionaries
    from raypurify.fit.strata import load_strata
    from raypurify.fit.train import NETWORK

    found = {name: strata.report[name] for name in ("sizes", "agreement")}
    about = shared.learned_from(fit, dictionaries.report["source"]) | {
        "cluster_class": strata.report["cluster_class"],
        "training": {"dae": dae.report, "strata": found},
    }
    return shared.in_a_task(
        write_stl_bundle,
        folder,
        prepared.folder,
        dae.folder / NETWORK,
        load_strata(strata.folder, fit.settings.strata.neighbours),
        load_dictionaries(dictionaries.folder, dictionaries.report["source"]),
        fit.settings,
        about,
    )


GRAPH: Graph = (
    shared.PREPARE,
    Stage("dae", ("prepare",), lambda settings: {"dae": part(settings.dae)}, _dae),
    shared.latents("dae"),
    # How large a block is decides where the work is done, not what comes of it.
    Stage("strata", ("prepare", "latents"), lambda settings: {"strata": part(settings.strata, "block_mb")}, _strata),
    shared.samples("strata"),
    shared.dictionaries("strata"),
    Stage("calibrate", ("prepare", "dae", "strata", "dictionaries"), shared.calibrate_depends, _calibrate),
)
