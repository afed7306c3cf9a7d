"""A job through the endpoint on a cluster of a head and two nodes; prints what each replica did, as JSON.

    python serve_nodes.py INPUT OUTPUT [MIN_REPLICAS] [kill]

With ``kill`` a node is lost, with its replica, once the first shard is committed.
"""

import json
import os
import sys
import threading
import time


def main(source: str, output: str, least: str = "1", kill: str = "") -> None:
    # For Serve's replicas, which inherit it: they tell of their work more often than every ten seconds.
    os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from raypurify.bulk.job import purify
    from raypurify.containers.ledger import committed
    from raypurify.serve.app import build
    from raypurify.serve.local import APP
    from raypurify.storage import resolve

    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes = [machine.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=machine.address, log_to_driver=False, logging_level="ERROR")
    seen: list[tuple[float, dict]] = []
    over = threading.Event()

    def watch() -> None:
        begun, handle = time.monotonic(), serve.get_deployment_handle("Purifier", APP)
        while not over.wait(1):
            reports = handle.broadcast("report").results(timeout_s=30, return_exceptions=True)
            seen.append((time.monotonic() - begun, {r["node"]: r["busy_s"] for r in reports if isinstance(r, dict)}))

    def kill_a_node() -> None:
        while not committed(resolve(output)):
            time.sleep(0.1)
        machine.remove_node(nodes[0], allow_graceful=False)

    try:
        serve.start(http_options={"location": "NoServer"})
        serve.run(build({"no_auth": True, "min_replicas": int(least), "max_replicas": 3}), name=APP, route_prefix=None)
        watcher = threading.Thread(target=watch)
        watcher.start()
        if kill:
            threading.Thread(target=kill_a_node, daemon=True).start()
        begun = time.monotonic()
        summary = purify([source], output, "cifar10", sheet=0, engine="serve")
        seconds = time.monotonic() - begun
        over.set()
        watcher.join()
        replicas = [(round(at, 1), len(report)) for at, report in seen]
        print(json.dumps({"seconds": seconds, "images": summary.written, "busy_s": seen[-1][1], "replicas": replicas}))
        serve.shutdown()
    finally:
        ray.shutdown()
        machine.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
