"""AutoAttack: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020.

A thin adapter over the authors' package ``pyautoattack``, which is installed with the extra ``evaluation``.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from raypurify.attacks.ascent import check_batch, logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size, eight_bit, unit_length
from raypurify.errors import ConfigError, DataError

VERSIONS = ("standard", "plus", "rand")
PARTS = ("apgd-ce", "apgd-t", "fab-t", "square", "apgd-dlr", "fab")


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack: several attacks without settings, one after the other on the images that withstood so far.

    ``version`` is the authors': ``"standard"`` (APGD on cross-entropy, APGD and FAB on targets, Square with 5,000
    queries), ``"plus"``, or ``"rand"`` for a randomised model. ``attacks`` names a selection of ``PARTS`` in its
    place. With C classes at most C − 1 of them serve as targets. Within a part the package has its own test;
    only an image that fools the model as it is deployed, as a file of 8 bits, is spared the parts that follow. One that
    withstands all comes back as it is.

    Under ``"dissimilarity"`` every image has a radius of its own, which the package has no place for: the images are
    attacked one by one, much more slowly. Otherwise an image's random numbers depend on its company. It computes in
    float32. Its warnings about the model go to the logger ``auto-attack``. A ``loss`` given to the call is refused with
    ConfigError, and so is the attack itself where ``pyautoattack`` is not installed.

    >>> from raypurify.attacks import AutoAttack
    >>> AutoAttack(eps=8 / 255, attacks=("apgd-ce", "square")).version
    'standard'
    """

    own_objective: ClassVar[bool] = True
    eps: float
    norm: str = "linf"
    version: str = "standard"
    attacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        if self.version not in VERSIONS:
            raise ConfigError(f"version={self.version!r}: choose one of {', '.join(VERSIONS)}")
        unknown = [name for name in self.attacks if name not in PARTS]
        if unknown:
            raise ConfigError(f"attacks: unknown {unknown[0]!r}: choose of {', '.join(PARTS)}")
        if find_spec("pyautoattack") is None:
            raise ConfigError("AutoAttack needs the package pyautoattack: pip install 'raypurify[evaluation]'")

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s. The seed is drawn from ``generator``.

        Raises DataError for a model of fewer than 4 classes where a targeted APGD is to run.
        """
        if loss is not None:
            raise ConfigError("AutoAttack has losses of its own: none can take their place")
        check_batch(images, labels)
        if len(images) == 0:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            # The package views images as flat, whatever their strides.
            clean = images.detach().clone(memory_format=torch.contiguous_format)
            single = clean.float()
            classes = logits_at(model, single[:1], images.dtype).shape[1]
            device = clean.device if generator is None else generator.device
            seed = int(torch.randint(2**31, (), generator=generator, device=device))

            def logits(x: Tensor) -> Tensor:
                return _Apart.apply(x, model, images.dtype)

            def judge(x: Tensor) -> Tensor:
                return logits_at(model, eight_bit(x), images.dtype).float()

            def attacked(part: slice, eps: float) -> Tensor:
                attack = self._prepared(logits, judge, eps, seed, classes, clean.device)
                return attack.run_standard_evaluation(single[part], labels[part], batch_size=len(single))[0]

            with torch.random.fork_rng([clean.device] if clean.device.type == "cuda" else []):
                if self.norm == "dissimilarity":
                    radii = (self.eps * unit_length(single, self.norm)).flatten().tolist()
                    found = torch.cat([attacked(slice(i, i + 1), radius) for i, radius in enumerate(radii)])
                else:
                    found = attacked(slice(None), self.eps)
            return torch.where(found == single, clean, found.to(clean.dtype))

    def _prepared(self, model: Model, judge: Model, eps: float, seed: int, classes: int, device: torch.device) -> Any:
        """The package's attack on ``model``, with no more targets than there are other classes.

        Whether an image withstood a part is told by the logits of ``judge``.
        """
        from pyautoattack import AutoAttack as Published

        settings = {"version": "custom", "attacks": list(self.attacks)} if self.attacks else {"version": self.version}
        norm = "Linf" if self.norm == "linf" else "L2"
        attack = Published(model, eps=eps, norm=norm, seed=seed, device=device, **settings)
        # Its parts follow the model; who leaves between them is told by this.
        attack.get_logits = judge
        if classes < 4 and "apgd-t" in attack.attacks_to_run:
            raise DataError(f"{classes} classes: targeted APGD needs 4; give attacks=('apgd-ce', 'fab', 'square')")
        for part in (attack.apgd_targeted, attack.fab):
            part.n_target_classes = min(part.n_target_classes, classes - 1)
        return attack


class _Apart(torch.autograd.Function):
    """The model's logits in float32, with a graph of its own: FAB's ``backward()`` then reaches no parameter."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: Model, dtype: torch.dtype) -> Tensor:
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            ctx.graph = inputs, wide(model(inputs.to(dtype)))
        # The package writes into what it gets.
        return ctx.graph[1].detach().float().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inputs, logits = ctx.graph
        found = torch.autograd.grad(logits, inputs, gradient.to(logits), retain_graph=True)[0]
        return found.contiguous(), None, None
