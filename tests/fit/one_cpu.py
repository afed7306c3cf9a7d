"""Cluster latents and learn dictionaries beside it on a Ray of one CPU: a script, for a Ray of its own.

    python one_cpu.py FOLDER

FOLDER holds task.json and the folders prepare and latents of a fit; clusters and dictionaries are written beside them.
"""

import json
import sys
from pathlib import Path

import numpy as np

from raypurify.config import Settings
from raypurify.fit import overlap
from raypurify.fit.clustering import cluster
from raypurify.fit.dictionaries import learn_dictionaries
from raypurify.fit.overlap import Found, Handover, side_by_side
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve


def main(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    settings, handover = Settings.model_validate(task["settings"]), Handover()
    prepare, latents, clusters, dictionaries = (
        resolve(folder / name) for name in ("prepare", "latents", "clusters", "dictionaries")
    )
    for place in (clusters, dictionaries):
        place.make_folder()

    def first() -> None:
        classes = ["across", "down", "slanted"]
        arguments = (task["rows"], settings.clusters, settings.seed)
        report = cluster(clusters, latents, classes, *arguments, handover=handover)
        of_row = np.load(folder / "clusters" / "cluster_of_row.npy")
        handover.complete(Found(of_row, report["cluster_class"]))

    def second() -> None:
        arguments = (settings.data.image_size, settings.csc, settings.dictionaries, settings.seed)
        learn_dictionaries(dictionaries, prepare, handover, *arguments)

    overlap.PAYS = 0
    with ray_session(num_cpus=1):
        side_by_side(first, second, handover)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
