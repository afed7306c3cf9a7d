"""What ``inspect`` and ``status`` print."""

from pathlib import Path

from raypurify import sinks
from raypurify.bundle import Bundle
from raypurify.errors import SinkError
from raypurify.pipeline.fit import STAGES
from raypurify.pipeline.stages import MARKER, stage_lines


def bundle_text(bundle: Bundle) -> str:
    """A bundle on one screen."""
    manifest, settings = bundle.manifest, bundle.settings
    net, count = settings.network, len(manifest.cluster_class)
    atoms = bundle.dictionaries
    size = sum(file.bytes for file in manifest.files.values())
    lines = [
        f"bundle        {manifest.name}, digest {bundle.digest[:16]}…, {size / 1e6:.1f} MB, format {manifest.format_version}",
        f"network       WRN-{net.depth}-{net.width}, {sum(p.numel() for p in bundle.network.parameters()):,} parameters, "
        f"input {settings.data.image_size}²",
        f"classes       {len(manifest.classes)}: {', '.join(manifest.classes[:12])}{' …' if len(manifest.classes) > 12 else ''}",
        f"clusters      {count}, Mahalanobis distance by {settings.clusters.form}",
        f"dictionaries  {count} of {atoms.shape[1]} atoms, {atoms.shape[-2]}×{atoms.shape[-1]}; λ = {settings.csc.lmbda}, "
        f"Tikhonov {settings.csc.tikhonov}",
        f"flag          distance above {manifest.calibration.distance_threshold:.2f}, the "
        f"{manifest.calibration.quantile:.0%} quantile of {manifest.calibration.images} clean images",
        f"trained on    {manifest.training_data['train']:,} images, data digest {manifest.training_data['digest'][:16]}…",
        f"measured on   {manifest.measured['set']}",
    ]
    attack = manifest.measured["attack"]
    for name in ("clean", "attacked"):
        figures = manifest.measured[name]
        lines.append(f"  {name}, n = {figures['images']}")
        lines += [f"    {key:28} {value:.4g}" for key, value in figures.items() if key != "images"]
    lines.append(f"  attack: PGD, {attack['norm']} {attack['eps']}, {attack['steps']} steps")
    return "\n".join(lines)


def status_text(folder: str) -> str:
    """How far the fit or the purify job of a folder is. Raises SinkError where it is neither."""
    run_dir = Path(folder)
    if any((run_dir / name / MARKER).exists() for name in STAGES):
        return "\n".join(f"{name:13} {state:9} {facts}".rstrip() for name, state, facts in stage_lines(run_dir, STAGES))
    try:
        job = sinks.status(folder)
    except SinkError as error:
        raise SinkError(f"{folder} is neither the run directory of a fit nor the output of purify ({error})") from error
    state = "complete" if job.complete else "not complete"
    return (
        f"purify        {state}: {job.committed}/{job.shards} shards, "
        f"{job.written + job.failed:,}/{job.rows:,} images, {job.failed:,} failed"
    )
