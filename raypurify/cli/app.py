"""The command line: ``raypurify demo | purify | fit | train | evaluate | retrain | serve | inspect | adjust …``.

Exits with 0 when all went well, 1 when the work is done but some images failed, 2 when it could not be done (one line
says why, or a traceback where nobody foresaw it), 130 when interrupted.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from raypurify.cli.commands import PARTLY, Commands, command
from raypurify.cli.demo import demo
from raypurify.cli.options import Address, FollowLinks, IdColumn, ImageColumn, ImageMember, Kind, LabelColumn, LogFormat
from raypurify.cli.outcome import INTERRUPTED, answer, tell
from raypurify.cli.purify import purify, retry_failed
from raypurify.cli.serve import serve
from raypurify.cli.settings import settings
from raypurify.errors import ConfigError, RaypurifyError

app = typer.Typer(
    cls=Commands,
    help="Remove adversarial perturbations from images, from ten on a laptop to ImageNet-sized sets on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: :func:`run`, and with ``--json`` one line of JSON as all of standard output."""
    given = sys.argv[1:]
    if "--json" in given[: given.index("--") if "--" in given else None]:
        answer(next((word for word in given if not word.startswith("-")), ""), run, alone=True)
    run()


def run() -> None:
    """Run the command of ``sys.argv``. Our own errors become one line and exit code 2; any other has its traceback,
    too, and is no 1, which means that some images failed."""
    try:
        _check_given(sys.argv[1:])
        app()
    except RaypurifyError as error:
        text = " ".join(str(error).split())
        tell(error=text)
        _say("failed", logging.ERROR, text)
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        sys.exit(2)
    except SystemExit as end:
        # Typer makes an exit of Ctrl-C.
        if end.code == INTERRUPTED:
            _say("interrupted", logging.WARNING, "interrupted; the same command goes on from here")
        raise


def _check_given(words: list[str]) -> None:
    """Raises ConfigError for an empty word, which as a path would be the current folder."""
    for before, word in zip(["", *words], words):
        if not word or (word.startswith("--") and word.endswith("=")):
            where = f" of {word or before}" if (word or before).startswith("-") else ""
            raise ConfigError(
                f"an empty value{where}, as a variable that is not set leaves it: give one, or leave it out"
            )


def _say(event: str, level: int, text: str) -> None:
    from raypurify.runtime.events import log_event

    log_event(event, f"raypurify: {text}", level, aside=True, text=text)


def _version(asked: bool) -> None:
    if asked:
        from raypurify.version import described

        print(described())
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 all done; 1 done in part; 2 not done; 130 interrupted: see raypurify COMMAND --help."
)
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say what is installed here, and end.")
    ] = False,
) -> None:
    pass


