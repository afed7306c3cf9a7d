"""What a grid says of its parts: images, classifiers, attacks, purifiers, a retraining."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from raypurify.config import RobustTrainingSettings, TrainingSettings
from raypurify.containers.registry import KINDS
from raypurify.containers.source import Source, open_source
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.fronts import BackwardSettings
from raypurify.trees import SettingsModel

# Purifiers of bundles, with the bundle that they are of where none is named.
BUNDLED = {"bundle": None, "rsfp": "cifar10"}
# What an attacker may know, see AttackSpec.
KNOWS = ("classifier", "bpda", "bpda-smooth", "nfga", "nfga-smooth", "solver", "choice", "joint", "centres")
NFGA = ("nfga", "nfga-smooth")
"""Of these those who know a sparse front end, and take the gradient of ``AttackSpec.backward``."""

# Of these the attacker knows no purifier.
OF_CLASSIFIERS = ("classifier", "centres")
USUAL_EXPECTATION = (8, "logits")
"""How many draws of a random purifier are averaged, and of what, where nothing is said: no digest has it in it then."""

MOST_DRAWS = 1000
"""Of how many draws there is an object each, and without gradients averaged the images of all, in memory."""

# In bytes: the name of a picture's file holds two of them, and files may be called 255.
_LONGEST_NAME = 100
Names = TypeVar("Names", dict[str, Any], tuple[str, ...])


def named(names: Names) -> Names:
    """Names of a grid as they are. Raises ValueError for one that no file of a line a row, or no file's name, can have.

    >>> named(("BIM",))
    ('BIM',)
    """
    for name in names:
        if not name.strip() or "/" in name or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"{name!r:.80} is no name; give one of {_LONGEST_NAME} printable bytes at most, without /")
    return names


Paths = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class ReportSpec(SettingsModel):
    """What a report shows of what a classifier sees: how many images, under which attack; 0 leaves a part out.

    >>> ReportSpec().maps
    4
    """

    maps: int = Field(4, ge=0, le=24, description="images whose class activation maps are drawn")
    layers: int = Field(16, ge=0, description="images over which the activation of each layer is summed")
    threshold: float = Field(0.0, ge=0, description="γ: the activation above which a detector counts as active")
    attack: str | None = Field(None, description="default: the last of one who knows the classifier alone")


class _InputSpec(SettingsModel):
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


# The side of an image at most.
LARGEST = 4096


def _once(outputs: tuple[int, ...]) -> tuple[int, ...]:
    if len({*outputs}) < len(outputs):
        raise ValueError("a logit stands for one class: name each once")
    return outputs


class ImagesSpec(_InputSpec):
    """The images of an evaluation, of one size; ``size`` squashes them to a square first."""

    limit: int | None = Field(None, ge=1, description="the first so many")
    sample: int | None = Field(None, ge=1, description="a seeded choice of so many")
    size: int | None = Field(None, ge=8, le=LARGEST)


class ClassifierSpec(SettingsModel):
    """One classifier: ``kind`` is a name of ``classifiers.CLASSIFIERS``, ``path`` its weights, a bundle, or a name.

    ``settings`` are arguments of what makes the network, for kinds that are made so.
    """

    kind: Literal[tuple(CLASSIFIERS)]  # type: ignore[valid-type]  # known when it runs
    path: str
    weights: str | None = Field(None, description="a state dict for the network, or a name of torchvision's weights")
    settings: dict[str, Any] | None = Field(None, description="arguments of what makes the network")
    size: int | None = Field(None, ge=8, le=LARGEST, description="resize images to this side before")
    outputs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_once)] | None = (
        Field(None, description="logits of the images' classes, where it has others too")
    )
    retrained: str | None = Field(None, min_length=1, description="the weights that `raypurify retrain` made of it")
    centres: str | None = Field(
        None, min_length=1, description="what it was trained with, the supervision.safetensors beside it"
    )
    attacked_as: str | None = Field(None, description="the classifier that the attacker takes it for, by its name here")
    behind: Paths | None = Field(None, description="the purifiers that it stands behind, beside none; default: all")
    alone: bool = Field(True, description="false: never without a purifier, as images as they are say nothing to it")

    @model_validator(mode="after")
    def _taken(self) -> "ClassifierSpec":
        if self.settings and not CLASSIFIERS[self.kind].settings:
            takers = ", ".join(name for name, kind in CLASSIFIERS.items() if kind.settings)
            raise ValueError(f"kind {self.kind} takes no settings; {takers} do")
        return self


def _kind(training: object) -> str:
    names = training if isinstance(training, dict) else getattr(type(training), "model_fields", ())
    return "robust" if "attack" in names else "plain"


class RetrainingSpec(_InputSpec):
    """The training of ``raypurify retrain``: on which images, as a purifier of the grid leaves them, and how."""

    size: int = Field(32, ge=8, le=1024, description="the side that images are resized to before")
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
            if self.training.alpha and self.training.semantic == "mahalanobis":
                raise ValueError(
                    "training.alpha weighs distances to the clusters of a fit, which are not here: set it to 0"
                )
            if "init" in self.training.model_fields_set:
                raise ValueError("training.init: retraining starts from the classifier itself; leave it out")
        return self


class MadeOn(SettingsModel):
    """On what an attack is made, to be carried over to every cell of its column: a classifier of the grid, and for an
    attacker who knows a purifier the one before it.

    >>> MadeOn(classifier="twin").purifier is None
    True
    """

    classifier: str
    purifier: str | None = None


class AttackSpec(SettingsModel):
    """One attack: a name of ``attacks.ATTACKS`` with ``eps``, ``norm`` and its other settings, or "clean"; or
    "package.module:name" of the user's own, with its settings.

    ``knows`` says what the attacker knows beside the classifier: nothing ("classifier": gray-box), or the purifier, and
    how it passes it: "bpda" (backward as if the purifier were the identity), "bpda-smooth" (as if it weakened the high
    part), "nfga" and "nfga-smooth" (the gradient of a sparse front end, through the coefficients that survive alone),
    "solver" (the gradient of the sparse coding and of λ), "choice" (towards another cluster, whatever the classifier
    says), "joint" (both). "centres" is not of the purifier but of the classifier's training: its loss, with
    semantic losses and branches, as the adaptive white box of Mustafa et al. raises it. ``worst`` names a group, or
    several: the worst case of its attacks, image by image, becomes a column of its own. ``minimal`` says that the
    attack looks for the least change that does, whatever it may: the mean over attacks leaves it out. Where it is not
    said, the sizes that are measured decide (``groups.groups_of``).

    Who knows a purifier that draws at random averages over ``draws`` of its draws, of what ``average`` says
    (``attacks.expectation.Expectation``). ``backward`` is of "nfga" and "nfga-smooth": which gradient of a sparse front
    end, where not the paper's own. ``made_on`` names what the attack is made on in the place of the classifier and the
    purifier of a cell: a transfer.
    """

    model_config = ConfigDict(extra="allow")

    attack: str
    knows: Literal[KNOWS] = "classifier"  # type: ignore[valid-type]  # known when it runs
    worst: Annotated[Paths, AfterValidator(named)] | None = None
    minimal: bool | None = None
    draws: int = Field(USUAL_EXPECTATION[0], ge=1, le=MOST_DRAWS)
    average: str = USUAL_EXPECTATION[1]
    backward: BackwardSettings | None = None
    made_on: MadeOn | None = None

    @field_validator("average")
    @classmethod
    def _known(cls, average: str) -> str:
        # Names of grids are wanted where torch is not, which attacks need.
        from raypurify.attacks.expectation import AVERAGES

        if average not in AVERAGES:
            raise ValueError(f"average is {average!r}: choose one of {', '.join(AVERAGES)}")
        return average

    @model_validator(mode="after")
    def _of_one_who_knows(self) -> "AttackSpec":
        if self.attack == "clean" and self.settings:
            raise ValueError(f"attack clean changes nothing: leave out {', '.join(self.settings)}")
        if self.knows == "classifier" and self.expectation != USUAL_EXPECTATION:
            raise ValueError(
                "draws and average are of a purifier, which this attacker does not know: say what it knows"
            )
        if self.backward and self.knows not in NFGA:
            raise ValueError(f"backward is of {' and '.join(NFGA)}, and knows is {self.knows}: leave it out")
        if self.backward and self.backward.sigma and self.knows != "nfga-smooth":
            raise ValueError("backward.sigma is of the smooth step: set knows to nfga-smooth, or leave it out")
        if self.made_on and (self.knows in OF_CLASSIFIERS) != (self.made_on.purifier is None):
            raise ValueError(
                f"made_on needs a purifier where the attacker knows one, and none else; knows is {self.knows}"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the attack itself."""
        return dict(self.model_extra or {})

    @property
    def expectation(self) -> tuple[int, str]:
        """How many draws of a random purifier are averaged, and of what."""
        return self.draws, self.average

    @property
    def decisive(self) -> dict[str, Any]:
        """All that decides what becomes of an image, as JSON has it: not how attacks are taken together, nor on what
        they are made."""
        left_out = {"worst", "minimal", "made_on"}
        if self.expectation == USUAL_EXPECTATION:
            left_out |= {"draws", "average"}
        if self.backward is None:
            left_out |= {"backward"}
        return self.model_dump(mode="json", exclude=left_out)


