"""What an evaluation compares, as one YAML file: images, classifiers, attacks, purifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from raypurify.config import RobustTrainingSettings, TrainingSettings, apply_override
from raypurify.containers.registry import KINDS
from raypurify.containers.source import Source, open_source
from raypurify.errors import ConfigError
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.evaluation.papers import TABLES

# What an attacker may know, see AttackSpec.
KNOWS = ("classifier", "bpda", "bpda-smooth", "solver", "choice", "joint")
MEAN = "mean of attacks"


class CellName(NamedTuple):
    """The name of a cell: a classifier under an attack behind a purifier, each by its name in the grid."""

    classifier: str
    attack: str
    purifier: str


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class _InputSpec(_Spec):
    """Where labelled images are, as ``open_source`` takes it."""

    paths: Paths
    image_column: str | None = Field(None, description="column of Parquet files with the images; default: found")
    id_column: str | None = Field(None, description="column of Parquet files with unique ids; default: id")
    label_column: str | None = Field(None, description="column of Parquet files with the classes; default: label")
    kind: Literal[tuple(KINDS)] | None = Field(  # type: ignore[valid-type]  # known when it runs
        None, description="what to read where there are several; default: found"
    )
    image_member: str | None = Field(None, description="extensions of the members of tars that are images")
    follow_links: bool = Field(False, description="read folders and files that links lead to")

    def open(self) -> Source:
        """The source of these images. Raises SourceError."""
        return open_source(
            self.paths,
            image_column=self.image_column,
            id_column=self.id_column,
            label_column=self.label_column,
            image_member=self.image_member,
            kind=self.kind,
            follow_links=self.follow_links,
        )


class ImagesSpec(_InputSpec):
    """The images of an evaluation, of one size; ``size`` squashes them to a square first."""

    limit: int | None = Field(None, ge=1, description="the first so many")
    sample: int | None = Field(None, ge=1, description="a seeded choice of so many")
    size: int | None = Field(None, ge=8)


class ClassifierSpec(_Spec):
    """One classifier: ``kind`` is a name of ``classifiers.CLASSIFIERS``, ``path`` its weights, a bundle, or a name."""

    kind: Literal[tuple(CLASSIFIERS)]  # type: ignore[valid-type]  # known when it runs
    path: str
    weights: str | None = Field(None, description="torchvision: a file of weights of the user's own")
    size: int | None = Field(None, ge=8, description="resize images to this side before")
    outputs: tuple[int, ...] | None = Field(None, description="logits of the images' classes, where it has others too")
    retrained: str | None = Field(None, description="the weights that `raypurify retrain` made of it")
    attacked_as: str | None = Field(None, description="the classifier that the attacker takes it for, by its name here")


def _kind(training: object) -> str:
    names = training if isinstance(training, dict) else getattr(type(training), "model_fields", ())
    return "robust" if "attack" in names else "plain"


class RetrainingSpec(_InputSpec):
    """The training of ``raypurify retrain``: on which images, as a purifier of the grid leaves them, and how."""

    size: int = Field(32, ge=8, description="the side that images are resized to before")
    validation: int = Field(5000, ge=1, description="images held out, for the accuracy after every epoch")
    limit: int | None = Field(None, ge=1, description="train on at most so many images")
    noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0,),
        min_length=1,
        description="dissimilarities of Gaussian noise; each image gets one, then it is purified",
    )
    training: Annotated[
        Annotated[TrainingSettings, Tag("plain")] | Annotated[RobustTrainingSettings, Tag("robust")],
        Discriminator(_kind),
    ] = Field(TrainingSettings(epochs=3, lr=0.01), description="with an ``attack``: adversarial training")

    @model_validator(mode="after")
    def _from_the_classifier_alone(self) -> "RetrainingSpec":
        if isinstance(self.training, RobustTrainingSettings):
            if self.training.alpha:
                raise ValueError(
                    "training.alpha weighs distances to the clusters of a fit, which are not here: set it to 0"
                )
            if "init" in self.training.model_fields_set:
                raise ValueError("training.init: retraining starts from the classifier itself; leave it out")
        return self


class AttackSpec(BaseModel):
    """One attack: a name of ``attacks.ATTACKS`` with ``eps``, ``norm`` and its other settings, or "clean".

    ``knows`` says what the attacker knows beside the classifier: nothing ("classifier": gray-box), or the purifier, and
    how it passes it: "bpda" (backward as if the purifier were the identity), "bpda-smooth" (as if it weakened the high
    part), "solver" (the gradient of the sparse coding and of λ), "choice" (towards another cluster, whatever the
    classifier says), "joint" (both). ``worst`` names a group: the worst case of its attacks, image by image, becomes a
    column of its own. ``minimal`` says that the attack looks for the least change that does, whatever it may: the mean
    over attacks leaves it out. Where it is not said, the sizes that are measured decide (``groups.groups_of``).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    attack: str
    knows: Literal[KNOWS] = "classifier"  # type: ignore[valid-type]  # known when it runs
    worst: str | None = None
    minimal: bool | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the attack itself."""
        return dict(self.model_extra or {})

    @property
    def decisive(self) -> dict[str, Any]:
        """All that decides what becomes of an image, as JSON has it: not how attacks are taken together."""
        return self.model_dump(mode="json", exclude={"worst", "minimal"})


class PurifierSpec(BaseModel):
    """One defence: a name of ``purifiers.PURIFIERS`` with its settings, or "rsfp" with a bundle and other settings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    purifier: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the purifier itself."""
        return dict(self.model_extra or {})


def _named(value: dict) -> dict:
    for name in value:
        if not name.strip() or "/" in name:
            raise ValueError(f"{name!r} is no name")
    return value


class Grid(_Spec):
    """A grid: every classifier is attacked by every attack, and sees the images of every purifier.

    >>> load_grid({"images": {"paths": "a"}, "classifiers": {"net": {"kind": "bundle", "path": "cifar10"}}}).batch
    100
    """

    name: str = "evaluation"
    images: ImagesSpec
    classifiers: Annotated[dict[str, ClassifierSpec], AfterValidator(_named), Field(min_length=1)]
    attacks: Annotated[dict[str, AttackSpec], AfterValidator(_named)] = {}
    purifiers: Annotated[dict[str, PurifierSpec], AfterValidator(_named)] = {"none": PurifierSpec(purifier="none")}
    seed: int = 0
    batch: int = Field(100, ge=1, description="images that are attacked and purified together")
    eight_bit: bool = Field(True, description="round attacked and purified images to 8 bits, as files are")
    sanity: int = Field(0, ge=0, description="images for the checks of the attacks themselves; 0: none")
    reference: str | None = Field(None, description="the purifier that others are compared with, image by image")
    papers: tuple[Literal[tuple(TABLES)], ...] = Field(  # type: ignore[valid-type]  # known when it runs
        (), description="tables of papers to lay ours beside"
    )
    examples: int = Field(6, ge=0, le=24, description="images in each picture of them")
    retraining: RetrainingSpec | None = Field(None, description="for `raypurify retrain` alone")

    @model_validator(mode="after")
    def _fits(self) -> "Grid":
        if self.reference is not None and self.reference not in self.purifiers:
            raise ValueError(f"reference {self.reference!r} is none of the purifiers {', '.join(self.purifiers)}")
        for name, spec in self.attacks.items():
            if spec.attack == "clean" and spec.knows != "classifier":
                raise ValueError(f"attack {name!r} changes nothing, so it knows nothing")
            if name == MEAN:
                raise ValueError(f"attack {name!r} has the name of the mean over all: give it another")
            if spec.worst in {*self.attacks, MEAN}:
                raise ValueError(
                    f"attack {name!r} is of the group {spec.worst!r}, which another column is called: rename the group"
                )
        for name, victim in self.classifiers.items():
            if victim.attacked_as not in {None, *self.classifiers} - {name}:
                raise ValueError(
                    f"classifier {name!r} is attacked as {victim.attacked_as!r}, which is no other one here"
                )
        return self

    @property
    def defended(self) -> list[str]:
        """The purifiers that change an image."""
        return [name for name, spec in self.purifiers.items() if spec.purifier != "none"]

    def before(self, classifier: str) -> str:
        """The classifier that a retrained one was before, where it is in the grid; else itself."""
        first = self.classifiers[classifier].model_copy(update={"retrained": None, "attacked_as": None})
        return next((name for name, spec in self.classifiers.items() if spec == first), classifier)

    def victim(self, classifier: str) -> str:
        """The classifier that attacks on ``classifier`` are made against: itself, or what it is ``attacked_as``."""
        return self.classifiers[classifier].attacked_as or classifier


def load_grid(source: str | Path | dict, data: str | None = None, overrides: Sequence[str] = ()) -> Grid:
    """A grid from a YAML file or its tree, then ``a.b=value`` overrides. ``{data}`` in its paths becomes ``data``.

    Raises ConfigError for what is unreadable, unknown or out of range, by its dotted path.
    """
    if not isinstance(source, dict):
        try:
            source = yaml.safe_load(Path(source).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"cannot read the grid {source}: {' '.join(str(error).split())}; check the file"
            ) from error
    if not isinstance(source, dict):
        raise ConfigError("a grid must be a mapping: images, classifiers, attacks, purifiers")
    tree = _filled(source, data)
    for override in overrides:
        apply_override(tree, override)
    try:
        return Grid.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'grid'}: {p['msg']}" for p in error.errors())
        raise ConfigError(f"grid not usable: {problems}; mend them in the file or by --set") from error


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
