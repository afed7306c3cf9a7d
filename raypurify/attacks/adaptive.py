"""Attackers who know the purifier: models of classifier ∘ purifier that an attack can differentiate.

Each function makes an ``attacks.base.Model`` from a classifier and a purifier; every attack of ``attacks.ATTACKS`` runs
on it unchanged. Which of them is the strongest is not known beforehand, so an honest figure is the worst case over all.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from raypurify.attacks.base import Attack, Loss, Model
from raypurify.attacks.budget import per_image
from raypurify.attacks.expectation import Expectation
from raypurify.attacks.losses import margin
from raypurify.csc import tikhonov_split
from raypurify.errors import ConfigError
from raypurify.nets.straight import straight_through

if TYPE_CHECKING:
    from raypurify.purifiers import Bundled

ImageMap: TypeAlias = Callable[[Tensor], Tensor]
"""A map from images (N, 3, H, W) in [0, 1] to images, such as ``lambda x: purifier.purify(x).images``."""

Surrogate: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A map from (images, purified images, detached) to a differentiable stand-in for the purified ones."""


def lowpass(lmbda: float = 5.0, pad: int = 16) -> Surrogate:
    """The smooth surrogate of a sparse purifier: x_low + a·x_high, a = ⟨p_high, x_high⟩ / ‖x_high‖² for each image.

    p_high is the high part of the purified image. RSFP leaves the low part as it is (its eq. 8), and its sparse coding
    shrinks the high part; a is the factor that fits what it did to this image best, in least squares, and is 1 where
    x_high = 0. ``lmbda`` and ``pad`` are those of the Tikhonov split. The factor is measured, not differentiated.

    >>> x = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(lowpass()(x, x), x)
    True
    """

    def surrogate(images: Tensor, purified: Tensor) -> Tensor:
        low, high = tikhonov_split(images, lmbda=lmbda, pad=pad)
        with torch.no_grad():
            kept = tikhonov_split(purified, lmbda=lmbda, pad=pad)[1]
            energy = high.square().flatten(1).sum(1)
            share = torch.where(energy > 0, (kept * high).flatten(1).sum(1) / energy, 1)
        return low + per_image(share, high) * high

    return surrogate


def smooth_surrogate(purifier: object) -> Surrogate:
    """The low-pass surrogate with the purifier's own Tikhonov split, where it has one, else with RSFP's own.

    >>> import raypurify
    >>> surrogate, x = smooth_surrogate(raypurify.load("cifar10")), torch.rand(1, 3, 8, 8)
    >>> torch.equal(surrogate(x, 0.9 * x), lowpass(20.0)(x, 0.9 * x))
    True
    """
    csc = getattr(purifier, "csc", None) or getattr(getattr(purifier, "settings", None), "csc", None)
    return lowpass() if csc is None else lowpass(csc.tikhonov, csc.pad)


SURROGATES: dict[str, Surrogate] = {"identity": lambda images, purified: images, "lowpass": lowpass()}


def bpda(classifier: Model, purify: ImageMap, surrogate: str | Surrogate = "identity") -> Model:
    """The model classifier(purify(x)), whose gradient passes the purifier as if it were the surrogate.

    Backward pass differentiable approximation: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of
    security", ICML 2018, section 4.1. The forward pass is the true one, to the bit; in the backward pass ∇purify is
    replaced by ∇surrogate, for the identity (their choice for purifiers, as purify(x) ≈ x), for :func:`lowpass`, or for
    any function of the caller's. Raises ConfigError for another name.

    >>> model = bpda(lambda x: x.sum((2, 3)), lambda x: x.round())
    >>> x = torch.full((1, 3, 2, 2), 0.7, requires_grad=True)
    >>> model(x).tolist(), torch.autograd.grad(model(x).sum(), x)[0].unique()
    ([[4.0, 4.0, 4.0]], tensor([1.]))
    """
    if isinstance(surrogate, str):
        if surrogate not in SURROGATES:
            raise ConfigError(f"unknown surrogate {surrogate!r}: choose one of {', '.join(SURROGATES)}")
        surrogate = SURROGATES[surrogate]

    def model(images: Tensor) -> Tensor:
        with torch.no_grad():
            purified = purify(images.detach())
        return classifier(straight_through(surrogate(images, purified), purified))

    return model


