"""What a purify job counts for Prometheus: Ray exports it on every node, at the port that ``ray.nodes()`` tells."""

from collections import Counter as Tally

BOUNDARIES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]


class ShardMetrics:
    """Counters of one actor of a run: ``raypurify_images`` by outcome ("purified", or the reason of an error row),
    ``raypurify_flagged_images``, ``raypurify_output_bytes``, and seconds per image, a shard's mean, as a histogram."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Histogram

        tags = ("run",)
        self.images = Counter("raypurify_images", "Images that were worked off, by outcome.", ("outcome", *tags))
        self.flagged = Counter("raypurify_flagged_images", "Purified images unlike the clean images of the fit.", tags)
        self.bytes = Counter("raypurify_output_bytes", "Bytes of purified images.", tags)
        self.seconds = Histogram("raypurify_image_seconds", "Seconds per image of a shard.", BOUNDARIES, tags)
        for metric in (self.images, self.flagged, self.bytes, self.seconds):
            metric.set_default_tags({"run": run})

    def add(self, outcomes: Tally, flagged: int, size: int, seconds: float) -> None:
        """Count a committed shard. Counters refuse zeros."""
        for outcome, count in outcomes.items():
            self.images.inc(count, {"outcome": outcome})
        for counter, value in ((self.flagged, flagged), (self.bytes, size)):
            if value:
                counter.inc(value)
        if count := sum(outcomes.values()):
            self.seconds.observe(seconds / count)
