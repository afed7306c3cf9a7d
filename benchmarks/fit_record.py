"""What the stages of a fit took, and its trainings epoch by epoch, from the files of its run directory.

    python benchmarks/fit_record.py --run-dir RUN [--out benchmarks/results/cifar10-fit.json]

``--table`` prints the stages of a results file as Markdown.
"""

import argparse
import json
from pathlib import Path

from raypurify.fit.graphs import begun_stages
from raypurify.runtime.stages import MARKER
from raypurify.storage import resolve
from raypurify.training.record import read_lines

RESULTS = Path(__file__).parent / "results" / "cifar10-fit.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of a results file and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.run_dir is None:
            parser.error("give --run-dir")
        arguments.out.write_text(json.dumps(record(arguments.run_dir), indent=1) + "\n", "utf-8")
    print(table(json.loads(arguments.out.read_text("utf-8"))))


def record(run: Path) -> dict:
    """Seconds of every complete stage, and the metrics of its epochs where it trained."""
    stages = {}
    for name in begun_stages(resolve(run))[1]:
        if (run / name / MARKER).exists():
            marker = json.loads((run / name / MARKER).read_text("utf-8"))
            stages[name] = {"seconds": marker["seconds"], "epochs": read_lines(run / name)}
    return stages


def table(stages: dict) -> str:
    """The stages as Markdown."""
    rows = ["| stage | seconds | epochs | images/s in the last | validation, clean | under PGD | on |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, stage in stages.items():
        last = stage["epochs"][-1] if stage["epochs"] else {}
        facts = [f"{stage['seconds']:.0f}", str(len(stage["epochs"])) if last else ""]
        facts += [f"{last['images_per_second']:,.0f}" if last else ""]
        keys = ("validation_accuracy", "validation_pgd_accuracy")
        facts += [f"{100 * last[key]:.1f} %" if key in last else "" for key in keys]
        rows.append(f"| {name} | " + " | ".join([*facts, last.get("device", "").removeprefix("NVIDIA ")]) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
