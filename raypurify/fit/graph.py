"""A method's graph of stages: which there are, on what each depends, in which order they are brought to completion."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from raypurify.config import Settings
from raypurify.files import fingerprint
from raypurify.runtime.stages import StageOutput, run_stage
from raypurify.storage import Place

if TYPE_CHECKING:
    import raypurify.containers.source


@dataclass(frozen=True)
class Fit:
    """What the body of a stage may look at beside the stages that it takes: settings, source, what is complete."""

    settings: Settings
    source: "raypurify.containers.source.Source"
    done: dict[str, StageOutput] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, as the stage prepare found them."""
        return self.done["prepare"].report["classes"]


def always(settings: Settings) -> bool:
    """Yes: the stage is one that every fit has."""
    return True


@dataclass(frozen=True)
class Stage:
    """A stage of a fit, a pure step over files.

    ``body(fit, folder, *inputs)`` fills ``folder`` from the outputs of the stages that it ``takes``, in that order, and
    returns its report; it may be killed anywhere and is called again. ``"a|b"`` in ``takes`` is the first of them that
    the settings ask for. ``depends`` gives the settings that decide the output, of which the fingerprint is made.
    A stage for which ``asked`` answers no is left out.
    """

    name: str
    takes: tuple[str, ...]
    depends: Callable[[Settings], dict[str, Any]]
    body: Callable[..., dict[str, Any]]
    asked: Callable[[Settings], Any] = always

    @property
    def optional(self) -> bool:
        """Whether only some settings ask for it."""
        return self.asked is not always

    def inputs(self, there: Any) -> tuple[str, ...]:
        """The names of the stages that it takes, of those ``there``."""
        return tuple(next(name for name in names.split("|") if name in there) for names in self.takes)

    def decisive(self, settings: Settings) -> dict[str, Any]:
        """The settings of its fingerprint."""
        return {"seed": settings.seed} | self.depends(settings)


Graph = tuple[Stage, ...]


def asked_of(graph: Graph, settings: Settings) -> Graph:
    """The stages that the settings ask for, in order."""
    return tuple(stage for stage in graph if stage.asked(settings))


def fingerprints(graph: Graph, settings: Settings, digest: str) -> dict[str, str]:
    """The fingerprint of every stage that the settings ask for, of a source with this ``digest``: known before work."""
    marks: dict[str, str] = {}
    for stage in asked_of(graph, settings):
        inputs = tuple(marks[name] for name in stage.inputs(marks)) or (digest,)
        marks[stage.name] = fingerprint(stage.name, stage.decisive(settings), inputs)
    return marks


def work_through(graph: Graph, run_dir: Place, fit: Fit) -> Iterator[StageOutput]:
    """Bring one stage after the other to completion below ``run_dir``; each is skipped, resumed or run."""
    for stage in asked_of(graph, fit.settings):
        fit.done[stage.name] = _complete(stage, run_dir, fit)
        yield fit.done[stage.name]


def _complete(stage: Stage, run_dir: Place, fit: Fit) -> StageOutput:
    inputs = [fit.done[name] for name in stage.inputs(fit.done)]
    marks = tuple(done.fingerprint for done in inputs) or (fit.source.digest,)
    depends = stage.decisive(fit.settings)
    return run_stage(run_dir, stage.name, depends, marks, lambda folder: stage.body(fit, folder, *inputs))


def part(settings: BaseModel, *without: str) -> dict[str, Any]:
    """A section of the settings for a fingerprint: but for what changes only how, where or how fast work is done."""
    return settings.model_dump(exclude={"checkpoint_steps", *without})
