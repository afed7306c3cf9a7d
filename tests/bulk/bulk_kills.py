"""One run of a purify job on a Ray cluster of several nodes: a script, for a Ray of its own.

    python bulk_kills.py INPUT OUTPUT BUNDLE

Where KILL_PLAN is set, something is killed on the way (``kill_points/sitecustomize.py``). Exits with 0 when the job is
done.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from raypurify.containers.ledger import scratch
from raypurify.storage import resolve

HERE = Path(__file__).parent
KILL_POINTS = HERE / "kill_points"


def plan_kill(folder: Path, source: str, output: str, point: str, target: str, count: int) -> tuple[Path, Path]:
    """The plan of a kill, written into ``folder``, and the file that will tell that it has happened."""
    plan, killed = folder / "plan.json", folder / "killed"
    facts = {"point": point, "count": count, "target": target, "done": str(killed), "input": source}
    plan.write_text(json.dumps(facts | {"scratch": scratch(resolve(output)).path}))
    return plan, killed


def run(source: str | Path, output: str | Path, plan: Path | None = None, bundle: str = "cifar10") -> tuple[int, str]:
    """Exit code and errors of one run of the job; of what it started nothing is left."""
    own = {"PYTHONPATH": os.pathsep.join((str(KILL_POINTS), str(HERE.parents[1])))}
    own |= {"KILL_PLAN": str(plan)} if plan else {}
    command = [sys.executable, __file__, source, output, bundle]
    # To a file: a pipe would stay open as long as orphans of a killed driver hold it.
    with tempfile.TemporaryFile("w+") as said:
        job = subprocess.Popen(command, env=os.environ | own, stdout=said, stderr=said, start_new_session=True)
        try:
            code = job.wait(200)
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(job.pid)], check=False)
        said.seek(0)
        return code, said.read()


def main(source: str, output: str, bundle: str) -> int:
    import ray
    from ray.cluster_utils import Cluster

    from raypurify.bulk.job import purify
    from raypurify.errors import RaypurifyError
    from raypurify.runtime.events import log_as

    log_as(None)
    # Known to the processes of the cluster, which inherit it.
    os.environ["KILL_DRIVER"] = str(os.getpid())
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        machine.add_node(num_cpus=1)
    ray.init(address=machine.address, log_to_driver=False, logging_level="ERROR")
    try:
        purify([source], output, bundle, sheet=0)
    except RaypurifyError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        ray.shutdown()
        machine.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
