"""``doctor`` on a cluster of nodes that agree, then with one that does not, then with one that is silent.

    python doctor_nodes.py FOLDER URI

FOLDER holds two working directories of nodes, here and there, and other, with another raypurify; URI is a storage. What
each node is called and the findings go to FOLDER/findings.json.
"""

import json
import os
import signal
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from raypurify.cli.doctor.cluster import examine_cluster

# A path by which processes of different working directories reach different folders, as machines do.
OWN = "/proc/self/cwd"


def main(place: Path, uri: str) -> None:
    os.chdir(place / "here")
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = machine.add_node(num_cpus=1)
    ray.init(address=machine.address, log_to_driver=False, logging_level="ERROR")
    found = {"well": told([str(place / "new" / "run"), uri], "cifar10")}
    os.chdir(place / "there")
    third = machine.add_node(num_cpus=1, num_gpus=1, env_vars={"PYTHONPATH": str(place / "other")})
    os.chdir(place / "here")
    found["unlike"] = told([f"{OWN}/run", f"{OWN}/file/run", uri], f"{OWN}/bundle")
    # What is left has less to do, and answers in time on a busy machine too.
    machine.remove_node(third, allow_graceful=False)
    raylet = second.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    found["silent"] = told([uri], None, 15.0)
    raylet.send_signal(signal.SIGCONT)
    found["names"] = {name: node.node_id[:8] for name, node in {"second": second, "third": third}.items()}
    (place / "findings.json").write_text(json.dumps(found))
    ray.shutdown()
    machine.shutdown()


def told(storages, bundle, patience=60.0):
    return [(one.name, one.state, one.text) for one in examine_cluster(None, storages, bundle, patience)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