def eot(model: Model, samples: int, transform: ImageMap | None = None, average: str = "logits") -> Model:
    """A model that stands for ``samples`` draws of a randomised one: expectation over transformation.

    Athalye et al. 2018, section 4.2: ∇E f(t(x)) = E ∇f(t(x)), estimated from ``samples`` draws of ``transform``, which
    is random at each call (None: the model itself is random, such as :func:`bpda` of a random purifier). ``average``
    says what is averaged: ``"logits"``, ``"probabilities"``, ``"gradients"`` or ``"directions"``
    (``attacks.expectation.Expectation``). Raises ConfigError for fewer than one, or for another average.

    >>> signs = iter([1.0, -3.0])
    >>> eot(lambda x: x.flatten(1), 2, lambda x: next(signs) * x)(torch.full((1, 1, 1, 2), 0.5))
    tensor([[-0.5000, -0.5000]])
    """
    return Expectation(model if transform is None else lambda images: model(transform(images)), samples, average)


def through_solver(
    classifier: Model,
    purifier: "Bundled",
    rel_tol: float = 1e-3,
    differentiable: str = "implicit",
    hold_lmbda: bool = False,
) -> Model:
    """The model classifier(purify(x)) with the gradient of the purifier itself: of low-pass, sparse coding and λ.

    The choice of the cluster is piecewise constant and is made anew in every pass; its gradient is zero, for which
    there are :func:`attack_choice` and ``joint.joint``. Codes are solved to ``rel_tol``, tighter than the purifier's
    own 5e-3, without which the gradient is poor: images differ from ``purifier.purify``'s by as much as that changes.
    Of images that require no gradient the model gives what is deployed, ``purifier.purify``'s to the bit, so that an
    attack judges its success by it. ``differentiable`` is that of ``csc.solve_cbpdn``: ``"implicit"``, or
    ``"unrolled"`` through the iterations of ADMM; ``hold_lmbda`` that of ``purifier.purify_differentiably``.

    >>> import raypurify
    >>> purifier = raypurify.load("cifar10")
    >>> through_solver(purifier.network, purifier)(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def model(images: Tensor) -> Tensor:
        if not (images.requires_grad and torch.is_grad_enabled()):
            return classifier(purifier.purify(images).images)
        return classifier(purifier.purify_differentiably(images, rel_tol, differentiable, hold_lmbda))

    return model


def cluster_scores(purifier: "Bundled") -> Model:
    """A model whose classes are the clusters, scored by the negative distance of the image to each, (N, K);
    differentiable. For RSFP that is −MD(R(x), cluster).

    What it scores highest is the cluster that the purifier takes, or for a method whose choice has no gradient nearly
    always (``Bundled.cluster_distances``), and ``attacks.losses.margin`` of that cluster is its
    distance less that of the nearest other one.

    >>> import raypurify
    >>> x, purifier = torch.rand(2, 3, 32, 32), raypurify.load("cifar10")
    >>> bool((cluster_scores(purifier)(x).argmax(1) == purifier.purify(x).cluster).all())
    True
    """
    return lambda images: -purifier.cluster_distances(images)


def attack_choice(
    attack: Attack,
    purifier: "Bundled",
    images: Tensor,
    *,
    generator: torch.Generator | None = None,
    loss: Loss | None = margin,
) -> Tensor:
    """Images that ``attack`` pushed away from their own cluster, towards the nearest other one.

    The attack raises the distance to the own cluster less that to the nearest other one, with its budget and norm, so
    that the purifier codes the image with the atoms of other images. ``loss=None`` is for attacks whose own objective
    is a margin (CW, DeepFool, Square). Raises ConfigError for a purifier of one cluster.

    >>> import raypurify
    >>> from raypurify.attacks import PGD
    >>> x, purifier = torch.rand(2, 3, 32, 32), raypurify.load("cifar10")
    >>> (purifier.purify(attack_choice(PGD(eps=0.1), purifier, x)).cluster != purifier.purify(x).cluster).tolist()
    [True, True]
    """
    if len(purifier.classes_of_cluster) < 2:
        raise ConfigError(
            f"the bundle of method {purifier.bundle.manifest.method} has one cluster, and the attack on the choice "
            "needs another to lead to: attack through the solver"
        )
    scores = cluster_scores(purifier)
    # The cluster by its distance: where a vote chooses, the two may differ, and the attack would find its work done.
    with torch.no_grad():
        own = scores(images).argmax(1)
    return attack(scores, images, own, generator=generator, loss=loss)
