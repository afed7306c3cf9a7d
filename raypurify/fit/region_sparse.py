"""The graph of RegionSparse: one dictionary of patches of benign images. There is no network in it.

Bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

from functools import partial
from typing import Any

from raypurify.config import Settings
from raypurify.fit import shared
from raypurify.fit.graph import Fit, Graph, Stage, part
from raypurify.runtime.stages import StageOutput
from raypurify.storage import Place


def _depends(settings: Settings) -> dict[str, Any]:
    # The background's filter is of purification alone.
    return {"patches": part(settings.patches), "ablations": sorted({*settings.ablations} - {"noBS"})}


def _dictionary(fit: Fit, folder: Place, prepared: StageOutput) -> dict[str, Any]:
    return learn_dictionary(folder, prepared.folder, fit.source.rows, fit.settings)


def learn_dictionary(folder: Place, prepared: Place, source_rows: int, settings: Settings) -> dict[str, Any]:
    """What ``fit.patches.learn_patches`` does, of benign images that were smoothed; no training with "noTR".

    Raises ConfigError where scikit-image, which smooths, is not installed, and what ``learn_patches`` raises.
    """
    from raypurify.fit.patches import learn_patches, write_dictionary
    from raypurify.patches.dictionary import cosine_atoms
    from raypurify.training.patches import benign_patches, patch_dictionary

    how, left_out, seed, side = settings.patches, settings.ablations, settings.seed, settings.data.image_size
    if "noTR" in left_out:
        return write_dictionary(folder, cosine_atoms(how.size), 0, 0)
    drawn_from = partial(benign_patches, settings=how, ablations=left_out, seed=seed)
    learned_from = partial(patch_dictionary, settings=how, ablations=left_out, seed=seed)
    return learn_patches(folder, prepared, source_rows, side, how, seed, drawn_from, learned_from)


def _calibrate_depends(settings: Settings) -> dict[str, Any]:
    own = {"region": part(settings.region), "ablations": sorted(settings.ablations)}
    return own | shared.calibrated_by(settings)


def _calibrate(fit: Fit, folder: Place, prepared: StageOutput, dictionary: StageOutput) -> dict[str, Any]:
    from raypurify.fit.calibrate import write_region_sparse_bundle
    from raypurify.fit.patches import load_dictionary

    about = shared.learned_from(fit, ["0"]) | {"cluster_class": [None], "training": {"dictionary": dictionary.report}}
    return shared.in_a_task(
        write_region_sparse_bundle, folder, prepared.folder, load_dictionary(dictionary.folder), fit.settings, about
    )


GRAPH: Graph = (
    shared.PREPARE,
    Stage("dictionary", ("prepare",), _depends, _dictionary),
    Stage("calibrate", ("prepare", "dictionary"), _calibrate_depends, _calibrate),
)
