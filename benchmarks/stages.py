"""Latents, clusters and dictionaries streamed, against the same stages one after another: wall time of the three.

    python benchmarks/stages.py --data DIR [--images 5000] [--repeat 3]

DIR holds ``cifar10/train-*.parquet``, which are prepared once. Both sides do the same work in one Ray session, in turn:
with latents kept in the object store and learners beside k-means, or with files alone and a stage begun when the one
before has ended. The network, a WRN-16-2, is not trained: how long a stage takes is a matter of shapes. Settings of
clusters and dictionaries are those of preset "cifar10". A fit would do a set this small one after another; here keepers
and learners start however little there is. That both sides write the same bytes is checked.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import in_turn, ratio

from raypurify.config import Settings, load_settings
from raypurify.containers.source import open_source
from raypurify.fit import kept, overlap
from raypurify.fit.clustering import cluster
from raypurify.fit.dictionaries import await_clusters, learn_dictionaries
from raypurify.fit.kept import Kept
from raypurify.fit.latents import extract_latents
from raypurify.fit.overlap import Found, Handover, side_by_side
from raypurify.fit.prepare import prepare
from raypurify.nets import WideResNet
from raypurify.nets.store import save_network
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve

RESULTS = Path(__file__).parent / "results" / "stages.json"
SIDES = ("streamed", "one after another")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept.LEAST, overlap.PAYS = 0, 0.0
    with ray_session(), tempfile.TemporaryDirectory() as scratch:
        results = measure(arguments.data, Path(scratch), arguments.images, arguments.repeat)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measure(data: Path, scratch: Path, images: int, repeat: int) -> dict:
    import ray

    changes = (f"data.limit={images}", "data.validation=100")
    settings = load_settings(preset="cifar10", overrides=changes)
    source = open_source([str(path) for path in sorted(data.glob("cifar10/train-*.parquet"))])
    prepared = prepare(resolve(scratch / "prepare"), source, settings.data, settings.seed)
    torch.manual_seed(0)
    network = WideResNet(16, 2, len(prepared["classes"]))
    save_network(scratch / "network.safetensors", network)
    digests: set[str] = set()
    lead: list[float] = []

    def run(streamed: bool) -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            at = time.perf_counter()
            begun = three_stages(Path(out), scratch, settings, prepared["classes"], source.rows, streamed)
            if streamed:
                lead.append(begun)
            print(SIDES[not streamed], round(time.perf_counter() - at, 2), flush=True)
            digests.add(digest(Path(out)))

    times = in_turn({side: lambda streamed=side == SIDES[0]: run(streamed) for side in SIDES}, repeat, warm=False)
    assert len(digests) == 1, "the sides wrote different bytes"
    return {
        "command": f"python benchmarks/stages.py --data DIR --images {images} --repeat {repeat}",
        "cores": os.cpu_count(),
        "cpus_of_ray": int(ray.cluster_resources()["CPU"]),
        "images": prepared["train"],
        "classes": len(prepared["classes"]),
        "features": network.dim,
        "repeat": repeat,
        "seconds": {side: [round(value, 2) for value in values] for side, values in times.items()},
        "ratio": ratio(times, *SIDES),
        "seconds_of_k_means_left_when_learning_begins": [round(value, 2) for value in lead],
    }


def three_stages(out: Path, scratch: Path, settings: Settings, classes: list[str], rows: int, streamed: bool) -> float:
    """Do them, and return for how long k-means went on after dictionaries could begin."""
    latents, clusters, dictionaries = (resolve(out / name) for name in ("latents", "clusters", "dictionaries"))
    for place in (latents, clusters, dictionaries):
        place.make_folder()
    prepared, side = resolve(scratch / "prepare"), settings.data.image_size
    keepers, handover, at = Kept() if streamed else None, Handover(), {}
    extract_latents(latents, prepared, resolve(scratch / "network.safetensors"), side, kept=keepers)

    def first() -> None:
        told = handover if streamed else None
        report = cluster(clusters, latents, classes, rows, settings.clusters, settings.seed, keepers, told)
        if keepers:
            keepers.end()
        at["clustered"] = time.perf_counter()
        handover.complete(Found(np.load(out / "clusters" / "cluster_of_row.npy"), report["cluster_class"]))

    def second() -> None:
        await_clusters(handover, settings.dictionaries)
        at["learning"] = time.perf_counter()
        learn_dictionaries(dictionaries, prepared, handover, side, settings.csc, settings.dictionaries, settings.seed)

    if streamed:
        side_by_side(first, second, handover)
    else:
        first()
        second()
    return at["clustered"] - at["learning"]


def digest(out: Path) -> str:
    """Of all files that later stages read."""
    found = hashlib.sha256()
    for pattern in ("latents/by_class/*/*.parquet", "clusters/c*", "clusters/d*", "dictionaries/*.safetensors"):
        for path in sorted(out.glob(pattern)):
            found.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
