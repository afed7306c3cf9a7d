"""The purifier of a bundle whose atoms code the high part of an image by convolutional sparse coding."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from raypurify.csc import SparseCode
from raypurify.purifiers.base import checked
from raypurify.purifiers.bundled import Bundled, Work
from raypurify.purifiers.rewriting import rewrite


class Convolutional(Bundled):
    """A purifier of a bundle that rewrites high parts: RSFP and STL.

    For an image x:

    1. x_low = argmin_l ½‖l − x‖² + (λ_T/2) Σⱼ‖Gⱼ l‖², x_high = x − x_low (the Tikhonov split);
    2. the cluster k that the method chooses for x;
    3. r = argmin_r ½‖Σ_m d_m ∗ r_m − x_high‖² + λ Σ_m‖r_m‖₁ with the dictionary of k;
    4. purified = clip(x_low + Σ_m d_m ∗ r_m, 0, 1); how the settings ``csc.noise_factor`` and ``csc.refit`` change 3
       and 4 says ``purifiers.rewriting.rewrite``.

    A subclass says what the choice is, and how far an image lies from a cluster.
    """

    tunable: ClassVar[str] = "csc"
    distance_is_apart: ClassVar[bool] = True

    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images (N, 3, H, W), differentiable in ``images``: for attackers who know the purifier.

        The gradient is that of low-pass, sparse coding, refit and, unless ``hold_lmbda``, of λ from the noise, by a
        smooth stand-in (``rewriting.scale_of_lmbda`` says why); the choice of the cluster is piecewise constant. Codes
        are solved to ``rel_tol``: above 1e-3 their gradient is poor (``csc.solve_cbpdn``, which ``differentiable`` is
        for).
        """
        images = checked(images, self.min_size, "an atom").to(self.device)
        return self._coded(images, rel_tol, differentiable=differentiable, hold_lmbda=hold_lmbda)[0]

    def _rewritten(self, images: Tensor, given: Tensor | None) -> Work:
        purified, code, cluster, distance = self._coded(images, self.settings.csc.rel_tol, given, sparse=True)
        return Work(purified, cluster, distance, code.iterations)

    def _coded(
        self, images: Tensor, rel_tol: float, given: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, SparseCode, Tensor, Tensor]:
        """Purified images, code of the high part, the cluster, given or chosen, and the distance to it."""
        with torch.no_grad():
            cluster, distance = self.choose(images) if given is None else (given, self.own_distance(images, given))
        purified, code = rewrite(
            images, self.dictionaries, self.settings.csc, index=cluster, rel_tol=rel_tol, **options
        )
        return purified, code, cluster, distance
