"""The command line: ``raypurify fit | train | purify | retry-failed | evaluate | retrain | serve | inspect …``.

Exits with 0 when all went well, 1 when the work is done but some images failed, 2 when it could not be done (one line
says why), 130 when interrupted.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypurify.errors import RaypurifyError

if TYPE_CHECKING:
    from raypurify.containers.ledger import Summary

app = typer.Typer(
    help="Remove adversarial perturbations from images, from ten on a laptop to ImageNet-sized sets on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130

ImageColumn = Annotated[
    str | None, typer.Option(help="Column of Parquet files with the images; default: image, or the one that it can be.")
]
Kind = Annotated[
    str | None, typer.Option(help="What to read where there are several: images, parquet or tars; default: found.")
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read folders and files that links lead to.")]
ImageMember = Annotated[
    str | None,
    typer.Option(
        metavar="EXT", help="Members of tars that are images, e.g. jpg or left.png,right.png; default: all but masks."
    ),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; default: $RAY_ADDRESS, else a local Ray.")]


def main() -> None:
    """Entry point: our own errors become one line and exit code 2."""
    try:
        app()
    except RaypurifyError as error:
        print(f"raypurify: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        # Typer makes an exit of Ctrl-C.
        if end.code == INTERRUPTED:
            print("raypurify: interrupted; the same command goes on from here", file=sys.stderr)
        raise


@app.command(epilog="Example: raypurify fit --data train.parquet --preset tiny --run-dir runs/tiny")
def fit(
    data: Annotated[
        list[str], typer.Option(help="Labelled clean images: Parquet, tars, a folder, or a pattern; may be repeated.")
    ],
    run_dir: Annotated[Path, typer.Option(help="Folder for every stage's files and the bundle; shared by all nodes.")],
    more_data: Annotated[
        list[str] | None, typer.Argument(help="More Parquet files, as a shell's * gives them.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Settings by name: tiny, cifar10, imagenet10, paper …")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a YAML file.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. csc.lmbda=0.1; may be repeated.")
    ] = None,
    image_column: ImageColumn = None,
    kind: Kind = None,
    follow_links: FollowLinks = False,
    image_member: ImageMember = None,
    address: Address = None,
) -> None:
    """Learn a bundle from clean labelled images. Run it again after an interruption: it goes on."""
    from raypurify.config import load_settings, presets
    from raypurify.fit.run import fit as run

    if not preset and not config:
        raise typer.BadParameter(f"give --preset ({', '.join(presets())}) or --config", param_hint="--preset")
    settings = load_settings(preset, config, tuple(set or ()))
    bundle = run(
        [*data, *(more_data or [])],
        settings,
        run_dir,
        address,
        image_column=image_column,
        image_member=image_member,
        kind=kind,
        follow_links=follow_links,
    )
    print(f"bundle: {bundle}" + (f" ({settings.note})" if settings.note else ""))


@app.command(epilog="Example: raypurify train --config settings.yaml --images runs/a/prepare --out runs/baseline")
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
    from raypurify.training.held_out import read_and_hold_out
    from raypurify.training.single import train_here

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
    )


@app.command(epilog="Example: raypurify purify photos/ clean/ --bundle cifar10")
def purify(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN", help="Images in folders, Parquet or WebDataset tars: paths, URIs or patterns."),
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="Where the same kind of container is written.")],
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name, a folder or a URI.")] = "cifar10",
    format: Annotated[str, typer.Option(help="png, webp (both lossless) or jpeg (itself a purifier).")] = "png",
    overwrite: Annotated[bool, typer.Option(help="Replace what an earlier job wrote to OUT.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Larger images become error rows.", min=1)] = None,
    sheet: Annotated[int, typer.Option(help="Input/purified pairs in the picture; 0: no picture.", min=0, max=64)] = 8,
    limit: Annotated[int | None, typer.Option(help="Purify the first so many images only.", min=1)] = None,
    sample: Annotated[int | None, typer.Option(help="Purify a seeded choice of so many images only.", min=1)] = None,
    image_column: ImageColumn = None,
    kind: Kind = None,
    follow_links: FollowLinks = False,
    image_member: ImageMember = None,
    drop_failed: Annotated[
        bool,
        typer.Option("--drop-failed", help="Leave Parquet rows and samples out whose image failed; else only it."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an input with a damaged tar or Parquet file; else do the others.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do part I of N of OUT; other jobs do the others.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do shards with failed images again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; count, and estimate the cost from a few images.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="actors of this job, or serve: the endpoint of the same cluster.")
    ] = "actors",
    actor_cpus: Annotated[float, typer.Option(help="CPUs, and threads, of an actor.")] = 1,
    actor_gpus: Annotated[
        float | None, typer.Option(help="Part of a GPU that an actor takes; default: what suits the cluster.")
    ] = None,
    address: Address = None,
) -> None:
    """Purify every image of IN into OUT: same names, same sizes, lossless, with provenance per image."""
    begun = time.monotonic()
    from raypurify.bulk.job import purify as run
    from raypurify.bulk.job import rehearse
    from raypurify.bulk.shards import ActorShape
    from raypurify.containers.selection import part_of
    from raypurify.purifiers.batch import MAX_PIXELS

    if dry_run:
        print(
            rehearse(
                inputs,
                output,
                bundle,
                format=format,
                overwrite=overwrite,
                max_pixels=max_pixels or MAX_PIXELS,
                limit=limit,
                sample=sample,
                image_column=image_column,
                kind=kind,
                follow_links=follow_links,
                image_member=image_member,
                strict=strict,
                address=address,
            )
        )
        return
    summary = run(
        inputs,
        output,
        bundle,
        format=format,
        overwrite=overwrite,
        max_pixels=max_pixels or MAX_PIXELS,
        sheet=sheet,
        limit=limit,
        sample=sample,
        image_column=image_column,
        kind=kind,
        follow_links=follow_links,
        image_member=image_member,
        drop_failed=drop_failed,
        strict=strict,
        part=part_of(shard) if shard else None,
        retry_failed=retry_failed,
        engine=engine,
        actor=ActorShape(actor_cpus, actor_gpus),
        address=address,
    )
    _report(summary, output, time.monotonic() - begun)


@app.command(epilog="Example: raypurify retry-failed clean/")
def retry_failed(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output of a purify job.")], address: Address = None
) -> None:
    """Do the shards of OUT again in which images failed, with the inputs, bundle and settings recorded there."""
    from raypurify.bulk.job import retry

    begun = time.monotonic()
    _report(retry(output, address=address), output, time.monotonic() - begun)


def _report(summary: "Summary | None", output: str, seconds: float) -> None:
    """What became of a purify job; exits with 1 where images failed, or files of the input could not be used."""
    from raypurify.cli.texts import summary_text

    print(summary_text(summary, output, seconds))
    if summary is not None and (summary.failed or summary.damaged):
        raise typer.Exit(1)


@app.command(epilog="Example: raypurify evaluate benchmarks/grids/cifar10.yaml --data DIR --out report/")
def evaluate(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="YAML: images, classifiers, attacks, purifiers.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, and for what a later run need not do again.")],
    data: Annotated[str | None, typer.Option(help="What {data} in the grid's paths stands for.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. images.limit=100.")] = None,
    address: Address = None,
) -> None:
    """Attack classifiers, purify, classify; a report of every combination. Run it again: it goes on."""
    from raypurify.evaluation.grid import load_grid
    from raypurify.evaluation.run import evaluate as run

    print(f"report: {run(load_grid(grid, data, set or ()), out, address=address)}")


@app.command(
    epilog="Example: raypurify retrain benchmarks/grids/cifar10-retrained.yaml --classifier ResNet-56 --purifier RSFP "
    "--data DIR --run-dir runs/retrained"
)
def retrain(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="The YAML of evaluate, with a part retraining.")],
    classifier: Annotated[str, typer.Option(help="The classifier of the grid to train on, from the weights it has.")],
    purifier: Annotated[str, typer.Option(help="The purifier of the grid whose images it is trained on.")],
    run_dir: Annotated[Path, typer.Option(help="Folder for every stage's files; shared by all nodes.")],
    data: Annotated[str | None, typer.Option(help="What {data} in the grid's paths stands for.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. retraining.limit=1000.")] = None,
    address: Address = None,
) -> None:
    """Train a classifier on purified images. Run it again after an interruption: it goes on."""
    from raypurify.evaluation.grid import load_grid
    from raypurify.evaluation.retrain import retrain as run

    weights = run(load_grid(grid, data, set or ()), classifier, purifier, run_dir, address=address)
    print(f"for a classifier of a grid: retrained: {weights}")


@app.command(epilog="Example: RAYPURIFY_TOKEN=... raypurify serve --bundle cifar10")
def serve(
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name, a folder or a URI.")] = "cifar10",
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no token; on loopback only.")] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token on each line, instead of $RAYPURIFY_TOKEN.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of a replica: cpu, cuda.")] = "cpu",
    replica_cpus: Annotated[float, typer.Option(help="CPUs of a replica, which are also its threads.", min=0)] = 1,
    replica_gpus: Annotated[
        float | None, typer.Option(help="GPUs of a replica, or a part of one; default: 1 for --device cuda.", min=0)
    ] = None,
    min_replicas: Annotated[int, typer.Option(help="Replicas when there is nothing to do.", min=0)] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(help="Replicas when there is much to do; default: what the CPUs allow.", min=1),
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest image; default 4,000,000 pixels.", min=1)] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest body of a request; default 16 MiB.", min=1)] = None,
    batch_pixels: Annotated[
        int | None, typer.Option(help="Pixels purified together; default 2^14 on a CPU, 2^20 on a GPU.", min=1)
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until callers get an answer; default 60.")] = None,
    address: Address = None,
) -> None:
    """Serve purification over HTTP: POST /v1/purify. Requests carry a token of $RAYPURIFY_TOKEN as a bearer token."""
    from raypurify.serve import run

    # Processes that Ray starts inherit the environment, and need no token.
    text = os.environ.pop("RAYPURIFY_TOKEN", "")
    if token_file is not None:
        text = _token_text(token_file)
    tokens = [line for line in text.splitlines() if line.strip()]
    if not no_auth and not tokens:
        raise typer.BadParameter(
            "no token: set RAYPURIFY_TOKEN, e.g. to the output of `openssl rand -hex 16`, or pass --no-auth",
            param_hint="RAYPURIFY_TOKEN",
        )
    if replica_gpus is None:
        replica_gpus = 1 if device.startswith("cuda") else 0
    chosen = {
        "max_replicas": max_replicas,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
        "batch_pixels": batch_pixels,
        "timeout_s": timeout,
    }
    run(
        bundle,
        host=host,
        port=port,
        token=None if no_auth else tokens,
        address=address,
        replica_cpus=replica_cpus,
        replica_gpus=replica_gpus,
        device=device,
        min_replicas=min_replicas,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _token_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}", param_hint="--token-file") from error


@app.command(epilog="Example: raypurify inspect cifar10")
def inspect(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle's name, a folder or a URI.")],
    json: Annotated[bool, typer.Option("--json", help="Print the whole manifest.")] = False,
) -> None:
    """Show what a bundle is, how it was made and what it measured; checks every file's digest."""
    from raypurify.bundle import read_facts
    from raypurify.cli.texts import bundle_text

    facts = read_facts(bundle)
    print(facts.manifest.model_dump_json(indent=1) if json else bundle_text(facts))


@app.command(epilog="Example: raypurify status runs/tiny")
def status(folder: Annotated[str, typer.Argument(help="A fit's run directory or a purify job's output.")]) -> None:
    """Show how far a fit or a purify job is, from its files alone, while it runs or after."""
    from raypurify.cli.texts import status_text

    print(status_text(folder))


@app.command(epilog="Example: raypurify doctor --address auto")
def doctor(address: Address = None) -> None:
    """Check packages, devices, bundles, sparse coding, disk and every node of a cluster; exits with 1 if one fails."""
    from raypurify.cli.doctor import examine

    failed = False
    for finding in examine(address):
        failed |= not finding.ok
        print(f"{finding.name:13} {'ok  ' if finding.ok else 'FAIL'} {finding.text}", flush=True)
    if failed:
        raise typer.Exit(1)
