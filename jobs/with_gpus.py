"""Ray job: another job, begun when the cluster has so many GPUs, which stay until it ends.

``ray job submit --working-dir . -- python jobs/with_gpus.py 4 python jobs/fit.py --data URI --run-dir URI``

A stage of a fit trains on the GPUs that are there when it begins, and a cluster that grows on demand begins without
any: this asks its autoscaler for them, waits, and asks for none in the end. The exit code is the other job's.
"""

import signal
import subprocess
import sys
import time

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 2, 60


def main(count: int, command: list[str]) -> int:
    """Run ``command`` while the cluster keeps ``count`` GPUs, and return its exit code."""
    import ray
    from ray.autoscaler.sdk import request_resources

    # `ray job stop` ends a job so: what was asked for must be taken back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ray.init()
    try:
        request_resources(bundles=[{"GPU": 1}] * count)
        said = 0.0
        while (here := int(ray.cluster_resources().get("GPU", 0))) < count:
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                print(
                    f"waiting for {count} GPUs: the cluster has {here}; Ctrl-C, or `ray job stop`, ends it", flush=True
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return subprocess.run(command).returncode
    finally:
        request_resources(bundles=[])


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal():
        sys.exit("with_gpus.py: give a number of GPUs and the command, as in: with_gpus.py 4 python jobs/fit.py …")
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
