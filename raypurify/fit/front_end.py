"""The graph of the sparse front end: one dictionary of patches, and the decoder of codes over it.

Bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

from functools import partial
from typing import Any

from raypurify.config import Settings
from raypurify.fit import shared
from raypurify.fit.graph import Fit, Graph, Stage, part
from raypurify.runtime.stages import StageOutput
from raypurify.storage import Place


def _dictionary(fit: Fit, folder: Place, prepared: StageOutput) -> dict[str, Any]:
    from raypurify.fit.patches import learn_patches
    from raypurify.training.patches import learned_dictionary, random_patches

    settings, how, seed = fit.settings, fit.settings.dictionary, fit.settings.seed
    drawn_from = partial(random_patches, settings=how, seed=seed)
    learned_from = partial(learned_dictionary, settings=how, seed=seed, batch=how.batch)
    rows, side = fit.source.rows, settings.data.image_size
    return learn_patches(folder, prepared.folder, rows, side, how, seed, drawn_from, learned_from)


def _decoder_depends(settings: Settings) -> dict[str, Any]:
    # Another draw is of purification alone.
    return {"decoder": part(settings.decoder), "encoder": part(settings.encoder, "seed")}


def _decoder(fit: Fit, folder: Place, prepared: StageOutput, dictionary: StageOutput) -> dict[str, Any]:
    from raypurify.fit.patches import load_dictionary
    from raypurify.fit.train import train
    from raypurify.training.front_end import front_of

    settings, atoms = fit.settings, load_dictionary(dictionary.folder)
    # Drawn from a seed on every worker, around the one dictionary.
    start = partial(front_of, settings, atoms, len(fit.classes))
    side, count = settings.data.image_size, prepared.report["train"]
    return train(folder, prepared.folder, count, side, start, settings.decoder, settings.seed)


def _calibrate_depends(settings: Settings) -> dict[str, Any]:
    return {"encoder": part(settings.encoder)} | shared.calibrated_by(settings)


def _calibrate(fit: Fit, folder: Place, prepared: StageOutput, *learned: StageOutput) -> dict[str, Any]:
    from raypurify.fit.calibrate import write_front_end_bundle
    from raypurify.fit.train import NETWORK

    dictionary, decoder = learned
    about = shared.learned_from(fit, ["0"]) | {
        "cluster_class": [None],
        "training": {"dictionary": dictionary.report, "decoder": decoder.report},
    }
    return shared.in_a_task(
        write_front_end_bundle, folder, prepared.folder, decoder.folder / NETWORK, fit.settings, about
    )


GRAPH: Graph = (
    shared.PREPARE,
    Stage("dictionary", ("prepare",), lambda settings: {"dictionary": part(settings.dictionary)}, _dictionary),
    Stage("decoder", ("prepare", "dictionary"), _decoder_depends, _decoder),
    Stage("calibrate", ("prepare", "dictionary", "decoder"), _calibrate_depends, _calibrate),
)
