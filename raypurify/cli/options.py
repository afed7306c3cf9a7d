"""Options that several commands have."""

from typing import Annotated

import typer

ImageColumn = Annotated[
    str | None, typer.Option(help="Column of Parquet files with the images; default: image, or the one that it can be.")
]
IdColumn = Annotated[
    str | None, typer.Option(help="Column of Parquet files with unique ids; default: id, if it serves.")
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of Parquet files with class indices or names; default: label.")
]
Kind = Annotated[
    str | None,
    typer.Option(help="What to read where there are several: images, parquet, tars or arrays; default: found."),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read folders and files that links lead to.")]
ImageMember = Annotated[
    str | None,
    typer.Option(
        metavar="EXT", help="Members of tars that are images, e.g. jpg or left.png,right.png; default: all but masks."
    ),
]


def _log_as(form: str | None) -> str | None:
    from raypurify.runtime.events import log_as

    log_as(form)
    return form


LogFormat = Annotated[
    str | None,
    typer.Option(
        callback=_log_as,
        help="plain, or json: a line of JSON for each event, on standard error; default: $RAYPURIFY_LOG, else plain.",
    ),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; default: $RAY_ADDRESS, else a local Ray.")]
