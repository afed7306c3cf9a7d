"""Latents, clusters and dictionaries one after another, as a fit does them, against two ways to stream them.

    python benchmarks/stages.py --data DIR [--images 5000] [--repeat 5] [--cases disk store] [--milliseconds 20]

DIR holds ``cifar10/train-*.parquet``, which are prepared once. ``streams.py`` says what the ways are; each is measured
alone, in turn with the stages of a fit, in one Ray of three raylets: a head without CPUs, as that of a cluster, and two
nodes that share the machine. The run directory is on this disk, or on the object store that the tests start, which is
``far_store.py``'s milliseconds away. The network is that of preset "cifar10-small", not trained: how long a stage takes
is a matter of shapes; so are the settings of clusters and dictionaries. That all write the same bytes is checked. Pairs
are added to those of the results file; each begins after ``--seconds`` at the latest.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import object_store  # noqa: E402

os.environ |= {"AWS_ACCESS_KEY_ID": object_store.KEY, "AWS_SECRET_ACCESS_KEY": object_store.SECRET}

import torch  # noqa: E402
from far_store import far  # noqa: E402
from streams import kept_latents, learn_early  # noqa: E402

from raypurify.clusters.files import load_clusters  # noqa: E402
from raypurify.config import Settings, load_settings  # noqa: E402
from raypurify.containers.source import open_source  # noqa: E402
from raypurify.evaluation.clock import clock  # noqa: E402
from raypurify.fit.clustering import cluster  # noqa: E402
from raypurify.fit.dictionaries import learn_dictionaries  # noqa: E402
from raypurify.fit.latents import extract_latents  # noqa: E402
from raypurify.fit.prepare import prepare  # noqa: E402
from raypurify.nets import WideResNet  # noqa: E402
from raypurify.nets.store import save_network  # noqa: E402
from raypurify.runtime.session import ray_session  # noqa: E402
from raypurify.storage import Place, resolve  # noqa: E402

RESULTS = HERE / "results" / "stages.json"
FIT, WAYS, STAGES = "fit", ("kept", "early"), ("latents", "clusters", "dictionaries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3600, help="for rounds to begin in, of each case")
    parser.add_argument("--cases", nargs="+", default=("disk", "store"), choices=("disk", "store"))
    parser.add_argument("--milliseconds", type=float, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    from ray.cluster_utils import Cluster

    # So that raylets and the store end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = {"disk": resolve(scratch / "run")}
        if "store" in arguments.cases:
            (scratch / "store").mkdir()
            store = stack.enter_context(object_store.running(scratch / "store"))
            there = stack.enter_context(far(store.endpoint, arguments.milliseconds))
            places["store"] = resolve(store.uri("run").replace(store.endpoint, there))
        machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        stack.callback(machine.shutdown)
        for _ in range(2):
            machine.add_node(num_cpus=max(2, (os.cpu_count() or 2) // 2))
        stack.enter_context(ray_session(machine.address))
        for case in arguments.cases:
            key = f"{case}, {arguments.images} images"
            if case == "store":
                key += f", {arguments.milliseconds:g} ms"
            pairs = results.setdefault(key, {})
            until = time.monotonic() + arguments.seconds
            for facts in measure(arguments.data, places[case], scratch, arguments.images, arguments.repeat):
                for side, stages in facts.items():
                    pairs.setdefault("seconds", {}).setdefault(side, []).append(stages)
                pairs |= ratios(pairs["seconds"])
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")
                if time.monotonic() > until:
                    break
            print(json.dumps({key: pairs}), flush=True)


def measure(data: Path, place: Place, scratch: Path, images: int, repeat: int):
    """Yield, for each of ``repeat`` rounds, the seconds of every stage of every side."""
    settings = load_settings(preset="cifar10-small", overrides=(f"data.limit={images}", "data.validation=100"))
    source = open_source([str(path) for path in sorted(data.glob("cifar10/train-*.parquet"))])
    prepared = prepare(place / "prepare", source, settings.data, settings.seed)
    torch.manual_seed(0)
    save_network(scratch / "network.safetensors", WideResNet(16, 2, len(prepared["classes"])))
    (place / "network.safetensors").write((scratch / "network.safetensors").read_bytes())
    digests: set[str] = set()
    # The first round warms; who comes first changes from round to round.
    for number in range(repeat + 1):
        facts = {}
        for side in ((FIT, *WAYS), (*WAYS[::-1], FIT))[number % 2] if number else (FIT,):
            out = place / uuid.uuid4().hex
            facts[side] = three_stages(out, place, settings, prepared["classes"], source.rows, side)
            digests.add(digest(out))
            out.delete_folder()
            print(place.scheme or "disk", number, side, facts[side], flush=True)
        assert len(digests) == 1, "the sides wrote different bytes"
        if number:
            yield facts


def three_stages(out: Place, place: Place, settings: Settings, classes: list[str], rows: int, side: str) -> dict:
    """Seconds until the end of each stage."""
    latents, clusters, dictionaries = (out / name for name in STAGES)
    for folder in (latents, clusters, dictionaries):
        folder.make_folder()
    prepared, size = place / "prepare", settings.data.image_size
    early, ended, spent, begun = {}, threading.Event(), {}, clock()

    def end(stage: str) -> None:
        spent[stage] = round(clock() - begun, 2)

    with kept_latents() if side == "kept" else contextlib.nullcontext():
        extract_latents(latents, prepared, place / "network.safetensors", size)
        end("latents")
        with ThreadPoolExecutor(1) as beside:
            if side == "early":
                given = (dictionaries, prepared, clusters, len(classes), rows, settings, ended)
                begun_early = beside.submit(learn_early, *given)
            owner = cluster(clusters, latents, classes, rows, settings.clusters, settings.seed)["cluster_class"]
            cluster_of_row = load_clusters(clusters)[1]
            ended.set()
            end("clusters")
            if side == "early":
                early = begun_early.result()
    given = (cluster_of_row, owner, size, settings.csc, settings.dictionaries, settings.seed)
    learn_dictionaries(dictionaries, prepared, *given)
    end("dictionaries")
    return spent | early


def digest(out: Place) -> str:
    """Of all files that later stages read."""
    found = hashlib.sha256()
    for name, _ in sorted(out.walk()):
        if (
            name.startswith(("latents/by_class", "clusters/c", "clusters/d", "dictionaries/"))
            and "progress" not in name
        ):
            found.update(name.encode() + (out / name).read())
    return found.hexdigest()


def ratios(seconds: dict[str, list[dict]]) -> dict:
    """Medians of the three stages, and of each way's ratio to the fit of its round."""
    ends = {side: [one["dictionaries"] for one in runs] for side, runs in seconds.items()}
    pairs = {way: [mine / fit for mine, fit in zip(ends[way], ends[FIT])] for way in WAYS}
    return {
        "median_seconds": {side: round(statistics.median(values), 1) for side, values in ends.items()},
        "median_ratio": {way: round(statistics.median(values), 3) for way, values in pairs.items()},
        "ratios": {way: [round(value, 3) for value in values] for way, values in pairs.items()},
    }


def table(results: dict[str, dict]) -> str:
    """Of each case a row: the seconds of the stages of a fit, and each way's median ratio, the least and the most."""
    lines = ["| run directory | pairs | seconds of a fit | kept | early |", "|---|---|---|---|---|"]
    for case, facts in results.items():
        shown = [
            f"{facts['median_ratio'][way]:.2f} ({min(facts['ratios'][way]):.2f} to {max(facts['ratios'][way]):.2f})"
            for way in WAYS
        ]
        cells = (case, str(len(facts["ratios"]["kept"])), f"{facts['median_seconds'][FIT]:.0f}", *shown)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
