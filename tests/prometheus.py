"""What a Ray of one node exports for Prometheus."""

import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def scraped(prefix: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Samples whose name begins so: name, tags, value."""
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    for name, tags, value in re.findall(rf"^({prefix}\w*?){{(.*)}} (\S+)$", text, re.M):
        yield name, dict(re.findall(r'(\w+)="([^"]*)"', tags)), float(value)


@contextmanager
def collecting(prefix: str) -> Iterator[dict]:
    """The last value of every such sample by (name, tags), as Prometheus would have it: Ray tells of a gauge for some
    seconds after it was set."""
    last: dict[tuple[str, frozenset], float] = {}
    over = threading.Event()

    def collect() -> None:
        while not over.wait(4):
            with suppress(OSError):
                last.update({(name, frozenset(tags.items())): value for name, tags, value in scraped(prefix)})

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        yield last
    finally:
        over.set()
        thread.join()