class PurifierSpec(SettingsModel):
    """One defence: a name of ``purifiers.PURIFIERS`` or "package.module:name" of the user's own, with its settings; or
    "bundle" with a bundle of any method and settings other than its own, of the section ``Bundled.tunable``; "rsfp"
    with one of that method.

    ``ensemble`` is for one that draws at random: the class is that of the largest mean over so many draws of the
    classifier's softmax; images and all that is measured of them are those of the first, which is the purifier's own.
    """

    model_config = ConfigDict(extra="allow")

    purifier: str
    ensemble: int | None = Field(None, ge=2, le=MOST_DRAWS)

    @model_validator(mode="after")
    def _of_a_bundle(self) -> "PurifierSpec":
        if self.purifier in BUNDLED and not isinstance(self.bundle, str):
            raise ValueError(f"purifier {self.purifier} needs a bundle: name a shipped one, a folder or a URI")
        return self

    @property
    def decisive(self) -> dict[str, Any]:
        """All that decides what becomes of an image, an ensemble only where there is one."""
        return self.model_dump(exclude=None if self.ensemble else {"ensemble"})

    @property
    def bundle(self) -> str | None:
        """The bundle that the purifier is made of, None for others."""
        return self.settings.get("bundle", BUNDLED[self.purifier]) if self.purifier in BUNDLED else None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the purifier itself."""
        return dict(self.model_extra or {})
