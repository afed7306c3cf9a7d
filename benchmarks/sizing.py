"""What a CPU core and a GPU do in a second, from the results of the other benchmarks.

python benchmarks/sizing.py      the table of docs/cluster.md
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
# A set of images of bulk.json, its bundle, and what codes as many on a GPU in csc_gpu.jsonl.
SETS = (
    ("CIFAR-10 test, 32²", "cifar10", "32², batch 1024, own"),
    ("Imagenette, 224²", "imagenet10", "224², batch 64, own"),
)


def table() -> str:
    """Images a second of a bulk job for a CPU core, and of sparse coding alone for a GPU, as Markdown."""
    bulk = json.loads((FOLDER / "bulk.json").read_text("utf-8"))["tensors"]
    jobs = {one["set"]: one["jobs"]["Parquet"]["images_per_second"]["steady"] for one in bulk["sets"]}
    coding = [json.loads(line) for line in (FOLDER / "csc_gpu.jsonl").read_text("utf-8").splitlines()]
    # Of the methods that a case was solved by, the quicker one.
    coding = {one["case"]: one for one in sorted(coding, key=lambda one: -one["ms_per_image"])}
    cores, gpu = bulk["machine"]["cores"], coding[SETS[0][2]]["gpu"]
    rows = [
        f"| images, bundle | r, a CPU core ({bulk['machine']['cpu']}) | r, a GPU ({gpu}), at most |",
        "|---|---|---|",
    ]
    for name, bundle, case in SETS:
        rows.append(f"| {name}, `{bundle}` | {jobs[name] / cores:.1f} | {1e3 / coding[case]['ms_per_image']:,.0f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
