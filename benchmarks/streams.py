"""Two ways to stream latents into clusters and dictionaries, which are in this script alone.

"kept": extractors also return the bytes of their files, which stay in Ray's object store, owned by the driver, and
k-means reads them there. "early": learners begin with the clusters of clustered classes as soon as k-means leaves CPUs
idle.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.clusters.files import class_path, read_labels
from raypurify.config import Settings
from raypurify.files import write_json
from raypurify.fit import clustering, latents
from raypurify.fit.class_latents import Piece
from raypurify.fit.dictionaries import FETCHED, _room, choose_samples
from raypurify.fit.latents import DONE, PARTS, WRITE_ROWS, _Extractor
from raypurify.fit.learner import Learner
from raypurify.fit.samples import fetch_samples
from raypurify.runtime.pool import Pool
from raypurify.runtime.progress import shared_progress
from raypurify.runtime.resources import cluster_resources
from raypurify.storage import Place
from raypurify.training.data import TRAIN


class Kept(NamedTuple):
    """A file of latents in the object store: in ``row`` of the table ``ref``."""

    ref: Any
    row: int
    place: Place

    def open(self) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            return pa.BufferReader(ray.get(self.ref)["file"][self.row].as_buffer())
        except RayError:  # lost with its node
            return self.place.open()


class Keeping(_Extractor):
    """An extractor that returns the files it has written: a row each."""

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        self.made: list[tuple[int, str, list[int], Any]] = []
        (error,) = super().__call__(batch)["error"]
        if error:
            raise error
        kinds = (pa.int64(), pa.string(), pa.list_(pa.int64()), pa.large_binary())
        columns = [pa.array(list(column), kind) for column, kind in zip(zip(*self.made), kinds)]
        return pa.table(columns, names=["label", "unit", "rows", "file"])

    def _write(self, name: str, rows: np.ndarray, labels: np.ndarray, found: np.ndarray) -> None:
        schema = pa.schema({"row": pa.int64(), "latent": pa.list_(pa.float32(), found.shape[1])})
        order, counts = np.lexsort((rows, labels)), {}
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            label, sink = int(labels[members[0]]), pa.BufferOutputStream()
            groups = np.split(members, range(WRITE_ROWS, len(members), WRITE_ROWS))
            with pq.ParquetWriter(sink, schema, use_dictionary=False, compression="none") as writer:
                for some in groups:
                    column = pa.FixedSizeListArray.from_arrays(found[some].reshape(-1), found.shape[1])
                    writer.write_table(pa.Table.from_arrays([pa.array(rows[some]), column], schema=schema))
            data = sink.getvalue().to_pybytes()
            (self.folder / PARTS / f"label={label}" / f"{name}.parquet").write(data)
            self.made.append((label, name, [len(some) for some in groups], data))
            counts[label] = len(members)
        write_json(self.folder / DONE / f"{name}.json", {"rows": counts, "features": found.shape[1]})


def keeping(pieces: dict[Place, list[Piece]]) -> Callable[..., None]:
    """What stands for ``latents._run``: it adds what is kept to ``pieces``, by the file."""

    def run(todo: list, model: Any, folder: Place, side: int, images: int) -> None:
        import ray

        progress, has = shared_progress(folder, images, "images"), cluster_resources()
        most = min(len(todo), has.gpus or max(1, has.cpus - 1))
        results = ray.data.from_items([{"unit": unit} for unit in todo], override_num_blocks=len(todo)).map_batches(
            Keeping,
            fn_constructor_args=(ray.put(model), folder, side, "cuda" if has.gpus else "cpu", progress),
            batch_size=1,
            num_cpus=1,
            num_gpus=1 if has.gpus else None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2),
        )
        for bundle in results.iter_internal_ref_bundles():
            for ref in bundle.block_refs:
                facts = ray.get(ref).select(["label", "unit", "rows"]).to_pylist()
                for row, fact in enumerate(facts):
                    place = folder / PARTS / f"label={fact['label']}" / f"{fact['unit']}.parquet"
                    file = Kept(ref, row, place)
                    pieces[place] = [Piece(file, group, n, model.dim) for group, n in enumerate(fact["rows"])]

    return run


def of_kept(pieces: dict[Place, list[Piece]], folder: Place) -> list[Piece]:
    """What stands for ``class_latents.pieces_of``."""
    found = sorted((place for place in pieces if place.parent == folder), key=lambda place: place.name)
    return [piece for place in found for piece in pieces[place]]


class kept_latents:
    """While the block runs, stages keep latents and read what is kept."""

    def __enter__(self) -> None:
        self.before = latents._run, clustering.pieces_of
        pieces: dict[Place, list[Piece]] = {}
        latents._run, clustering.pieces_of = keeping(pieces), partial(of_kept, pieces)

    def __exit__(self, *_: object) -> None:
        latents._run, clustering.pieces_of = self.before


class EarlyLearner(Learner):
    def learn(self, name: str, number: int, copies: list[Place]) -> None:
        self.copies = copies
        super().learn(name, number)


def learn_early(
    folder: Place, prepared: Place, clusters: Place, classes: int, rows: int, settings: Settings, ended: threading.Event
) -> dict[str, float]:
    """Learn the dictionaries of clusters as their numbers are known; nothing where k-means leaves no CPU idle before it
    has ``ended``. Returns how many were begun before that, and the seconds of their pass over the prepared images."""
    import ray

    room, asks, device = _room(settings.dictionaries)
    learner, chosen = ray.remote(**asks)(EarlyLearner), settings.dictionaries
    given = (folder, [], settings.data.image_size, settings.csc, chosen, settings.seed, device)
    number: dict[str, tuple[int, list[Place]]] = {}

    def call(actor: Any, name: str) -> Any:
        return actor.learn.remote(name, *number[name])

    def fetch(known: int) -> list[str]:
        of_row, owner = np.full(rows, -1, np.int64), []
        for c in range(known):
            one = read_labels(class_path(clusters, c))
            of_row[one.rows] = one.labels + len(owner)
            owner += [c] * one.clusters
        samples = choose_samples(of_row, len(owner), chosen.images, settings.seed)
        new = [str(k) for k in range(len(number), len(owner))]
        files, place = (prepared / TRAIN).files(".parquet"), folder / FETCHED / str(known)
        copies = fetch_samples(place, files, [samples[int(name)] for name in new], rows, lambda _: None)
        number.update({name: (n, copies) for n, name in enumerate(new)})
        return new

    waiting: list[str] = []
    spent, names = 0.0, [class_path(clusters, c).name for c in range(classes)]
    while not waiting and not ended.is_set():
        there = set(clusters.names())
        known = next((c for c, name in enumerate(names) if name not in there), classes)
        if known and sum(name not in there for name in names) < cluster_resources().cpus:
            begun = time.monotonic()
            waiting = fetch(known)
            spent = time.monotonic() - begun
        ended.wait(0.5)
    if not waiting:
        return {"early": 0}
    early = len(waiting)
    pool: Pool[str] = Pool(waiting, lambda: learner.remote(*given), call, room)
    pool.more = True
    for kind, _, error, _ in pool.events():
        if kind in ("failed", "died"):
            raise error
        if pool.more and ended.is_set():
            pool.waiting.extend(fetch(classes) if known < classes else [])
            pool.more = False
    return {"early": early, "early_pass": round(spent, 2)}