def fit(
    data: Annotated[
        list[str],
        typer.Option(help="Labelled clean images: Parquet, tars, arrays, a folder, a pattern; may be repeated."),
    ],
    run_dir: Annotated[
        str, typer.Option(help="Folder or URI for every stage's files and the bundle; shared by all nodes.")
    ],
    more_data: Annotated[
        list[str] | None, typer.Argument(help="More Parquet files, as a shell's * gives them.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings by name: tiny, cifar10, imagenet10, paper, tiny-stl, tiny-region …")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a YAML file.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. csc.lmbda=0.1; may be repeated.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="What to fit: rsfp, stl, region_sparse or front_end; default: what the settings say, else rsfp."
        ),
    ] = None,
    image_column: ImageColumn = None,
    id_column: IdColumn = None,
    label_column: LabelColumn = None,
    kind: Kind = None,
    follow_links: FollowLinks = False,
    image_member: ImageMember = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="End after this stage. Of rsfp: prepare, baseline, latents, clusters, samples, dictionaries, "
            "robust_first, robust, robust_latents, robust_clusters, calibrate; of stl: prepare, dae, latents, strata, "
            "samples, dictionaries, calibrate; of region_sparse: prepare, dictionary, calibrate; of front_end: "
            "prepare, dictionary, decoder, calibrate."
        ),
    ] = None,
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Learn a bundle from clean labelled images. Run it again after an interruption: it goes on."""
    from raypurify.config import load_settings, presets
    from raypurify.fit.run import fit as run

    if not preset and not config:
        raise typer.BadParameter(f"give --preset ({', '.join(presets())}) or --config", param_hint="--preset")
    settings = load_settings(preset, config, (*(set or ()), *([f"method={method}"] if method else [])))
    made = run(
        [*data, *(more_data or [])],
        settings,
        run_dir,
        address,
        image_column=image_column,
        id_column=id_column,
        label_column=label_column,
        image_member=image_member,
        kind=kind,
        follow_links=follow_links,
        until=until,
    )
    tell(**{until or "bundle": str(made)}, method=settings.method)
    print(f"{until or 'bundle'}: {made}" + (f" ({settings.note})" if settings.note and not until else ""))


def train(
    config: Annotated[Path, typer.Option(help="Settings from a YAML file, that of raypurify fit.")],
    images: Annotated[
        list[Path],
        typer.Option(help="The prepare folder of a fit, Parquet of its form, or NPZ; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the network, metrics and checkpoints.")],
    more_images: Annotated[
        list[Path] | None, typer.Argument(help="More files of images, as a shell's * gives them.")
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Images to validate on; default: the folder's own, else a seeded choice. May be repeated."),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. baseline.lr=0.05; may be repeated.")
    ] = None,
    clusters: Annotated[
        Path | None, typer.Option(help="The clusters folder of a fit: train the robust network.")
    ] = None,
    robust: Annotated[
        bool, typer.Option("--robust", help="Train a robust network without clusters (robust.alpha=0).")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="The network that robust.init: baseline, or first, starts from.")
    ] = None,
    every: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs between checkpoints.", min=1)] = 1,
) -> None:
    """Train the baseline network, or the robust one, on this machine without Ray. Run it again: it goes on."""
    from raypurify.config import load_settings
    from raypurify.errors import ConfigError
    from raypurify.runtime.events import log_event
    from raypurify.training.held_out import read_and_hold_out
    from raypurify.training.single import NETWORK, train_here

    settings, robust = load_settings(path=config, overrides=tuple(set or ())), robust or clusters is not None
    if baseline and not robust:
        raise ConfigError("--baseline is what a robust training starts from: give --clusters or --robust too")
    paths = [*images, *(more_images or [])]
    train_here(
        out,
        *read_and_hold_out(paths, held_out or [], settings.data, settings.seed),
        settings,
        robust=robust,
        clusters=clusters,
        baseline=baseline,
        every=every,
        say=lambda text: log_event("epoch", text),
    )
    network = str(out / NETWORK)
    tell(network=network)
    print(f"network: {network}")


def evaluate(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="YAML: images, classifiers, attacks, purifiers.")],
    out: Annotated[str, typer.Option(help="Folder or URI for the report, and for what a later run need not do again.")],
    data: Annotated[str | None, typer.Option(help="What {data} in the grid's paths stands for.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. images.limit=100.")] = None,
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Attack classifiers, purify, classify; a report of every combination. Run it again: it goes on."""
    from raypurify.evaluation.grid import load_grid
    from raypurify.evaluation.run import evaluate as run

    page = run(load_grid(grid, data, set or ()), out, address=address)
    tell(report=str(page))
    print(f"report: {page}")


def retrain(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="The YAML of evaluate, with a part retraining.")],
    classifier: Annotated[str, typer.Option(help="The classifier of the grid to train on, from the weights it has.")],
    purifier: Annotated[str, typer.Option(help="The purifier of the grid whose images it is trained on.")],
    run_dir: Annotated[str, typer.Option(help="Folder or URI for every stage's files; shared by all nodes.")],
    data: Annotated[str | None, typer.Option(help="What {data} in the grid's paths stands for.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. retraining.limit=1000.")] = None,
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Train a classifier on purified images. Run it again after an interruption: it goes on."""
    from raypurify.evaluation.grid import load_grid
    from raypurify.evaluation.retrain import retrain as run

    weights = run(load_grid(grid, data, set or ()), classifier, purifier, run_dir, address=address)
    tell(weights=str(weights))
    print(f"for a classifier of a grid: retrained: {weights}")


def inspect(bundle: Annotated[str, typer.Argument(help="A shipped bundle's name, a folder or a URI.")]) -> None:
    """Show what a bundle is, how it was made and what it measured; checks every file's digest."""
    from raypurify.cli.texts import bundle_text
    from raypurify.methods import checked_facts

    facts = checked_facts(bundle)
    tell(**facts.manifest.model_dump(mode="json"), digest=facts.digest)
    print(bundle_text(facts))


