"""What ``inspect`` and ``status`` print."""

from pathlib import Path

from raypurify.bundle import Bundle
from raypurify.config import CscSettings
from raypurify.containers import ledger
from raypurify.containers import sink as sinks
from raypurify.containers.ledger import Summary
from raypurify.errors import SinkError
from raypurify.evaluation.retrain import STAGES as RETRAINING
from raypurify.fit.run import OPTIONAL, STAGES
from raypurify.purifiers.coding import LEAST, MOST
from raypurify.runtime.progress import duration
from raypurify.runtime.stages import MARKER, stage_lines
from raypurify.storage import redact, resolve


def bundle_text(bundle: Bundle) -> str:
    """A bundle on one screen."""
    manifest, settings = bundle.manifest, bundle.settings
    net, count, classes = settings.network, len(manifest.cluster_class), manifest.classes
    atoms, flag, data = bundle.dictionaries, manifest.calibration, manifest.training_data
    megabytes = sum(file.bytes for file in manifest.files.values()) / 1e6
    parameters = sum(p.numel() for p in bundle.network.parameters())
    size = f"{atoms.shape[-2]}×{atoms.shape[-1]}"
    facts = {
        "bundle": f"{manifest.name}, digest {bundle.digest[:16]}…, {megabytes:.1f} MB",
        "network": f"WRN-{net.depth}-{net.width}, {parameters:,} parameters, input {settings.data.image_size}²",
        "classes": f"{len(classes)}: {', '.join(classes[:12])}{' …' if len(classes) > 12 else ''}",
        "clusters": f"{count}, Mahalanobis distance by {settings.clusters.form}",
        "dictionaries": f"{count} of {atoms.shape[1]} atoms of {size}, from {settings.dictionaries.images} images each",
        "purification": _purification(settings.csc),
        "flag": f"distance > {flag.distance_threshold:.2f}, {flag.quantile:.0%} quantile of {flag.images} clean images",
        "trained on": f"{data['train']:,} images, data digest {data['digest'][:16]}…",
        "measured on": manifest.measured["set"],
    }
    if borrowed := sum(owner != str(k) for k, owner in enumerate(manifest.dictionary_source)):
        facts["dictionaries"] += f"; {borrowed} of {count} clusters use another's dictionary"
    if settings.note:
        facts["note"] = settings.note
    lines = [f"{name:13} {text}" for name, text in facts.items()]
    attack = manifest.measured["attack"]
    for name in ("clean", "attacked"):
        figures = manifest.measured[name]
        lines.append(f"  {name}, n = {figures['images']}")
        lines += [f"    {key:28} {value:.4g}" for key, value in figures.items() if key != "images"]
    lines.append(f"  attack: PGD, {attack['norm']} {attack['eps']}, {attack['steps']} steps")
    return "\n".join(lines)


def _purification(csc: CscSettings) -> str:
    lmbda = f"λ = {csc.lmbda}"
    if csc.noise_factor:
        lmbda = f"λ = {csc.noise_factor:g} × noise level, {LEAST * csc.lmbda:g} to {MOST * csc.lmbda:g}"
    return f"{lmbda}, Tikhonov {csc.tikhonov:g}" + (", refit" if csc.refit else "")


def status_text(folder: str) -> str:
    """How far the fit or the purify job of a folder is. Raises SinkError where it is neither."""
    run_dir = Path(folder)
    for stages in (STAGES, RETRAINING):
        begun = {name for name in stages if (run_dir / name / MARKER).exists()}
        if begun:
            names = tuple(name for name in stages if name not in OPTIONAL or name in begun)
            lines = stage_lines(run_dir, names)
            return "\n".join(f"{name:13} {state:9} {facts}".rstrip() for name, state, facts in lines)
    try:
        job = sinks.status(folder)
    except SinkError as error:
        where = redact(folder)
        raise SinkError(
            f"{where} is neither the run directory of fit or retrain nor the output of purify ({error})"
        ) from error
    state = "complete" if job.complete else "not complete"
    return (
        f"purify        {state}: {job.committed}/{job.shards} shards, "
        f"{job.written + job.failed:,}/{job.rows:,} images, {job.failed:,} failed"
    )


def summary_text(summary: Summary | None, output: str, seconds: float) -> str:
    """What became of a purify job that took so many seconds; None is one whose other parts are not done."""
    out = resolve(output)
    place = (str(out) if out.remote else redact(output)).rstrip("/")
    if summary is None:
        return f"part done:  other parts of {place} are not; whoever ends last writes its tables"
    shown = f"{place}/{ledger.STATE}"
    lines = [f"purified:   {summary.written:,} of {summary.rows:,} images, {summary.flagged:,} flagged, in {place}"]
    lines += [f"failed:     {count:,} {reason}" for reason, count in summary.reasons.items()]
    if summary.ignored:
        lines.append(f"ignored:    {summary.ignored:,} of the files there, which are no images by their names")
    lines += [f"time:       {duration(seconds)}", f"provenance: {shown}/provenance.parquet"]
    if summary.failed:
        lines.append(f"errors:     {shown}/errors.parquet")
    if (out / ledger.STATE / "sheet.png").kind:
        lines.append(f"picture:    {shown}/sheet.png")
    return "\n".join(lines)
