"""The networks of Table I of RSFP, trained here: what ``table1.py`` attacks.

    python benchmarks/table1_networks.py --data 'DIR/cifar10/train-*.parquet' --run-dir RUN [--set A.B=V …]

A fit of ``table1.yaml`` gives the undefended network and the clusters of its latents. Then, each with the settings of
its part ``robust``: PGD adversarial training and TRADES from random weights; semantic training (RST) from random
weights, from the first and from the second; and more epochs of adversarial training alone from the first, so that what
RST adds is not that it comes later. What starts from other weights takes half the epochs at a fifth of the rate. Run
again after an interruption, it goes on. At the end the command that measures the networks is printed.
"""

import argparse
import glob
import shlex
from pathlib import Path

from raypurify.config import Settings, load_settings
from raypurify.pipeline.fit import fit
from raypurify.training.data import VALIDATION, read_set
from raypurify.training.single import train_here

CONFIG = Path(__file__).with_name("table1.yaml")
# Name in the paper's table: folder, starting weights (a folder, or none), loss, pull to the clusters.
ROWS = {
    "PGDAT (Random)": ("pgdat", None, "ce", False),
    "PGDAT+RST (Random)": ("rst", None, "ce", True),
    "TRADES": ("trades", None, "trades", False),
    "PGDAT (PGDAT)": ("pgdat-pgdat", "pgdat", "ce", False),
    "PGDAT+RST (PGDAT)": ("rst-pgdat", "pgdat", "ce", True),
    "PGDAT+RST (Trades)": ("rst-trades", "trades", "ce", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled images, a pattern")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="one setting; may be repeated")
    arguments = parser.parse_args()
    settings = load_settings(path=CONFIG, overrides=tuple(arguments.set))
    run, nets = arguments.run_dir / "fit", arguments.run_dir / "networks"
    fit(sorted(glob.glob(arguments.data)), first_stages(settings), run)
    side = settings.data.image_size
    images, held_out = read_set([run / "prepare"], side), read_set([run / "prepare"], side, VALIDATION)
    networks = {"No defense": run / "baseline" / "network.safetensors"}
    for name, (folder, start, loss, pull) in ROWS.items():
        print(f"== {name}", flush=True)
        part = of_row(settings, loss, pull, start and nets / start / "network.safetensors")
        train_here(nets / folder, images, held_out, part, robust=True, clusters=run / "clusters" if pull else None)
        networks[name] = nets / folder / "network.safetensors"
    named = " ".join(shlex.quote(f"{name}={path}") for name, path in networks.items())
    print(f"python benchmarks/table1.py --networks {named} --data DIR")


def first_stages(settings: Settings) -> Settings:
    """A fit whose own robust network, which the table does not use, takes no time."""
    return settings.model_copy(update={"robust": settings.robust.model_copy(update={"epochs": 1})})


def of_row(settings: Settings, loss: str, pull: bool, start: Path | None) -> Settings:
    """The settings of one row."""
    robust = settings.robust
    changes = {"loss": loss, "alpha": robust.alpha if pull else 0.0, "init": str(start or "random")}
    if start:
        changes |= {"epochs": max(1, robust.epochs // 2), "lr": robust.lr / 5}
    return settings.model_copy(update={"robust": robust.model_copy(update=changes)})


if __name__ == "__main__":
    main()
