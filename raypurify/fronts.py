"""Settings of the sparse front end (Bakiskan et al.): of its dictionary of patches, its encoder and its decoder."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_serializer, model_validator

from raypurify.regions import AtomSettings, check_kept
from raypurify.trees import SettingsModel, without_default

Channels = Annotated[int, Field(ge=1, le=8192)]
"""Channels of a layer of the decoder."""

Count = Annotated[int, Field(ge=1)]
"""Coefficients of a patch."""


class Learner(NamedTuple):
    """A classifier that a decoder can learn with: the ``title`` to read, the tensor of its network that has the
    ``head``'s weights (classes, d), whether it can start from weights that a package carries, and the ``least`` side of
    an image that it takes."""

    title: str
    head: str
    pretrained: bool = False
    least: int = 1


LEARNERS = {
    "cifar-resnet": Learner("a ResNet-{depth}", "linear.weight"),
    "efficientnet-b0": Learner("an EfficientNet-B0", "network.classifier.1.weight"),
    "efficientnet-lite0": Learner("an EfficientNet-Lite0", "network._fc.weight", pretrained=True, least=32),
}
"""Every classifier that a decoder can learn with, by its name in settings; ``nets.front_classifiers`` makes them."""


class FrontDictionarySettings(AtomSettings):
    """Settings of the front end's dictionary; the defaults are the paper's for images of 32².

    The learner takes ``batch`` patches a step, so that 1,000 images of 5 patches each are the paper's 1,000 iterations
    of the 5 patches that the authors' code takes.

    >>> how = FrontDictionarySettings()
    >>> how.images * how.per_image * how.passes // how.batch
    1000
    """

    size: int = Field(4, ge=2, le=32, description="side of a patch, and of an atom")
    atoms: int = Field(500, ge=2, le=8192, description="L; the paper takes 1000 for images of 160²")
    stride: int = Field(2, ge=1, le=32, description="pixels from one patch that is coded to the next")
    per_image: int = Field(5, ge=2, description="random patches of each of them")
    alpha: float = Field(1.0, gt=0, description="λ of equation 1; the paper takes 0.5 for images of 160²")
    batch: int = Field(5, ge=1, description="patches of one step of the learner")

    @model_validator(mode="after")
    def _covering(self) -> "FrontDictionarySettings":
        if self.stride > self.size:
            raise ValueError(f"stride is {self.stride}, above size, {self.size}: pixels would be left out")
        return self


class EncoderSettings(SettingsModel):
    """Settings of the front end's encoder (section 2.2); the defaults are the paper's.

    >>> EncoderSettings().top, EncoderSettings().dropout
    (50, 0.95)
    """

    top: int | None = Field(50, ge=1, description="T: coefficients of a patch that are kept; null: all")
    dropout: float = Field(0.95, ge=0, lt=1, description="p: share of these that is dropped at random; 0: none")
    quantise: bool = Field(True, description="keep signs alone (equation 3); false: the coefficients as they are")
    beta: float = Field(3.0, gt=1, allow_inf_nan=False, description="β: a coefficient counts from β·eps·‖d‖₁ on")
    eps: float = Field(8 / 255, ge=0, le=1, description="ε: size of the perturbation, under the largest change")
    seed: int = Field(0, ge=0, description="number of the draw: with an image's pixels it decides what is dropped")


class DecodingSettings(SettingsModel):
    """Settings of the front end's decoder that no other training has.

    >>> DecodingSettings().channels
    (300, 100)
    """

    channels: tuple[Channels, Channels] = Field(
        (300, 100), description="between its three layers; the authors' code has these"
    )
    supervised: bool = Field(
        False, description="learn with a classifier, by cross-entropy, to classify; false: alone, to give images back"
    )
    classifier: Literal[tuple(LEARNERS)] = Field(  # type: ignore[valid-type]  # known when it runs
        "cifar-resnet", description="which one; the paper takes efficientnet-b0 for images of 160²"
    )
    depth: int = Field(32, ge=8, le=1000, description="layers of a cifar-resnet: 6n + 2")
    pretrained: bool = Field(
        False, description="it starts from the ImageNet weights of its package, which efficientnet-lite0 has"
    )
    rise: float = Field(0.5, gt=0, lt=1, description="share of the steps in which the rate rises; it falls in the rest")

    @model_serializer(mode="wrap")
    def _unsaid(self, write: Any) -> dict[str, Any]:
        return without_default(without_default(write(self), "classifier", "cifar-resnet"), "pretrained", False)


class BackwardSettings(SettingsModel):
    """Settings of the gradient that an attacker takes of the sparse front end, beside the paper's own; of the authors'
    code are a ``top`` above T, and ``dropped``.

    >>> BackwardSettings().top is None
    True
    """

    top: Count | Literal["all"] | None = Field(
        None, description="through how many of a patch's largest coefficients; null: T, those that go forward"
    )
    dropped: bool = Field(False, description="also through coefficients that dropout dropped")
    sigma: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="width of the smooth step, in ‖d‖₁; null: the paper's 0.25"
    )


def check_front(
    dictionary: FrontDictionarySettings, encoder: EncoderSettings, decoder: DecodingSettings, side: int
) -> None:
    """Raise ValueError where images of this ``side`` cannot be coded by these settings together, or there is no such
    classifier.

    >>> check_front(FrontDictionarySettings(), EncoderSettings(), DecodingSettings(), 32)
    """
    if (decoder.depth - 2) % 6:
        raise ValueError(f"decoder.depth is {decoder.depth}: a CIFAR ResNet has 6n + 2 layers: give 8, 14, 20 or 32")
    if decoder.supervised and side < (least := LEARNERS[decoder.classifier].least):
        raise ValueError(
            f"data.image_size is {side}, and decoder.classifier {decoder.classifier} takes images from {least}² on: "
            "raise it, or choose another"
        )
    if decoder.pretrained and not (decoder.supervised and LEARNERS[decoder.classifier].pretrained):
        having = ", ".join(name for name, one in LEARNERS.items() if one.pretrained)
        raise ValueError(
            f"decoder.pretrained is of a decoder that learns with {having}: set supervised and classifier so, or leave "
            "pretrained out"
        )
    if encoder.top is not None and encoder.top > dictionary.atoms:
        raise ValueError(f"encoder.top is {encoder.top}, of {dictionary.atoms} atoms: give {dictionary.atoms} at most")
    if dictionary.size > side:
        raise ValueError(f"dictionary.size is {dictionary.size}, above data.image_size, {side}")
    check_kept("dictionary", dictionary, side)
