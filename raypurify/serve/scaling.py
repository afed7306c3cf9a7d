"""How many purifier replicas there should be: by the seconds of work they have at hand, not by requests.

Serve copies the function into its controller, so this module imports nothing of the package.
"""

import math
from typing import Any

# A replica that is busy for more than this part of the time gets a companion.
BUSY = 0.85
# Work that waits should be done within so many seconds.
TARGET_S = 4.0


def by_work(context: Any) -> tuple[int, dict]:
    """Replicas for what the running ones are busy with, and to work off in ``TARGET_S`` seconds what waits at them.

    ``context`` is Serve's AutoscalingContext, whose metrics are what ``record_autoscaling_stats`` of each replica
    returns. Serve's own delays and bounds come after it.
    """
    metrics = context.aggregated_metrics or {}
    busy, waiting = (sum(metrics.get(name, {}).values()) for name in ("busy", "work_s"))
    wanted = math.ceil(busy / BUSY + waiting / TARGET_S - 1e-9)
    if context.total_num_requests > 0:
        # The first request of an application without replicas waits at its callers.
        wanted = max(1, wanted)
    return min(max(wanted, context.capacity_adjusted_min_replicas), context.capacity_adjusted_max_replicas), {}
