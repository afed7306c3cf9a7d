"""Typed settings of a fit: one YAML file, dotted overrides on top.

Settings come from a preset or a file and are checked as a whole before any work starts: an unknown key, a wrong type
or a value out of range is named with its dotted path.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator

from raypurify.errors import ConfigError
from raypurify.fronts import DecodingSettings, EncoderSettings, FrontDictionarySettings, check_front
from raypurify.regions import ABLATIONS, PatchSettings, RegionSettings, check_coding
from raypurify.supervision import OF_CLASSES, SupervisionSettings
from raypurify.trees import (
    SettingsModel,
    apply_override,
    parse_yaml,
    preset_names,
    preset_tree,
    problems_of,
    without_default,
)


class DataSettings(SettingsModel):
    """Settings of the images: which a fit uses, and at which size the network sees them."""

    image_size: int = Field(32, ge=8, le=1024, description="side of the network's input; other sizes are resized")
    validation: int = Field(5000, ge=1, description="images held out for every measured figure, never trained on")
    limit: int | None = Field(None, ge=1, description="train on at most this many images (a seeded choice)")


class NetworkSettings(SettingsModel):
    """Settings of the network, a WideResNet-depth-width."""

    depth: int = Field(16, ge=8, le=1000, description="6n + 4, or 6n + 2 as RSFP counts")
    width: int = Field(2, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("depth")
    @classmethod
    def _of_three_groups(cls, depth: int) -> int:
        if depth % 6 not in (2, 4):
            raise ValueError("give 6n + 4 (10, 16, 22, 28, 34, 70 …) or 6n + 2 (32 of the paper)")
        return depth


class TrainingSettings(SettingsModel):
    """Settings of a training: SGD with Nesterov momentum under a one-cycle schedule, data parallel over workers."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=2, description="images per step over all workers")
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    workers: int | None = Field(None, ge=1, description="null: one for each GPU, or two where there is none")
    min_workers: int | None = Field(None, ge=1, description="go on with so few when nodes are lost; null: wait for all")
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    augment: Literal["crop", "resized_crop", "none"] = Field("crop", description="crop: for images as small as 32²")
    ema: float = Field(0.0, ge=0, lt=1, description="decay per step of averaged weights, which are kept; 0: off")
    checkpoint_steps: int | None = Field(None, ge=1, description="checkpoints within an epoch, every so many steps")
    keep: Literal["last", "best"] = Field(
        "last", description="best: the epoch of best validation accuracy, attacked if robust"
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _from_switch(cls, value: Any) -> Any:
        # Bundles of before hold a switch.
        return {True: "crop", False: "none"}[value] if isinstance(value, bool) else value


class DenoisingSettings(TrainingSettings):
    """Settings of the training of a network that takes noise away: its inputs have noise, its targets have none."""

    noise: float = Field(0.15, gt=0, le=1, description="σ of the Gaussian noise, of images in [0, 1]")
    levels: Literal["half", "all", "range"] = Field(
        "half", description="half: every other image is clean; all: none; range: each has a σ of its own, up to noise"
    )
    loss: Literal["bce", "mse"] = Field("bce", description="binary cross-entropy, or the mean square")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="adam: momentum is its β₁")
    lr: float = Field(0.002, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    augment: Literal["crop", "resized_crop", "none"] = "none"  # crops would have borders of black to rebuild


class CompressionSettings(DenoisingSettings):
    """Settings of the training of ComDefend's networks (Jia et al. 2019): the mean square, and a price of codes.

    >>> CompressionSettings().noise, CompressionSettings().code_weight
    (0.0, 0.0001)
    """

    noise: float = Field(0.0, ge=0, le=1, description="σ of noise on the images; ComDefend has noise on codes alone")
    levels: Literal["half", "all", "range"] = "all"
    loss: Literal["bce", "mse"] = "mse"
    code_weight: float = Field(1e-4, ge=0, description="weight of the mean square of the codes")


class DaeSettings(DenoisingSettings):
    """Settings of STL's denoising auto-encoder, and of its training; σ, the loss and the width are the authors'.

    >>> DaeSettings().noise
    0.15
    """

    width: int = Field(32, ge=1, description="channels of every layer; latents are this times (image_size/8)²")


class DecoderSettings(TrainingSettings, DecodingSettings):
    """Settings of the sparse front end's decoder, and of its training (Bakiskan et al., section 5.1)."""

    epochs: int = Field(50, ge=1, description="the paper takes 70 where it is supervised")
    batch_size: int = Field(64, ge=2, description="images per step over all workers")
    lr: float = Field(0.05, gt=0, description="the highest rate")


class AttackSettings(SettingsModel):
    """Settings of the inner maximisation of robust training (RSFP, eq. 3 and 7): projected gradient ascent.

    ``step_size: null`` means 2.5·eps/steps (Madry et al. 2018), and under dissimilarity what ``attacks.PGD`` says of
    it. Training with one step, which is fast adversarial training (Wong et al. 2020), takes 1.25·eps instead, as they
    do: longer ones overfit catastrophically.
    """

    norm: Literal["linf", "l2", "dissimilarity"] = "l2"
    eps: float = Field(0.5, gt=0)
    steps: int = Field(2, ge=1, le=1000, description="1: fast adversarial training")
    step_size: float | None = Field(None, gt=0)
    random_start: bool = True


INITS = ("baseline", "random", "first")  # what a robust training starts from: a stage's network, or none


class RobustTrainingSettings(TrainingSettings, SupervisionSettings):
    """Settings of robust semantic training (RSFP, eq. 7), over PGD training or TRADES (Zhang et al. 2019, eq. 5).

    >>> RobustTrainingSettings(loss="trades", alpha=0).beta
    6.0
    """

    loss: Literal["ce", "trades"] = Field("ce", description="ce: cross-entropy on adversarial images alone")
    beta: float = Field(6.0, gt=0, description="weight of the divergence in trades")
    alpha: float = Field(0.05, ge=0, description="weight of the semantic loss; 0: none, as semantic none")
    init: str = Field("baseline", description="baseline, random, first, or the path of another network.safetensors")
    guard: bool = Field(True, description="stop when accuracy under a multi-step attack collapses")
    attack: AttackSettings = AttackSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "RobustTrainingSettings":
        if self.init not in INITS and not self.init.endswith(".safetensors"):
            raise ValueError(f"init is {self.init!r}: give {', '.join(INITS)} or the path of a network.safetensors")
        if self.loss == "trades" and not self.attack.random_start:
            raise ValueError("loss trades needs attack.random_start: its divergence has no slope at the clean image")
        if self.loss == "trades" and self.images != "attacked":
            raise ValueError(f"images is {self.images}, but loss trades has both by itself: set it to attacked")
        if self.semantic in OF_CLASSES and not self.alpha:
            raise ValueError(f"alpha is 0, so that semantic {self.semantic} weighs nothing: raise it, or set none")
        if self.warm_up >= self.epochs:
            raise ValueError(f"warm_up is {self.warm_up} of {self.epochs} epochs: lower it, or raise epochs")
        if self.eps_from and self.eps_from > self.attack.eps:
            raise ValueError(f"eps_from is {self.eps_from}, above attack.eps, {self.attack.eps}")
        return self


class ClusterSettings(SettingsModel):
    """Settings of per-class k-means and the distributions of its clusters."""

    k: int | None = Field(None, ge=1, description="fixed number of clusters per class; null: the elbow decides")
    k_min: int = Field(1, ge=1, description="the elbow's first candidate")
    k_max: int = Field(8, ge=1, description="the elbow's last candidate; its end of the curve takes part in the answer")
    n_init: int = Field(4, ge=1)
    form: Literal["pinv", "shrinkage", "low_rank", "ridge"] = "ridge"
    rank: int = Field(64, ge=1, description="axes that forms low_rank and ridge keep of a cluster's covariance")
    block_mb: int = Field(256, ge=1, description="MiB of latents that one task holds; a larger class is spread")
    latents: Literal["baseline", "robust"] | None = Field(
        None, description="whose latents distributions are of in the bundle; null: as robust.semantic and alpha need it"
    )

    @model_serializer(mode="wrap")
    def _unsaid(self, write: Any) -> dict[str, Any]:
        return without_default(write(self), "latents", None)

    @model_validator(mode="after")
    def _ordered(self) -> "ClusterSettings":
        if self.k_min > self.k_max:
            raise ValueError(f"k_min is {self.k_min}, above k_max, {self.k_max}")
        return self


class StrataSettings(SettingsModel):
    """Settings of STL's strata: PCA and k-means over all classes, and the vote that gives an image its stratum."""

    count: int = Field(4, ge=1, description="number of strata; STL takes 4 for CIFAR-10 and 10 for ImageNet")
    components: int = Field(128, ge=1, description="principal components that are kept, at most as many as there are")
    neighbours: int = Field(15, ge=1, le=1000, description="training features that vote")
    keep: int = Field(10000, ge=1, description="training features that the bundle keeps; the vote is theirs")
    n_init: int = Field(10, ge=1)
    block_mb: int = Field(256, ge=1, description="MiB of latents that one task holds; more are spread")

    @model_validator(mode="after")
    def _enough(self) -> "StrataSettings":
        if self.neighbours > self.keep:
            raise ValueError(f"neighbours is {self.neighbours}, but only {self.keep} features are kept: raise keep")
        return self


# An image's λ follows its noise between these multiples of csc.lmbda.
LMBDA_RANGE = (0.5, 3.0)
# Of the mirrored border of the low-pass, which is as long as it reaches long before; all of it is in memory.
MOST_PAD = 1024


class CscSettings(SettingsModel):
    """Settings of the low/high split and of convolutional sparse coding."""

    lmbda: float = Field(0.2, ge=0, description="sparsity; STL's number, for atoms of norm 1 over all colours")
    rel_tol: float = Field(5e-3, gt=0)
    tikhonov: float = Field(5.0, gt=0, description="weight of the low-pass")
    pad: int = Field(16, ge=0, le=MOST_PAD)
    noise_factor: float = Field(0.0, ge=0, description="λ is this times an image's noise level, near lmbda; 0: lmbda")
    refit: bool = Field(False, description="scale what was coded to fit the high part, against the bias of ℓ1")
    refine: int = Field(0, ge=0, description="alternations of codes and atoms on the image at hand; STL's figure 2")

    @model_serializer(mode="wrap")
    def _unsaid(self, write: Any) -> dict[str, Any]:
        return without_default(write(self), "refine", 0)


class DictionarySettings(SettingsModel):
    """Settings of convolutional dictionary learning, one dictionary per cluster."""

    atoms: int = Field(64, ge=2, le=8192, description="STL's number; RSFP gives none")
    size: int = Field(8, ge=2, le=1024, description="side of an atom; STL's number")
    images: int = Field(256, ge=1, description="images of a cluster that its dictionary is learned from")
    passes: int = Field(1, ge=1)
    engine: Literal["torch", "sporco"] = "torch"
    actors: int | None = Field(None, ge=1, description="at most so many learn at once; null: as many as there is room")
    image_size: int | None = Field(
        None, ge=8, le=1024, description="side that images are squashed to before; null: the network's input"
    )

    @model_serializer(mode="wrap")
    def _unsaid(self, write: Any) -> dict[str, Any]:
        return without_default(write(self), "image_size", None)


class CalibrationSettings(SettingsModel):
    """Settings of calibration: what is measured on the validation images and stored with the bundle."""

    quantile: float = Field(0.99, gt=0, lt=1, description="clean distances above this quantile raise the flag")
    attack: AttackSettings = AttackSettings(steps=20)
    images: int = Field(1000, ge=1, description="validation images that are attacked and purified")


# The settings that are not of every method, by the methods that have them; all others are shared.
SECTIONS = {
    "rsfp": ("network", "baseline", "clusters", "csc", "dictionaries", "robust_first", "robust"),
    "stl": ("csc", "dictionaries", "dae", "strata"),
    "region_sparse": ("patches", "region", "ablations"),
    "front_end": ("dictionary", "encoder", "decoder"),
}


class Settings(SettingsModel):
    """All settings of a fit, of which those of other methods than ``method`` are neither accepted nor written.

    >>> load_settings(preset="paper").dictionaries.atoms
    64
    >>> "network" in load_settings(preset="tiny-stl").model_dump()
    False
    """

    method: Literal["rsfp", "stl", "region_sparse", "front_end"] = Field(
        "rsfp", description="what is fitted: one of the papers' systems"
    )
    name: str = "custom"
    note: str = Field("", description="a word of caution, shown with the bundle")
    seed: int = Field(0, ge=0)
    data: DataSettings = DataSettings()
    network: NetworkSettings = NetworkSettings()
    baseline: TrainingSettings = TrainingSettings()
    clusters: ClusterSettings = ClusterSettings()
    csc: CscSettings = CscSettings()
    dictionaries: DictionarySettings = DictionarySettings()
    robust_first: RobustTrainingSettings | None = Field(
        None, description="another robust training, before; see robust.init"
    )
    robust: RobustTrainingSettings = RobustTrainingSettings()
    dae: DaeSettings = DaeSettings()
    strata: StrataSettings = StrataSettings()
    patches: PatchSettings = PatchSettings()
    region: RegionSettings = RegionSettings()
    ablations: tuple[Literal[ABLATIONS], ...] = Field(  # type: ignore[valid-type]  # known when it runs
        (), description="steps left out: noTR training, noIS smoothing, noPN equation 17, noBS the background's filter"
    )
    dictionary: FrontDictionarySettings = FrontDictionarySettings()
    encoder: EncoderSettings = EncoderSettings()
    decoder: DecoderSettings = DecoderSettings()
    calibration: CalibrationSettings = CalibrationSettings()

    @model_validator(mode="after")
    def _of_one_method(self) -> "Settings":
        others = [name for name in type(self).model_fields if name in self.model_fields_set - {*self.own_sections()}]
        if others:
            owners = [method for method, names in SECTIONS.items() if set(others) <= {*names}] or [
                method for method, names in SECTIONS.items() if others[0] in names
            ]
            raise ValueError(
                f"{', '.join(others)}: of method {' and '.join(owners)}, but method is {self.method}: "
                f"remove {'it' if len(others) == 1 else 'them'}, or set method to {' or '.join(owners)}"
            )
        if self.method == "stl" and self.data.image_size % 8:
            raise ValueError(
                f"data.image_size is {self.data.image_size}: stl's auto-encoder halves images three times, "
                "give a multiple of 8"
            )
        return self

    @model_validator(mode="after")
    def _codable(self) -> "Settings":
        if self.method == "region_sparse":
            check_coding(self.patches, self.region, self.ablations, self.data.image_size)
        if self.method == "front_end":
            check_front(self.dictionary, self.encoder, self.decoder, self.data.image_size)
        return self

    @model_validator(mode="after")
    def _first_there(self) -> "Settings":
        if self.robust_first is None and self.robust.init == "first":
            raise ValueError("robust.init is first, but there is no robust_first: give its settings")
        if self.robust_first is not None and self.robust_first.init == "first":
            raise ValueError("robust_first.init is first: it cannot start from itself")
        if self.robust_first is not None and self.robust.init != "first":
            raise ValueError("robust_first is trained for nothing: set robust.init to first, or robust_first to null")
        return self

    @model_serializer(mode="wrap")
    def _own(self, write: Any) -> dict[str, Any]:
        # Nor is the default method, so that fits and bundles without one keep their fingerprints and bytes.
        said = {*self.own_sections()} - ({"method"} if self.method == "rsfp" else set())
        return {name: value for name, value in write(self).items() if name in said}

    def own_sections(self) -> list[str]:
        """The names of the settings that are shared or of this method, in order."""
        others = {name for names in SECTIONS.values() for name in names} - {*SECTIONS[self.method]}
        return [name for name in type(self).model_fields if name not in others]


def presets(method: str | None = None) -> list[str]:
    """Names of the presets that ship with the package, or of those of a method.

    >>> presets("stl")
    ['cifar10-stl', 'imagenet10-stl', 'tiny-stl']
    """
    return [name for name in preset_names() if method is None or _method(preset_tree(name)) == method]


def load_settings(
    preset: str | None = None, path: str | Path | None = None, overrides: tuple[str, ...] = ()
) -> Settings:
    """Settings from a preset or a YAML file, then ``a.b=value`` overrides.

    >>> load_settings(preset="tiny", overrides=("csc.lmbda=0.1",)).csc.lmbda
    0.1

    Raises ConfigError for an unknown preset, an unreadable file, an unknown key or a value out of range.
    """
    if preset and path:
        raise ConfigError("give a preset or a settings file, not both; raypurify settings --preset NAME makes a file")
    tree: dict[str, Any] = {}
    if preset:
        if preset not in presets():
            raise ConfigError(f"unknown preset {preset!r}: choose one of {', '.join(presets())}")
        tree = preset_tree(preset)
    elif path:
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"cannot read settings file {path}: {e}; check the path") from e
        tree = parse_yaml(text, str(path))
    of_preset = _method(tree)
    for override in overrides:
        apply_override(tree, override)
    asked = _method(tree)
    if preset and asked in list(SECTIONS) and asked != of_preset:
        others = f"those of {asked} are {', '.join(presets(asked))}"
        raise ConfigError(f"preset {preset} is of method {of_preset}: {others}; choose one")
    try:
        return Settings.model_validate(tree)
    except ValidationError as e:
        problems = problems_of(e, Settings, "settings")
        raise ConfigError(f"settings not usable: {problems}; mend them in the file or by --set") from e


def _method(tree: dict[str, Any]) -> Any:
    return tree.get("method", "rsfp")
