"""What Ray Train and the semantic term cost a training step: ratios of medians, both sides in the same run.

    python benchmarks/training.py --run-dir RUN [--depth 16 --width 2 --batch 128] [--epochs 4] [--repeat 3]

RUN is the run directory of a fit, whose ``prepare`` folder is trained on.

Overhead: the same network on the same images for ``--epochs`` epochs, ``--repeat`` times in turn: by Ray Train with one
worker that Ray Data feeds, and by the plain loop on images in memory (``raypurify train``). Compared are
seconds per step of whole epochs without validation, the first epoch of every run left out.

Semantic: a step of robust semantic training over a step of PGD adversarial training, which is the same with α = 0 and
no clusters, on the same batch in turn. ``--clusters`` distributions of random latents stand for a fit's.
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from timing import in_turn, ratio

from raypurify.clusters import ClusterDistributions
from raypurify.config import AttackSettings, NetworkSettings, RobustTrainingSettings, Settings, TrainingSettings
from raypurify.fit.train import train
from raypurify.nets import WideResNet
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve
from raypurify.training.batch import Batch
from raypurify.training.data import VALIDATION, count_classes, read_set
from raypurify.training.kinds import kind_of
from raypurify.training.loop import precision
from raypurify.training.record import device_name, read_lines
from raypurify.training.single import train_here
from raypurify.training.start import starting_network

RESULTS = Path(__file__).parent / "results" / "training.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path)
    for name, value in (("depth", 16), ("width", 2), ("batch", 128), ("side", 32), ("epochs", 4), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clusters", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10, help="of the inner attack")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of a results file and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text("utf-8"))))
        return
    if arguments.run_dir is None:
        parser.error("give --run-dir")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = ("depth", "width", "batch", "side", "epochs", "repeat", "clusters", "steps")
    results = {
        "command": "python benchmarks/training.py --run-dir RUN "
        + " ".join(f"--{name} {getattr(arguments, name)}" for name in names),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "network": f"WRN-{arguments.depth}-{arguments.width}",
        "semantic": semantic(arguments, device),
        "overhead": overhead(arguments),
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(table(results))


def overhead(arguments) -> dict:
    """Seconds per step by Ray Train and by the plain loop."""
    prepared, side = arguments.run_dir / "prepare", arguments.side
    network = NetworkSettings(depth=arguments.depth, width=arguments.width)
    settings = TrainingSettings(epochs=arguments.epochs, batch_size=arguments.batch, workers=1)
    images, held_out = read_set([prepared], side), read_set([prepared], side, VALIDATION)
    steps = len(images) // arguments.batch
    architecture = network.model_dump() | {"classes": count_classes(images.labels, held_out.labels)}
    start = partial(starting_network, "random", architecture, 0)
    seconds: dict[str, list[float]] = {"ray": [], "plain": []}

    def by_ray(folder: Path) -> None:
        train(resolve(folder), resolve(prepared), len(images), side, start, settings, 0)

    def plain(folder: Path) -> None:
        train_here(folder, images, held_out, Settings(network=network, baseline=settings))

    with ray_session():
        for _ in range(arguments.repeat):
            for name, run in (("ray", by_ray), ("plain", plain)):
                with tempfile.TemporaryDirectory() as folder:
                    run(Path(folder))
                    seconds[name] += [line["seconds"] / steps for line in read_lines(Path(folder))[1:]]
    return {
        "images": len(images),
        "epochs_timed": len(seconds["ray"]),
        "over_plain": ratio(seconds, "ray", "plain"),
        "spread": {name: [round(min(s) / m, 3), round(max(s) / m, 3)] for name, s, m in medians(seconds)},
        "images_per_second": {name: round(arguments.batch / m, 1) for name, _, m in medians(seconds)},
    }


def semantic(arguments, device: torch.device) -> dict:
    """A step of robust semantic training over one of PGD adversarial training."""
    torch.manual_seed(0)
    network = WideResNet(arguments.depth, arguments.width, 10).to(device, memory_format=torch.channels_last)
    images = torch.rand(arguments.batch, 3, arguments.side, arguments.side, device=device)
    labels, clusters = (torch.randint(0, n, (arguments.batch,), device=device) for n in (10, arguments.clusters))
    latents = torch.rand(100 * arguments.clusters, network.dim)
    distributions = ClusterDistributions.fit(latents.numpy(), torch.arange(len(latents)).numpy() % arguments.clusters)
    common = {"attack": AttackSettings(norm="linf", eps=8 / 255, steps=arguments.steps)}
    settings = {name: RobustTrainingSettings(alpha=alpha, **common) for name, alpha in (("rst", 0.05), ("pgd", 0.0))}
    batch = Batch(images, labels, clusters)
    kinds = {"rst": kind_of(settings["rst"], distributions.to(device)), "pgd": kind_of(settings["pgd"])}
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, nesterov=True)

    def step(kind: str) -> None:
        loss, _ = kinds[kind].objective(network, images, batch, lambda: precision(settings[kind], device), None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())

    often = max(5, 3 * arguments.repeat)
    times = in_turn({kind: lambda kind=kind: step(kind) for kind in kinds}, often)
    return {"rst_over_pgd": ratio(times, "rst", "pgd"), "steps_timed": often}


def medians(seconds: dict[str, list[float]]):
    return [(name, values, statistics.median(values)) for name, values in seconds.items()]


def table(results: dict) -> str:
    """The ratios as Markdown."""
    over, semantic = results["overhead"], results["semantic"]
    return "\n".join(
        [
            f"| {results['network']}, {results['device']} | ratio | n |",
            "|---|---|---|",
            f"| Ray Train, one worker, over the plain loop, seconds per step | {over['over_plain']:.2f} "
            f"| {over['epochs_timed']} epochs of {over['images']:,} images |",
            f"| robust semantic step over PGD adversarial step | {semantic['rst_over_pgd']:.2f} "
            f"| {semantic['steps_timed']} steps |",
        ]
    )


if __name__ == "__main__":
    main()
