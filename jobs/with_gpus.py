"""Ray job: another job, begun when the cluster has so many GPUs, which stay until it ends.

``ray job submit --working-dir . -- python jobs/with_gpus.py 4 python jobs/fit.py --data URI --run-dir URI``

A stage of a fit trains on the GPUs that are there when it begins, and a cluster that grows on demand begins without
any: this asks its autoscaler for them, waits, and asks for none in the end. The exit code is the other job's.

The autoscaler keeps one request for all, so each asks for what all of them want together, and waits for what those
before it want as well. A named actor stands for each: Ray ends it with its job, however that ends.
"""

import signal
import subprocess
import sys
import time

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 2, 60
NAMESPACE = "raypurify-with-gpus"


def standing() -> list[tuple[int, int]]:
    """When each of these jobs that are there was begun, and how many GPUs it wants; the first one first."""
    from ray.util import list_named_actors

    actors = list_named_actors(all_namespaces=True)
    names = (actor["name"].split("-") for actor in actors if actor["namespace"] == NAMESPACE)
    return sorted((int(begun), int(count)) for begun, count in names)


def ask() -> list[tuple[int, int]]:
    """Ask the autoscaler for the GPUs of all these jobs, which are returned; who asks last has seen the others."""
    from ray.autoscaler.sdk import request_resources

    asked, jobs = None, standing()
    while jobs != asked:
        request_resources(bundles=[{"GPU": 1}] * sum(count for _, count in jobs))
        asked, jobs = jobs, standing()
    return jobs


def main(count: int, command: list[str]) -> int:
    """Run ``command`` while the cluster keeps ``count`` GPUs, and return its exit code."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Standing:
        """What is there while its job is."""

    # `ray job stop` ends a job so: what was asked for must be taken back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ray.init(namespace=NAMESPACE)
    own = (time.time_ns(), count)
    # Beside the driver, as a node that only it is on may be taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here, "name": "-".join(map(str, own))}
    sign = ray.remote(Standing).options(**options).remote()
    try:
        said = 0.0
        while True:
            before = sum(wanted for job, wanted in ask() if job < own[0])
            there = int(ray.cluster_resources().get("GPU", 0))
            if there >= before + count:
                break
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                beside = f" beside the {before} of earlier jobs" if before else ""
                print(
                    f"waiting for {count} GPUs{beside}: the cluster has {there}; Ctrl-C, or `ray job stop`, ends it",
                    flush=True,
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return subprocess.run(command).returncode
    finally:
        ray.kill(sign)
        until = time.monotonic() + SECONDS_BETWEEN_LOOKS
        while own in standing() and time.monotonic() < until:
            time.sleep(0.02)
        ask()


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal():
        sys.exit("with_gpus.py: give a number of GPUs and the command, as in: with_gpus.py 4 python jobs/fit.py …")
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
