"""Cluster latents on a Ray cluster whose nodes are lost one after another: a script, for a Ray of its own.

    python clustering_node_loss.py FOLDER

FOLDER holds task.json and latents/; the clusters go to FOLDER/c, what was seen to FOLDER/facts.json.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from raypurify.config import ClusterSettings
from raypurify.files import read_json
from raypurify.fit.clustering import cluster
from raypurify.runtime.progress import FILE
from raypurify.storage import resolve


def main(place: Path) -> None:
    task, folder = json.loads((place / "task.json").read_text()), place / "c"
    folder.mkdir()
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [machine.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=machine.address, log_to_driver=False, logging_level="ERROR")
    seen: list[int] = []

    def lose() -> None:
        for node in nodes:
            # The count begins again when the task that leads the passes was on the lost node.
            before = passes(folder)
            while passes(folder) == before or passes(folder) < 5:
                time.sleep(0.01)
            seen.append(passes(folder))
            machine.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    cluster(
        resolve(folder),
        resolve(place / "latents"),
        task["classes"],
        task["rows"],
        ClusterSettings(**task["settings"]),
        0,
    )
    loser.join(10)
    (place / "facts.json").write_text(json.dumps({"left": len(machine.worker_nodes), "passes": seen}))
    ray.shutdown()
    machine.shutdown()


def passes(folder: Path) -> int:
    """The pass over the large class that is under way."""
    found = re.search(r"pass (\d+)", (read_json(folder / FILE) or {}).get("note", ""))
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
