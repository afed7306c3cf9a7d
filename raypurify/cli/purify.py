"""The commands of bulk work: ``raypurify purify`` and ``raypurify retry-failed``."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypurify.cli.options import Address, FollowLinks, IdColumn, ImageColumn, ImageMember, Kind, LogFormat
from raypurify.cli.outcome import tell

if TYPE_CHECKING:
    from raypurify.containers.ledger import Summary


def purify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN", help="Folders of images, Parquet, WebDataset tars, arrays: paths, URIs or patterns."
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="Where the same kind of container is written.")],
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name, a folder or a URI.")] = "cifar10",
    format: Annotated[str, typer.Option(help="png, webp (both lossless) or jpeg (itself a purifier).")] = "png",
    compression: Annotated[
        str, typer.Option(help="small, or fast: png (with the extra fast) and webp in less time, of the same pixels.")
    ] = "small",
    overwrite: Annotated[bool, typer.Option(help="Replace what an earlier job wrote to OUT.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Larger images become error rows.", min=1)] = None,
    sheet: Annotated[int, typer.Option(help="Input/purified pairs in the picture; 0: no picture.", min=0, max=64)] = 8,
    limit: Annotated[int | None, typer.Option(help="Purify the first so many images only.", min=1)] = None,
    sample: Annotated[int | None, typer.Option(help="Purify a seeded choice of so many images only.", min=1)] = None,
    image_column: ImageColumn = None,
    id_column: IdColumn = None,
    kind: Kind = None,
    follow_links: FollowLinks = False,
    image_member: ImageMember = None,
    drop_failed: Annotated[
        bool,
        typer.Option("--drop-failed", help="Leave Parquet rows and samples out whose image failed; else only it."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an input with a damaged file of many images; else do the others.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do part I of N of OUT; other jobs do the others.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do shards with failed images again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; count, and estimate the cost from a few images.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="local: threads of this process; actors: Ray actors of this job; serve: the endpoint of the same "
            "cluster; auto: local for up to 2,048 images without a cluster and with one GPU at most, else actors."
        ),
    ] = "auto",
    actor_cpus: Annotated[float, typer.Option(help="CPUs, and threads, of an actor.")] = 1,
    actor_gpus: Annotated[
        float | None, typer.Option(help="Part of a GPU that an actor takes; default: what suits the cluster.")
    ] = None,
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Purify every image of IN into OUT: same names, same sizes, lossless, with provenance per image."""
    begun = time.monotonic()
    from raypurify.bulk.job import purify as run
    from raypurify.bulk.job import rehearse
    from raypurify.bulk.shards import ActorShape
    from raypurify.containers.selection import part_of
    from raypurify.images import MAX_PIXELS

    asked: dict[str, Any] = {
        "format": format,
        "compression": compression,
        "overwrite": overwrite,
        "max_pixels": max_pixels or MAX_PIXELS,
        "limit": limit,
        "sample": sample,
        "image_column": image_column,
        "id_column": id_column,
        "kind": kind,
        "follow_links": follow_links,
        "image_member": image_member,
        "strict": strict,
        "address": address,
    }
    part = part_of(shard) if shard else None
    if dry_run:
        asked["strict"] = strict or part is not None
        found = rehearse(inputs, output, bundle, **asked)
        counts = {"images": found.rows, "shards": found.shards, "damaged": found.damaged, "ignored": found.ignored}
        costs = {"core_seconds_an_image": found.seconds, "bytes_an_image": found.bytes}
        tell(**counts, measured=found.measured, measured_failed=found.failed, **costs)
        print(found)
        return
    summary = run(
        inputs,
        output,
        bundle,
        sheet=sheet,
        drop_failed=drop_failed,
        part=part,
        retry_failed=retry_failed,
        engine=engine,
        actor=ActorShape(actor_cpus, actor_gpus),
        **asked,
    )
    _report(summary, output, time.monotonic() - begun, bundle)


def retry_failed(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The output of a purify job.")],
    address: Address = None,
    log_format: LogFormat = None,
) -> None:
    """Do the shards of OUT again in which images failed, with the inputs, bundle and settings recorded there."""
    from raypurify.bulk.job import retry

    begun = time.monotonic()
    _report(retry(output, address=address), output, time.monotonic() - begun)


def _report(summary: "Summary | None", output: str, seconds: float, bundle: str = "") -> None:
    """What became of a purify job; exits with 1 where images failed, or files of the input could not be used."""
    from raypurify.cli.texts import summary_text
    from raypurify.storage import redact

    if summary is not None:
        counts = {
            "images": summary.rows,
            "purified": summary.written,
            "failed": summary.failed,
            "flagged": summary.flagged,
        }
        tell(output=redact(output), **counts, damaged=len(summary.damaged))
    print(summary_text(summary, output, seconds, bundle))
    if summary is not None and (summary.failed or summary.damaged):
        raise typer.Exit(1)
