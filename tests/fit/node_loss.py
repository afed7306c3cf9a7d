"""Learn dictionaries on a Ray cluster whose nodes are lost one after another: a script, for a Ray of its own.

    python node_loss.py FOLDER

FOLDER holds task.json and of_row.npy; the dictionaries go to FOLDER/d, what was seen to FOLDER/facts.json, and events,
as JSON, to standard error.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from raypurify.config import CscSettings, DictionarySettings
from raypurify.files import read_json
from raypurify.fit.dictionaries import learn_dictionaries
from raypurify.runtime.events import log_as
from raypurify.runtime.observed import observed
from raypurify.runtime.progress import FILE
from raypurify.storage import resolve


def main(place: Path) -> None:
    task, folder = json.loads((place / "task.json").read_text()), place / "d"
    folder.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(task["nodes"])]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    seen: list[dict[Path, int]] = []

    def lose() -> None:
        for node in nodes:
            while not (done := written(folder)) or (seen and len(done) <= len(seen[-1])):
                time.sleep(0.01)
            seen.append(done)
            cluster.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    arguments = (task["classes"], task["side"], CscSettings(), DictionarySettings(**task["settings"]), 0)
    log_as("json")
    with observed(str(place), "d", lambda: read_json(folder / FILE)):
        learn_dictionaries(resolve(folder), resolve(task["prepared"]), np.load(place / "of_row.npy"), *arguments)
    loser.join(10)
    facts = {
        "lost": len(nodes) - len(cluster.worker_nodes),
        "in_time": all(len(done) < len(task["classes"]) for done in seen),
        "kept": all(written(folder)[path] == when for done in seen for path, when in done.items()),
    }
    (place / "facts.json").write_text(json.dumps(facts))
    ray.shutdown()
    cluster.shutdown()


def written(folder: Path) -> dict[Path, int]:
    """The dictionaries that are there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
