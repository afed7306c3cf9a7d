"""The texts that ``inspect``, ``status`` and ``purify`` print.

Nothing that is imported here loads torch or Ray: who asks how far a job is should not wait for them.
"""

from typing import Any

from raypurify.bundle import BundleFacts
from raypurify.bundle.manifest import MANIFEST
from raypurify.bundle.names import DICTIONARIES
from raypurify.config import LMBDA_RANGE, CscSettings
from raypurify.containers.ledger import STATE, Summary
from raypurify.containers.passed_over import passed_over_text
from raypurify.containers.sink import status
from raypurify.errors import BundleError, SinkError, of_file
from raypurify.evaluation.retrain import STAGES as RETRAINING
from raypurify.fit.graphs import begun_stages
from raypurify.methods import method_of
from raypurify.runtime.progress import duration
from raypurify.runtime.stages import MARKER, resolved_run, stage_lines, telling
from raypurify.storage import redact, resolve


def bundle_text(facts: BundleFacts) -> str:
    """What ``inspect`` prints: a bundle on one screen. Raises BundleError where the manifest lacks what it tells."""
    try:
        return _bundle_text(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise BundleError(
            f"bundle {facts.where}: {MANIFEST} is of another form than raypurify writes: {of_file(e)}; fit or download "
            "the bundle again"
        ) from e


def _bundle_text(facts: BundleFacts) -> str:
    manifest, settings = facts.manifest, facts.manifest.settings
    method, classes, count = method_of(manifest), manifest.classes, len(manifest.cluster_class)
    flag, data = manifest.calibration, manifest.training_data
    _, atoms, _, height, width = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")
    megabytes = sum(file.bytes for file in manifest.files.values()) / 1e6
    dictionaries = f"{count} of {atoms} atoms of {height}×{width}"
    own = {
        "dictionaries": f"{dictionaries}, from {settings.dictionaries.images} images each",
        "purification": _purification(settings.csc),
    }
    said = method.lines(facts)
    lines = {
        "bundle": f"{manifest.name}, digest {facts.digest[:16]}…, {megabytes:.1f} MB",
        "method": f"{method.name}: {method.paper}",
        "classes": f"{len(classes)}: {', '.join(classes[:12])}{' …' if len(classes) > 12 else ''}",
        **said,
        **{label: line for label, line in own.items() if label not in said},
        "flag": f"distance > {flag.distance_threshold:.2f}, {flag.quantile:.0%} quantile of {flag.images} clean images",
        "trained on": f"{data['train']:,} images, data digest {data['digest'][:16]}…",
        "measured on": manifest.measured["set"],
    }
    if adjusted := manifest.training.get("adjusted"):
        lines["adjusted from"] = f"{adjusted['from']}, digest {adjusted['digest'][:16]}…, which was measured so"
    # Of one cluster there is no other.
    borrowed = sum(owner != str(k) for k, owner in enumerate(manifest.dictionary_source))
    if borrowed and count > 1:
        lines["dictionaries"] += f"; {borrowed} of {count} clusters use another's dictionary"
    if settings.note:
        lines["note"] = settings.note
    text = [f"{name:13} {line}" for name, line in lines.items()]
    for name in ("clean", "purified", "attacked"):
        if (figures := manifest.measured.get(name)) is None:
            continue
        text.append(f"  {name}, n = {figures['images']}")
        text += [f"    {key:28} {value:.4g}" for key, value in figures.items() if key != "images"]
    if attack := manifest.measured.get("attack"):
        text.append(f"  attack: PGD, {attack['norm']} {attack['eps']}, {attack['steps']} steps")
    return "\n".join(text)


def _purification(csc: CscSettings) -> str:
    lmbda = f"λ = {csc.lmbda}"
    if csc.noise_factor:
        least, most = (factor * csc.lmbda for factor in LMBDA_RANGE)
        lmbda = f"λ = {csc.noise_factor:g} × noise level, {least:g} to {most:g}"
    return f"{lmbda}, Tikhonov {csc.tikhonov:g}" + (", refit" if csc.refit else "")


def status_facts(folder: str) -> dict[str, Any]:
    """How far the fit, retraining or purify job of a folder is, as ``status --json`` prints it.

    Raises SinkError where it is none of these.
    """
    run_dir = resolved_run(folder)
    with telling(run_dir):
        method, fitted = begun_stages(run_dir)
        retrained = any((run_dir / name / MARKER).kind == "file" for name in RETRAINING)
        if fitted or retrained:
            about = {"kind": "fit", "method": method} if fitted else {"kind": "retrain"}
            names = fitted or RETRAINING
            lines = [dict(zip(("name", "state", "text"), line)) for line in stage_lines(run_dir, names)]
            return about | {"complete": all(line["state"] == "complete" for line in lines), "stages": lines}
    try:
        job = status(folder)
    except SinkError as error:
        where = redact(folder)
        raise SinkError(
            f"{where} is neither the run directory of fit or retrain nor the output of purify ({error}); check the path"
        ) from error
    return {
        "kind": "purify",
        "complete": job.complete,
        "shards": job.shards,
        "committed": job.committed,
        "images": job.rows,
        "purified": job.written,
        "failed": job.failed,
        "growing": job.growing,
        "damaged": job.job["source"].get("damaged", {}),
    }


def status_text(facts: dict[str, Any]) -> str:
    """What ``status`` prints of its facts."""
    if facts["kind"] != "purify":
        return "\n".join(f"{one['name']:13} {one['state']:9} {one['text']}".rstrip() for one in facts["stages"])
    return (
        f"purify        {'complete' if facts['complete'] else 'not complete'}: "
        f"{facts['committed']}/{facts['shards']} shards, "
        f"{facts['purified'] + facts['failed']:,}/{facts['images']:,} images, {facts['failed']:,} failed"
        + (", of those files that it has looked into so far" if facts["growing"] else "")
        + (f"\ndamaged       {_damaged_text(facts['damaged'])}" if facts["damaged"] else "")
    )


def summary_text(summary: Summary | None, output: str, seconds: float, bundle: str = "") -> str:
    """What ``purify`` prints at its end: what became of the job, and of which bundle where that is said; None is one
    whose other parts are not done."""
    out = resolve(output)
    place = (str(out) if out.remote else redact(output)).rstrip("/")
    if summary is None:
        return f"part done:  other parts of {place} are not; whoever ends last writes its tables"
    shown = f"{place}/{STATE}"
    lines = [f"purified:   {summary.written:,} of {summary.rows:,} images, {summary.flagged:,} flagged, in {place}"]
    if bundle:
        lines.append(f"bundle:     {redact(bundle)}; raypurify inspect tells of what images it was learned")
    for reason, count in summary.reasons.items():
        first = f": {_on_a_line(summary.first[reason])}" if reason in summary.first else ""
        lines.append(f"failed:     {count:,} {reason}{first}{' first' * (count > 1) if first else ''}")
    if summary.kept:
        lines.append(
            f"kept:       {summary.kept:,} rows of failed images, with all but the image; --drop-failed leaves them out"
        )
    if summary.unpurified:
        lines.append(f"unpurified: {summary.unpurified:,} failed images stand in the arrays as they were")
    if summary.damaged:
        lines.append(f"damaged:    {_damaged_text(summary.damaged)}")
    if summary.ignored:
        lines.append(f"ignored:    {passed_over_text(summary.passed_over)}")
    lines += [f"time:       {duration(seconds)}", f"provenance: {shown}/provenance.parquet"]
    if summary.failed:
        lines.append(f"errors:     {shown}/errors.parquet")
    if (out / STATE / "sheet.png").kind:
        lines.append(f"picture:    {shown}/sheet.png")
    return "\n".join(lines)


def _on_a_line(name: str) -> str:
    """A name as a terminal may be given it: without control characters, and not endless."""
    return "".join(sign if sign.isprintable() else "�" for sign in name[:200])


def _damaged_text(damaged: dict[str, str]) -> str:
    """How many files of the input could not be used, and the first of them."""
    first = " ".join(next(iter(damaged.values())).split())
    return f"{len(damaged):,} of the input's files, left out; when mended, the same command does them: {first}"
