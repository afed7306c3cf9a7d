"""The graphs of stages by method, and what status and the command line ask of them without torch or Ray."""

from raypurify.errors import ConfigError, SinkError, of_file
from raypurify.files import read_object, write_json
from raypurify.fit import front_end, region_sparse, rsfp, stl
from raypurify.fit.graph import Graph
from raypurify.runtime.stages import MARKER
from raypurify.storage import Place

GRAPHS: dict[str, Graph] = {
    "rsfp": rsfp.GRAPH,
    "stl": stl.GRAPH,
    "region_sparse": region_sparse.GRAPH,
    "front_end": front_end.GRAPH,
}
# Says in a run directory which method is fitted there.
METHOD = "fit.json"


def stage_names(method: str) -> tuple[str, ...]:
    """The names of all stages of a method, in order.

    >>> stage_names("rsfp")[:3]
    ('prepare', 'baseline', 'latents')
    """
    return tuple(stage.name for stage in GRAPHS[method])


def claim(run_dir: Place, method: str) -> None:
    """Write down which method is fitted in a run directory. Raises ConfigError where a fit of another has begun there:
    stages of one name are not the same."""
    there, begun = begun_stages(run_dir)
    if begun and there != method:
        raise ConfigError(f"{run_dir} holds a fit of {there}, not of {method}: choose another run directory")
    write_json(run_dir / METHOD, {"method": method})


def begun_stages(run_dir: Place) -> tuple[str, tuple[str, ...]]:
    """The method that is fitted in a run directory, and its stages: all that every fit has, and those optional ones
    that have begun. None where no stage has begun. Raises SinkError where the file that says it is damaged."""
    file = run_dir / METHOD
    try:
        # Fits of before there were methods do not say it.
        method = (read_object(file) or {"method": "rsfp"}).get("method")
        if not isinstance(method, str):
            raise ValueError("it names no method")
    except ValueError as e:
        raise SinkError(
            f'{file} is damaged: {of_file(e)}; write {{"method": "…"}} into it, with the method that is fitted '
            f"there: {', '.join(GRAPHS)}"
        ) from e
    graph = GRAPHS.get(method, ())
    begun = {stage.name for stage in graph if (run_dir / stage.name / MARKER).kind == "file"}
    return method, tuple(stage.name for stage in graph if begun and (not stage.optional or stage.name in begun))
