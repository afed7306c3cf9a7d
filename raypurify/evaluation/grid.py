"""What an evaluation compares, as one YAML file: images, classifiers, attacks, purifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError, model_validator

from raypurify.errors import ConfigError
from raypurify.evaluation.own import is_own
from raypurify.evaluation.papers import TABLES
from raypurify.evaluation.specs import (
    USUAL_EXPECTATION,
    AttackSpec,
    ClassifierSpec,
    ImagesSpec,
    MadeOn,
    Paths,
    PurifierSpec,
    ReportSpec,
    RetrainingSpec,
    named,
)
from raypurify.fronts import BackwardSettings
from raypurify.trees import SettingsModel, apply_override, parse_yaml, problems_of

MEAN = "mean of attacks"
# Where a classifier of a grid stands; and what it may have beside what it was before.
_PLACED = ("behind", "alone")
_ADDED = ("retrained", "attacked_as", *_PLACED)


class CellName(NamedTuple):
    """The name of a cell: a classifier under an attack behind a purifier, each by its name in the grid."""

    classifier: str
    attack: str
    purifier: str


class Grid(SettingsModel):
    """A grid: every classifier is attacked by every attack, and sees the images of every purifier.

    >>> load_grid({"images": {"paths": "a"}, "classifiers": {"net": {"kind": "bundle", "path": "cifar10"}}}).batch
    100
    """

    name: str = "evaluation"
    images: ImagesSpec
    classifiers: Annotated[dict[str, ClassifierSpec], AfterValidator(named), Field(min_length=1)]
    attacks: Annotated[dict[str, AttackSpec], AfterValidator(named)] = Field({})
    purifiers: Annotated[dict[str, PurifierSpec], AfterValidator(named)] = Field(
        {"none": PurifierSpec(purifier="none")}
    )
    seed: int = Field(0, ge=0)
    batch: int = Field(100, ge=1, description="images that are attacked and purified together")
    eight_bit: bool = Field(True, description="round attacked and purified images to 8 bits, as files are")
    sanity: int = Field(0, ge=0, description="images for the checks of the attacks themselves; 0: none")
    reference: str | None = Field(None, description="the purifier that others are compared with, image by image")
    papers: tuple[Literal[tuple(TABLES)], ...] = Field(  # type: ignore[valid-type]  # known when it runs
        (), description="tables of papers to lay ours beside"
    )
    examples: int = Field(6, ge=0, le=24, description="images in each picture of them")
    report: ReportSpec = ReportSpec()
    scenarios: Annotated[dict[str, str | Annotated[dict[str, str], Field(min_length=1)]], AfterValidator(named)] = (
        Field(
            {},
            description="settings of attack by name: the classifier that all purifiers stand before, or one for each",
        )
    )
    retraining: RetrainingSpec | None = Field(None, description="for `raypurify retrain` alone")
    modules: Paths = Field(
        (), description="folders with modules of one's own; then that of the grid, the current one, and Python's"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Grid":
        if self.reference is not None and self.reference not in self.purifiers:
            raise ValueError(f"reference {self.reference!r} is none of the purifiers {', '.join(self.purifiers)}")
        for name, spec in self.attacks.items():
            if spec.attack == "clean" and spec.knows != "classifier":
                raise ValueError(f"attack {name!r} changes nothing, so it knows nothing")
            if spec.made_on:
                self._check_made_on(name, spec.made_on)
            if spec.knows == "centres" and (bare := self._without_centres(spec)):
                raise ValueError(
                    f"attack {name!r} knows centres, and classifier {bare!r} has none: give the path of its "
                    "supervision.safetensors as its centres"
                )
            if name == MEAN:
                raise ValueError(f"attack {name!r} has the name of the mean over all: give it another")
            if taken := {*(spec.worst or ())} & {*self.attacks, MEAN}:
                raise ValueError(
                    f"attack {name!r} is of the group {min(taken)!r}, which another column is called: rename the group"
                )
        for name, victim in self.classifiers.items():
            if victim.attacked_as not in {None, *self.classifiers} - {name}:
                raise ValueError(
                    f"classifier {name!r} is attacked as {victim.attacked_as!r}, which is no other one here"
                )
            for purifier in victim.behind or ():
                if purifier not in self.purifiers:
                    known = ", ".join(self.purifiers)
                    raise ValueError(f"classifier {name!r} is behind {purifier!r}, which is none of {known}")
            if not self.rows(name):
                raise ValueError(
                    f"classifier {name!r} stands behind nothing: name a purifier in behind, or leave out alone"
                )
        for name, seen in self.scenarios.items():
            for purifier, classifier in seen.items() if isinstance(seen, dict) else [("", seen)]:
                if classifier not in self.classifiers:
                    raise ValueError(f"scenario {name!r} names {classifier!r}, which is none of the classifiers")
                if purifier not in {"", *self.rows(classifier)}:
                    known = ", ".join(self.rows(classifier))
                    raise ValueError(f"scenario {name!r}: {classifier!r} stands behind {known}, not {purifier!r}")
        if (shown := self.report.attack) is not None and shown not in self.gray:
            known = ", ".join(self.gray)
            raise ValueError(f"report.attack {shown!r} is none of those that know the classifier alone: {known}")
        return self

    def rows(self, classifier: str) -> list[str]:
        """The purifiers that a classifier of the grid stands behind: those it names, and whichever changes nothing
        unless it is never ``alone``."""
        one = self.classifiers[classifier]
        named = [*self.purifiers] if one.behind is None else one.behind
        return [p for p in self.purifiers if (one.alone if p in self.bare else p in named)]

    @property
    def views(self) -> dict[str, dict[str, str]]:
        """The classifier that each purifier stands before, by scenario; without those, each classifier by its name."""
        if not self.scenarios:
            return {c: dict.fromkeys(self.rows(c), c) for c in self.classifiers}
        return {
            name: {p: seen[p] for p in self.purifiers if p in seen}
            if isinstance(seen, dict)
            else dict.fromkeys(self.rows(seen), seen)
            for name, seen in self.scenarios.items()
        }

    def _check_made_on(self, name: str, made_on: MadeOn) -> None:
        for part, known in ((made_on.classifier, self.classifiers), (made_on.purifier, self.purifiers)):
            if part is not None and part not in known:
                raise ValueError(f"attack {name!r} is made on {part!r}, which is none of {', '.join(known)}")

    def _without_centres(self, spec: AttackSpec) -> str | None:
        attacked = {self.victim(name, spec) for name in self.classifiers} & {*self.classifiers}
        return next((name for name in attacked if not self.classifiers[name].centres), None)

    @property
    def own(self) -> list[str]:
        """What the grid names as "package.module:name": code that is not raypurify's, and is run."""
        named = [spec.path for spec in self.classifiers.values() if spec.kind == "python"]
        named += [spec.attack for spec in self.attacks.values()] + [spec.purifier for spec in self.purifiers.values()]
        return [name for name in named if is_own(name)]

    @property
    def defended(self) -> list[str]:
        """The purifiers that change an image."""
        return [name for name, spec in self.purifiers.items() if spec.purifier != "none"]

    @property
    def gray(self) -> list[str]:
        """The attacks of one who knows the classifier alone."""
        return [name for name, spec in self.attacks.items() if spec.attack != "clean" and spec.knows == "classifier"]

    @property
    def bare(self) -> list[str]:
        """The purifiers that change nothing."""
        return [name for name in self.purifiers if name not in self.defended]

    @property
    def shown(self) -> tuple[str, str]:
        """The classifier and the purifier of pictures: the first, and the reference or else its first."""
        classifier = next(iter(self.classifiers))
        rows = self.rows(classifier)
        return classifier, self.reference if self.reference in rows else rows[0]

    def before(self, classifier: str) -> str:
        """The classifier that a retrained one was before, where it is in the grid; else itself."""
        first = self.classifiers[classifier].model_copy(update=dict.fromkeys(_ADDED))
        bare = {name: spec.model_copy(update=dict.fromkeys(_PLACED)) for name, spec in self.classifiers.items()}
        return next((name for name, spec in bare.items() if spec == first), classifier)

    def victim(self, classifier: str, spec: AttackSpec | None = None) -> str:
        """The classifier that attacks on ``classifier`` are made against: itself, or what it is ``attacked_as``; of an
        attack that names it the one that it is ``made_on``."""
        if spec and spec.made_on:
            return spec.made_on.classifier
        return self.classifiers[classifier].attacked_as or classifier

    def other(self, classifier: str) -> str | None:
        """The first other classifier, from which attacks on this one are transferred in its checks."""
        return next((name for name in self.classifiers if name != classifier), None)

    def expectation(self, knows: str) -> tuple[int, str]:
        """What the first attack of one who ``knows`` this averages over a random purifier (``AttackSpec``); where there
        is none, what is averaged where nothing is said."""
        said = (spec.expectation for spec in self.attacks.values() if spec.knows == knows)
        return next(said, USUAL_EXPECTATION)

    def backward(self, knows: str) -> BackwardSettings | None:
        """Which gradient of a sparse front end the first attack of one who ``knows`` this takes, None for the paper's
        own."""
        return next((spec.backward for spec in self.attacks.values() if spec.knows == knows), None)

    def known(self, name: CellName) -> str:
        """The purifier of which the attacker of a cell may know: its own, or the one before what it is ``made_on``."""
        made_on = self.attacks[name.attack].made_on
        return made_on.purifier if made_on and made_on.purifier else name.purifier

    def in_use(self, name: CellName) -> int:
        """How many of the first seeds the defences have that the attack of a cell is judged on: the ensemble of its
        purifier, or of what is made elsewhere and carried over to all cells of its column the largest of the grid."""
        spec = self.attacks[name.attack]
        judged = self.purifiers if spec.made_on and spec.made_on.purifier else (name.purifier,)
        return max(self.purifiers[one].ensemble or 1 for one in judged)