def adjust(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle's name, a folder or a URI.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URI for the bundle that is made.")],
    set: Annotated[list[str], typer.Option("--set", help="One setting, e.g. csc.lmbda=0.1; may be repeated.")],
) -> None:
    """Make a bundle that rewrites images with other settings; what was learned stays."""
    from raypurify.methods.adjust import adjust as make
    from raypurify.storage import redact

    digest = make(bundle, out, set)
    shown = redact(out)
    tell(bundle=shown, digest=digest)
    print(f"{shown}: a bundle of digest {digest[:16]}…, for purify --bundle, serve --bundle and raypurify.load")


def status(folder: Annotated[str, typer.Argument(help="A fit's run directory or a purify job's output.")]) -> None:
    """Show how far a fit or a purify job is, from its files alone, while it runs or after."""
    from raypurify.cli.texts import status_facts, status_text

    facts = status_facts(folder)
    tell(**facts)
    print(status_text(facts))


def doctor(
    address: Address = None,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage",
            "--run-dir",
            help="Folder or URI that every node has to read and write, as a run directory; may be repeated.",
        ),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle that every node has to open: a shipped one's name, a folder or a URI.")
    ] = None,
) -> None:
    """Check packages, devices, bundles, sparse coding, disk, and whether the nodes of a cluster answer and agree in
    versions, GPUs, clocks, storage and bundle; exits with 1 if a check fails."""
    from raypurify.cli.doctor import examine

    findings: list[dict[str, str]] = []
    tell(findings=findings)
    for finding in examine(address, storage or (), bundle):
        findings.append({"name": finding.name, "state": finding.state, "text": finding.text})
        print(f"{finding.name:13} {finding.state:4} {finding.text}", flush=True)
    if any(one["state"] == "FAIL" for one in findings):
        raise typer.Exit(1)


_GOES_ON = "the same command goes on from there"
_RETRAINED = (
    "raypurify retrain benchmarks/grids/cifar10-retrained.yaml --classifier ResNet-56 --purifier RSFP --data DIR "
    "--run-dir runs/retrained"
)
command(app, demo, "raypurify demo", partly=PARTLY, again=_GOES_ON)
command(app, purify, "raypurify purify photos/ clean/ --bundle cifar10", partly=PARTLY, again=_GOES_ON)
command(app, retry_failed, "raypurify retry-failed clean/", partly=PARTLY, again=_GOES_ON)
command(app, fit, "raypurify fit --data train.parquet --preset tiny --run-dir runs/tiny", again=_GOES_ON)
command(app, settings, "raypurify settings --preset cifar10 > settings.yaml", done="told", progress=False)
command(
    app,
    train,
    "raypurify train --config settings.yaml --images runs/a/prepare --out runs/baseline",
    again=f"after an epoch, {_GOES_ON}",
)
command(
    app,
    evaluate,
    "raypurify evaluate benchmarks/grids/cifar10.yaml --data DIR --out report/",
    again=_GOES_ON,
)
command(app, retrain, _RETRAINED, again=_GOES_ON)
command(
    app,
    serve,
    "RAYPURIFY_TOKEN=... raypurify serve --bundle cifar10",
    done="ended by Ctrl-C or SIGTERM, after its last answers",
    result=False,
    progress=False,
)
command(app, inspect, "raypurify inspect cifar10", done="the bundle is whole", progress=False)
command(
    app,
    adjust,
    "raypurify adjust imagenet10 bundles/stronger --set csc.tikhonov=20 --set csc.noise_factor=14 --set csc.refit=true",
    progress=False,
)
command(app, status, "raypurify status runs/tiny", done="told, whether or not it is complete", progress=False)
command(
    app,
    doctor,
    "raypurify doctor --address auto --storage s3://bucket/run",
    done="every check is passed, perhaps with warnings",
    partly="a check failed",
    progress=False,
)
