"""What a Ray of one node exports for Prometheus."""

import re
import urllib.request
from collections.abc import Iterator


def scraped(prefix: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Samples whose name begins so: name, tags, value."""
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    for name, tags, value in re.findall(rf"^({prefix}\w*?){{(.*)}} (\S+)$", text, re.M):
        yield name, dict(re.findall(r'(\w+)="([^"]*)"', tags)), float(value)
