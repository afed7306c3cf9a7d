"""The graph of RegionSparse: one dictionary of patches of benign images. There is no network in it.

Bodies import late: names and fingerprints of stages are wanted where neither torch nor Ray is.
"""

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
    from raypurify.fit.patches import learn_patches

    settings, side = fit.settings, fit.settings.data.image_size
    return learn_patches(
        folder, prepared.folder, fit.source.rows, side, settings.patches, settings.ablations, settings.seed
    )


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
