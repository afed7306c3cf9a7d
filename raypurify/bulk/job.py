"""Bulk purification: the shards of a source into a sink of the same container, each exactly once."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from raypurify.bulk.engine import after_deaths, check_engine, chosen_engine
from raypurify.bulk.estimate import Estimate, estimate
from raypurify.bulk.growth import Growth, left_of
from raypurify.bulk.local import load_here, work_off_here
from raypurify.bulk.planning import Early, looking_for, planned_for, planned_in_parts
from raypurify.bulk.shards import ActorShape, work_off_shards
from raypurify.bulk.work import Work
from raypurify.bundle.manifest import absolute
from raypurify.containers.at_work import AtWork
from raypurify.containers.lease import held
from raypurify.containers.ledger import STATE, Summary
from raypurify.containers.selection import select, shards_of
from raypurify.containers.sink import finish, holds_files, missing, open_sink, output_of, recorded_job, reopen_failed
from raypurify.errors import SinkError
from raypurify.images import MAX_PIXELS
from raypurify.methods import facts_for_all
from raypurify.pictures import contact_sheet, pyplot
from raypurify.runtime.events import log_event
from raypurify.runtime.session import ray_session
from raypurify.storage import redact


def purify(
    inputs: list[str],
    output: str,
    bundle: str = "cifar10",
    *,
    format: str = "png",
    compression: str = "small",
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    sheet: int = 8,
    limit: int | None = None,
    sample: int | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
    kind: str | None = None,
    follow_links: bool = False,
    image_member: str | None = None,
    drop_failed: bool = False,
    strict: bool = False,
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    engine: str = "auto",
    actor: ActorShape | None = None,
    address: str | None = None,
) -> Summary | None:
    """Purify every image of ``inputs`` (a folder, Parquet files, tars, arrays) into ``output``, the same container.

    Small sets are done in this process, others on the Ray cluster there is, or one that is started. Shards that an
    earlier run committed are kept; a bad image becomes a row of ``errors.parquet`` and stops nothing, nor does a
    container that cannot be read any more: its shards stay undone, and a SourceError at the end says so. Files that
    cannot be used from the beginning are told of at once and left out; the summary names them, and a later run that
    finds them mended does them. ``strict`` refuses them. Of many tars, those that have been looked into are worked on
    while the others are.
    ``sheet`` input/output pairs, a seeded choice of what is known when work begins, are drawn into
    ``output/_raypurify/sheet.png`` (0: none). ``limit`` and ``sample`` take part of the images
    (:mod:`raypurify.containers.selection`). ``image_column`` holds the images of Parquet files and ``id_column`` what
    names them in records, ``image_member`` names those of tars; where they are not given, they are those of the job
    that ``output`` belongs to, or found (:func:`raypurify.containers.source.open_source`, which also says what ``kind``
    and ``follow_links`` do and which patterns may name inputs). Rows of Parquet files and samples of tars whose image
    failed keep what else they hold, and with ``drop_failed`` are left out; in arrays such an image stays as it was.
    ``part`` (i, n) does every n-th shard, beside jobs that do the others. ``retry_failed`` does shards with bad images
    again, and not in a part. One job at a time writes an output, or a part of it.
    ``engine`` says who purifies: ``"local"``, threads of this process; ``"actors"`` of this job, each of the shape
    ``actor`` (what suits the cluster where it is None); ``"serve"``, the application "raypurify" that runs on this
    cluster with the same bundle; or ``"auto"``, one of the first two
    (:func:`raypurify.bulk.engine.chosen_engine`). The bytes are the same. ``format`` and ``compression`` are those of
    :func:`raypurify.images.encode_image`.

    Returns the summary, or None where other parts are not done. Raises SourceError, SinkError or BundleError.
    """
    check_engine(engine, address)
    reading: dict[str, Any] = {"kind": kind, "follow_links": follow_links}
    named: dict[str, Any] = {"image_column": image_column, "id_column": id_column, "image_member": image_member}
    if part and overwrite:
        raise SinkError(
            f"{redact(output)}: overwriting in a part would remove what other parts wrote; choose another output"
        )
    if part and retry_failed:
        raise SinkError(
            f"{redact(output)}: doing failed images again in a part would take back what other parts join; call "
            f"raypurify retry-failed {redact(output)} when all parts are done"
        )
    # Row numbers, by which images are chosen, would move when a file is mended, and so would the shards of a part.
    strict, here = strict or bool(limit or sample or part), engine == "local"
    with ExitStack() as stack:
        looking = stack.enter_context(looking_for(output, overwrite, strict, address=address, here=here, inputs=inputs))
        early = Early()
        # All names of outputs are to be known before what is there is removed.
        whole = strict or here or (overwrite and holds_files(output))
        growing = None if whole else early
        sources = planned_in_parts(output, inputs, overwrite, looking, growing, **named, **reading)
        source = select(next(sources), limit, sample)
        settings = {"bundle": facts_for_all(bundle).digest, "max_pixels": max_pixels}
        shape, out = actor or ActorShape(), output_of(output, source)
        who, note = chosen_engine(engine, source, shape, address), AtWork(out, part)
        if who == "local":
            # Torch is imported while it is found out whether the output is free; not where actors may be who go on,
            # as a purifier that is loaded here keeps memory, on a GPU too, that they need.
            loader = stack.enter_context(ThreadPoolExecutor(1))
            load = partial(loader.submit, load_here, bundle, shape.gpus)
            loaded = None if note.died_over() else load()
        lease = stack.enter_context(held(out, part))
        who = after_deaths(who, engine, note)
        claim = partial(
            open_sink,
            output,
            settings=settings,
            format=format,
            compression=compression,
            arguments=_arguments(inputs, bundle, {"limit": limit, "sample": sample, **reading}),
            drop_failed=drop_failed,
            alone=part is None,
        )
        sink = claim(source, overwrite=overwrite)
        if retry_failed:
            reopen_failed(output)
        mine = shards_of(source.shards, part)
        todo = left_of(mine, sink)
        growth = None
        if source.seen_to:
            # Joined here, where it ends, before others would.
            stack.enter_context(ray_session(address))
            growth = Growth(source, sources, early, claim)
            stack.callback(growth.close)
        if todo or growth:
            rows = [np.arange(shard.first_row, shard.first_row + shard.rows) for shard in mine]
            chosen = np.random.default_rng(0).permutation(np.concatenate(rows))[:sheet]
            work = Work(absolute(bundle), sink, max_pixels, frozenset(chosen.tolist()), who)
            if who == "local":
                if sheet:
                    loader.submit(pyplot)
                pairs = work_off_here(todo, mine, work, shape, lease.check, note, loaded or load())
            else:
                pairs = work_off_shards(todo, mine, work, shape, lease.check, address, growth)
                note.clear()
            if pairs:
                picture = contact_sheet(sorted(pairs, key=lambda pair: pair.title))
                sink.put(f"{STATE}/sheet.png", picture)
        elif mine:
            text = f"purify: nothing to do, all {len(mine)} shards were done before and are kept"
            log_event("stage_skipped", text, aside=True, run=str(sink.place), stage="purify", shards=len(mine))
        if growth:
            sink = growth.whole()
        if part and missing(sink):
            return None
        return finish(sink, alone=part is None)


def retry(output: str, *, address: str | None = None) -> Summary | None:
    """Do the shards of an output again in which images failed, from the inputs and with the bundle of the job that is
    recorded there. Raises SinkError where that cannot be read off, and what ``purify`` raises."""
    job = recorded_job(output)
    arguments, settings = job.get("arguments", {}), job["settings"]
    if not arguments:
        raise SinkError(
            f"{redact(output)}: its record names no inputs (an older version wrote it, or they hold a password); "
            "run the same purify command with --retry-failed"
        )
    return purify(
        arguments["inputs"],
        output,
        arguments["bundle"],
        format=job["format"],
        compression=settings.get("compression", "small"),
        max_pixels=settings["max_pixels"],
        sheet=0,
        limit=arguments["limit"],
        sample=arguments["sample"],
        image_column=settings.get("image_column"),
        id_column=settings.get("id_column"),
        kind=arguments.get("kind"),
        follow_links=arguments.get("follow_links", False),
        image_member=settings.get("image_member"),
        # Jobs that were recorded before there was a choice left them out.
        drop_failed=settings.get("drop_failed", True),
        retry_failed=True,
        address=address,
    )


def rehearse(
    inputs: list[str],
    output: str,
    bundle: str = "cifar10",
    *,
    format: str = "png",
    compression: str = "small",
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    limit: int | None = None,
    sample: int | None = None,
    strict: bool = False,
    address: str | None = None,
    **reading: Any,
) -> Estimate:
    """What :func:`purify` would do and cost; nothing is written, and refused is what it would refuse of the input.
    ``reading`` are options of ``open_source``."""
    strict = strict or bool(limit or sample)
    with looking_for(output, overwrite, strict, reading=True, address=address, inputs=inputs) as looking:
        source = planned_for(output, inputs, limit, sample, overwrite, looking, **reading)
        output_of(output, source)
        return estimate(source, bundle, format=format, max_pixels=max_pixels, compression=compression)


def _arguments(inputs: list[str], bundle: str, choices: dict[str, Any]) -> dict[str, Any]:
    """What ``retry`` needs to know; nothing where that would record a password."""
    uris = [*(uri if "://" in uri else os.path.abspath(uri) for uri in inputs), absolute(bundle)]
    if [*map(redact, uris)] != uris:
        return {}
    return {"inputs": uris[:-1], "bundle": uris[-1], **choices}
