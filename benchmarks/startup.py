"""How long it takes to begin, and small sets from the command to its end: in one process, and by actors.

    python benchmarks/startup.py [--repeat 5] [--parts commands stages first]

``commands``: what ``make demo`` runs, and ten of its images, by each engine in turn, each a process of its own.
``stages``: where the time of one process goes, by imports, bundle, Numba's cache and images, one after the other in a
process that does nothing else beside. ``first``: the demo of a new installation, whose caches of Numba and matplotlib
are empty. Parts are added to those of the results file. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bulk_job import commits

from raypurify.evaluation.clock import clock

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "startup.json"
EXAMPLES = HERE.parent / "examples" / "cifar10"
ENGINES = ("local", "actors")
# Each line is one stage, timed in its order.
STAGES = {
    "Python and the modules of a job": "import raypurify.cli.app, raypurify.bulk.job",
    "torch": "import torch",
    "the bundle": "import raypurify; purifier = raypurify.load('cifar10')",
    "Numba and what it has compiled": "import raypurify.csc._cd_kernels; purify(files[:1])",
    "an image": "purify(files[1:2])",
    "ten images": "purify(files[2:12])",
    "pandas (the first table)": "import pandas",
    "matplotlib (the picture)": "import raypurify.pictures; raypurify.pictures.pyplot()",
}
STAGED = """
import json, sys, time
begun, code = float(sys.argv[1]), json.loads(sys.argv[2])
files = [(name, open(name, "rb").read()) for name in sys.argv[3:]]
def purify(some):
    from raypurify.purifiers.batch import purify_files, purify_pixels
    torch.set_num_threads(1)
    return list(purify_files(lambda images: purify_pixels(purifier, images), some))
seconds = {}
for name, line in code.items():
    exec(line)
    seconds[name], begun = time.time() - begun, time.time()
print(json.dumps(seconds))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=("commands", "stages", "first"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results["cpus"] = os.cpu_count()
    with tempfile.TemporaryDirectory() as scratch:
        for part in arguments.parts:
            measure = {"commands": commands, "stages": stages, "first": first_call}[part]
            results[part] = measure(Path(scratch), arguments.repeat)
            print(json.dumps({part: results[part]}, indent=1), flush=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if {"commands", "stages", "first"} <= results.keys():
        print(table(results))


def commands(scratch: Path, repeat: int) -> dict:
    """Seconds of each command, until its first shard was committed, and until its last file was written."""
    ten = scratch / "ten"
    ten.mkdir()
    for file in sorted(EXAMPLES.rglob("*.png"))[:10]:
        shutil.copy(file, ten)
    found = {}
    for name, source in (("demo", EXAMPLES), ("ten images", ten)):
        sides = {engine: partial(command, source, scratch, "--engine", engine) for engine in ENGINES}
        runs = in_turn(sides, repeat)
        medians = {engine: medians_of(several) for engine, several in runs.items()}
        found[name] = {
            "median_seconds": medians,
            "actors_over_local": {
                key: round(medians["actors"][key] / medians["local"][key], 2) for key in medians["local"]
            },
            "seconds": runs,
        }
    return found


def command(source: Path, scratch: Path, *options: str, environment: dict[str, str] | None = None) -> dict:
    """One run of ``raypurify purify``, into a new folder."""
    out = scratch / "out"
    line = [Path(sys.executable).with_name("raypurify"), "purify", source, out, "--bundle", "cifar10", *options]
    began, begun = clock_of_files(scratch), clock()
    subprocess.run(line, check=True, capture_output=True, env=os.environ | (environment or {}))
    seconds = clock() - begun
    first, _ = commits(out, began)[0]
    last = max(file.stat().st_mtime for file in out.rglob("*") if file.is_file()) - began
    shutil.rmtree(out)
    return {"whole": round(seconds, 2), "first_shard": round(first, 2), "last_file": round(last, 2)}


def clock_of_files(scratch: Path) -> float:
    """What the file system calls now."""
    (scratch / "now").touch()
    return (scratch / "now").stat().st_mtime


def stages(scratch: Path, repeat: int) -> dict:
    """Seconds of each stage of one process."""
    files = [str(file) for file in sorted(EXAMPLES.rglob("*.png"))[:12]]

    def staged() -> dict:
        line = [sys.executable, "-c", STAGED, str(clock_of_files(scratch)), json.dumps(STAGES), *files]
        said = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        return {name: round(seconds, 3) for name, seconds in json.loads(said).items()}

    runs = in_turn({"here": staged}, repeat)["here"]
    return {"median_seconds": medians_of(runs), "seconds": runs}


def first_call(scratch: Path, repeat: int) -> dict:
    """Seconds of the demo where nothing is cached, and of the next call."""
    runs = {"first": [], "second": []}
    for number in range(min(repeat, 3)):
        caches = scratch / f"caches-{number}"
        environment = {"NUMBA_CACHE_DIR": str(caches / "numba"), "MPLCONFIGDIR": str(caches / "matplotlib")}
        for name, several in runs.items():
            several.append(command(EXAMPLES, scratch, environment=environment))
            print(name, several[-1], flush=True)
    return {"median_seconds": {name: medians_of(several) for name, several in runs.items()}, "seconds": runs}


def in_turn(sides: dict[str, Callable[[], dict]], repeat: int) -> dict[str, list[dict]]:
    """What each side gives, in turn, after one round that does not count."""
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    for number in range(repeat + 1):
        for name, run in sides.items():
            facts = run()
            print(number, name, facts, flush=True)
            runs[name] += [facts] * bool(number)
    return runs


def table(results: dict) -> str:
    """Seconds of whole commands, and until their first shard; and of the stages of one process."""
    lines = ["| seconds: to the first shard, in all | one process | actors | ratio |", "|---|---|---|---|"]
    for name, shown in (("demo", "`make demo`, 48 images"), ("ten images", "ten of them")):
        facts = results["commands"][name]
        cells = [_cell(facts["median_seconds"][engine]) for engine in ENGINES]
        lines.append(f"| {shown} | {' | '.join(cells)} | {facts['actors_over_local']['whole']:.1f} |")
    lines.append(f"| `make demo`, nothing cached yet | {_cell(results['first']['median_seconds']['first'])} | | |")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in results["stages"]["median_seconds"].items())
    return "\n".join((*lines, "", f"Seconds in one process: {stages}."))


def _cell(facts: dict) -> str:
    return f"{facts['first_shard']:.1f}, {facts['whole']:.1f}"


def medians_of(runs: list[dict]) -> dict:
    """The median of each figure."""
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


if __name__ == "__main__":
    main()
