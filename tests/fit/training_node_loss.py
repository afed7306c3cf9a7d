"""Train on a Ray cluster that loses a node in the middle: a script, for a Ray of its own.

    python training_node_loss.py FOLDER

FOLDER holds task.json: the prepared images and their number, the settings, the number of nodes with one CPU each. The
network and metrics go to FOLDER/n.
"""

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from raypurify.config import TrainingSettings
from raypurify.fit.train import train
from raypurify.storage import resolve
from raypurify.training.record import read_lines
from raypurify.training.start import starting_network

LOSE_AFTER = 2


def main(place: Path) -> None:
    task, folder = json.loads((place / "task.json").read_text()), place / "n"
    folder.mkdir()
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [machine.add_node(num_cpus=1) for _ in range(task["nodes"])]
    ray.init(address=machine.address, log_to_driver=False, logging_level="ERROR")

    def lose() -> None:
        while len(read_lines(folder)) < LOSE_AFTER:
            time.sleep(0.02)
        machine.remove_node(training_node(nodes), allow_graceful=False)

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    settings = TrainingSettings(**task["settings"])
    start = partial(starting_network, "random", {"depth": 10, "width": 1, "classes": 3, "dropout": 0.0}, 0)
    train(resolve(folder), resolve(task["prepared"]), task["rows"], 16, start, settings, 0)
    loser.join(10)
    (place / "facts.json").write_text(json.dumps({"left": len(machine.worker_nodes)}))
    ray.shutdown()
    machine.shutdown()


def training_node(nodes):
    """A node whose only CPU a training worker has."""
    left = ray._private.state.available_resources_per_node()
    return next(node for node in nodes if not left.get(node.node_id, {}).get("CPU"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
