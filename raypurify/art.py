"""A purifier as a defence of the Adversarial Robustness Toolbox (the extra ``art``): :class:`PurifierPreprocessor`.

The toolbox hands arrays of its own range and layout to a preprocessor, and asks it for gradients.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.modules import PurifierModule
from raypurify.nets.straight import straight_through
from raypurify.purifiers import Purifier

try:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
except ImportError:
    PreprocessorPyTorch = None


class PurifierPreprocessor(PreprocessorPyTorch or object):  # type: ignore[misc]
    """A purifier for ``preprocessing_defences`` of the toolbox's estimators.

    Images are arrays or tensors (N, 3, H, W), or with ``channels_first=False`` (N, H, W, 3), from ``clip_values[0]`` to
    ``clip_values[1]``: give those of the estimator. Values a little outside, as rounding leaves them, are clipped. They
    come back in their own range, layout and type, whole numbers rounded, purified as ``purifier.purify`` does.

    ``mode`` is that of :class:`~raypurify.modules.PurifierModule` and says what attacks see: ``estimate_gradient`` of
    "bpda" is the identity, and with "implicit" it is the gradient through the sparse coding. Attacks of estimators for
    torch differentiate it with the network, others ask for ``estimate_gradient``.

    Raises ConfigError without the toolbox, and for settings that cannot be.
    """

    params = ("channels_first", "clip_values")

    def __init__(
        self,
        purifier: Purifier | str | Path = "cifar10",
        mode: str = "bpda",
        *,
        channels_first: bool = True,
        clip_values: tuple[float, float] = (0.0, 1.0),
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ):
        if PreprocessorPyTorch is None:
            raise ConfigError("the Adversarial Robustness Toolbox is not installed: pip install 'raypurify[art]'")
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.channels_first, self.clip_values = channels_first, clip_values
        self.module = PurifierModule(purifier, mode).to(self.device)
        self._check_params()

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Purified images, differentiable as ``mode`` says, and ``y`` as it is."""
        low, high = self.clip_values
        # Differences of whole numbers may overflow.
        images = x if x.is_floating_point() else x.float()
        images = images if self.channels_first else images.permute(0, 3, 1, 2)
        images = (images - low) / (high - low)
        # What rounding puts outside has a gradient like any other.
        images = straight_through(images, images.clamp(0, 1))
        purified = low + (high - low) * self.module(images)
        purified = purified if self.channels_first else purified.permute(0, 2, 3, 1)
        # Rounded as images.to_pixels does.
        return (purified if x.is_floating_point() else (purified + 0.5).floor()).to(x.dtype), y

    def _check_params(self) -> None:
        low, high = self.clip_values
        if not low < high:
            raise ConfigError(f"clip_values={self.clip_values}: give the least and the greatest value of a pixel")
