"""Fit: the stages of a method's graph in order, each skipped, resumed or run by its fingerprint."""

from raypurify.config import Settings
from raypurify.errors import BundleError, ConfigError
from raypurify.fit.graph import Fit, asked_of, work_through
from raypurify.fit.graphs import GRAPHS, claim
from raypurify.runtime.stages import open_run
from raypurify.storage import Place, Where


def fit(
    data: list[str],
    settings: Settings,
    run_dir: Where,
    address: str | None = None,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    kind: str | None = None,
    follow_links: bool = False,
    image_member: str | None = None,
    until: str | None = None,
) -> Place:
    """Learn a bundle from clean labelled images and return its folder, ``run_dir/bundle``.

    Runs on the Ray cluster there is (see ``session``), or starts one on this machine. Call it again with the same
    arguments after any interruption: complete stages are skipped, the rest goes on. ``run_dir`` is a folder or a URI
    (``s3://…``, ``gs://…``); on several machines one that all of them reach. ``image_column``, ``id_column`` and
    ``label_column`` are those of Parquet files, ``image_member`` names the images of tars; where they are not given,
    they are found
    (:func:`raypurify.containers.source.open_source`, which says what ``kind`` and ``follow_links`` do). With ``until``,
    the name of a stage, the fit ends after it, and the stage's folder is returned.

    Raises ConfigError, SourceError, DataError, TrainingError or SinkError with what to do about it.
    """
    from raypurify.containers.source import open_source
    from raypurify.runtime.session import ray_session

    graph = GRAPHS[settings.method]
    stages = [stage.name for stage in asked_of(graph, settings)]
    if until not in {None, *stages}:
        raise ConfigError(f"there is no stage {until}; use one of {', '.join(stages)}")
    source = open_source(
        data,
        image_column=image_column,
        id_column=id_column,
        label_column=label_column,
        image_member=image_member,
        kind=kind,
        follow_links=follow_links,
    )
    with open_run(run_dir) as folder, ray_session(address):
        claim(folder, settings.method)
        for done in work_through(graph, folder, Fit(settings, source)):
            if done.folder.name == until:
                return done.folder
        _publish(done.folder / "bundle", folder / "bundle")
    return folder / "bundle"


def _publish(made: Place, bundle: Place) -> None:
    """Copy the finished bundle to where people look for it; a folder with a manifest is whole."""
    from raypurify.bundle.manifest import MANIFEST, open_bundle

    whole = open_bundle(made)
    try:
        if open_bundle(bundle).digest == whole.digest:
            return
    except BundleError:
        pass
    (bundle / MANIFEST).delete()
    for name in (*whole.manifest.files, MANIFEST):
        (bundle / name).write((made / name).read())