def load_grid(source: str | Path | dict, data: str | None = None, overrides: Sequence[str] = ()) -> Grid:
    """A grid from a YAML file or its tree, then ``a.b=value`` overrides. ``{data}`` in its paths becomes ``data``.

    Load no grid of somebody whose code you would not run: it may name modules.

    Raises ConfigError for what is unreadable, unknown or out of range, by its dotted path.
    """
    folders = ["."] if isinstance(source, dict) else [str(Path(source).resolve().parent), "."]
    if not isinstance(source, dict):
        try:
            text = Path(source).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read the grid {source}: {' '.join(str(error).split())}; check the file"
            ) from error
        source = parse_yaml(text, f"the grid {source}")
    tree = _filled(source, data)
    for override in overrides:
        apply_override(tree, override)
    try:
        grid = Grid.model_validate(tree)
    except ValidationError as error:
        problems = problems_of(error, Grid, "grid")
        raise ConfigError(f"grid not usable: {problems}; mend them in the file or by --set") from error
    # Absolute, as what is found there has to be the same wherever this process goes.
    return grid.model_copy(update={"modules": tuple(str(Path(one).resolve()) for one in (*grid.modules, *folders))})


def _filled(tree: Any, data: str | None) -> Any:
    if isinstance(tree, dict):
        return {key: _filled(value, data) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [_filled(value, data) for value in tree]
    if isinstance(tree, str) and "{data}" in tree:
        if data is None:
            raise ConfigError(f"the grid names {tree}: say with --data which folder {{data}} is")
        return tree.replace("{data}", data)
    return tree
