"""An attack on a network at 224² on a CPU core: memory that is freed given back and kept, channels first and last.

    python benchmarks/allocator.py [--batch 50] [--repeat 5] [--out benchmarks/results/allocator.json]

BIM's steps on EfficientNet-Lite0, on images of 64² that it sees at its own 224², one thread, a fresh process for each
measurement, the four in turn. ``memory`` is ``runtime.allocator.keep_freed_memory``, which the actors of an evaluation
call; ``channels`` the memory format that ``load_efficientnet_lite`` gives. Seconds are the process's own time on its
core, in user and kernel mode, for one step of one image; ``peak_mb`` is the most memory that it held.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from raypurify.files import write_json
from raypurify.storage import resolve

RESULTS = Path(__file__).parent / "results" / "allocator.json"
SIDES = [(memory, channels) for memory in ("given back", "kept") for channels in ("first", "last")]
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one, arguments.batch)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeat):
        for side in SIDES:
            command = [sys.executable, __file__, "--batch", str(arguments.batch), "--one", *side]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side].append(json.loads(run.stdout))
            print(*side, found[side][-1], flush=True)
    rows = [
        {"memory": memory, "channels": channels}
        | {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
        for (memory, channels), runs in found.items()
    ]
    first = rows[0]["user"] + rows[0]["kernel"]
    for row in rows:
        row["time_to_first"] = round((row["user"] + row["kernel"]) / first, 3)
    write_json(resolve(arguments.out), {"batch": arguments.batch, "repeat": arguments.repeat, "rows": rows})


def one(memory: str, channels: str, batch: int) -> dict[str, float]:
    """Seconds for a step of an image, and the peak of memory, of this process."""
    import torch

    from raypurify.attacks import BIM
    from raypurify.nets.efficientnet_lite import load_efficientnet_lite
    from raypurify.runtime.allocator import keep_freed_memory

    torch.set_num_threads(1)
    if memory == "kept":
        assert keep_freed_memory()
    form = torch.contiguous_format if channels == "first" else torch.channels_last
    network = load_efficientnet_lite("efficientnet-lite0").to(memory_format=form)
    images = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = network(images).argmax(1)
    before = resource.getrusage(resource.RUSAGE_SELF)
    BIM(8 / 255, steps=STEPS)(network, images, labels)
    after = resource.getrusage(resource.RUSAGE_SELF)
    parts = {"user": after.ru_utime - before.ru_utime, "kernel": after.ru_stime - before.ru_stime}
    return {key: value / STEPS / batch for key, value in parts.items()} | {"peak_mb": after.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
