"""A check of attacks by chance: what gradients find, drawing at random does not find more of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raypurify.attacks.budget import per_image
from raypurify.attacks.losses import margin, values
from raypurify.evaluation.judged import Check, Subject

POINTS = 100


def check_random_search(
    subject: Subject, images: Tensor, labels: Tensor, eps: float, right: Sequence[Tensor], points: int = POINTS
) -> Check:
    """Check that random search finds no image that attacks by gradients miss (Athalye et al., "Obfuscated gradients
    give a false sense of security", ICML 2018, section 3.1).

    ``right`` says of each attack which images (N,), or of K draws of a random defence (K, N), were right under it.
    Those right under all of them, by every draw, are moved to ``points`` random corners of the L∞ ball of size ``eps``,
    as no points of it are further away; the corner of the largest loss (of the margin, where the subject has none) is
    judged. An image is found where it is wrong there, by every draw. One image of slack, as in the other checks.
    """
    withstood = torch.stack([_by_every_draw(one) for one in right]).all(0)
    clean, own = images[withstood], labels[withstood]
    found = torch.zeros_like(own, dtype=torch.bool)
    if len(own):
        found = _by_every_draw(subject.predict(_highest(subject, clean, own, eps, points)) != own)
    return Check(
        "random search finds nothing that gradients miss",
        int(found.sum()) <= 1,
        f"{int(found.sum())} of {len(own)} images that withstand gradients, at {points} corners of the ball; "
        f"n = {len(images)}, one image of slack",
    )


@torch.no_grad()
def _highest(subject: Subject, images: Tensor, labels: Tensor, eps: float, points: int) -> Tensor:
    """Of ``points`` random corners around each image that of the largest loss."""
    generator = torch.Generator().manual_seed(0)
    best, height = images, torch.full(labels.shape, -torch.inf, device=images.device)
    for _ in range(points):
        # Drawn on the CPU, so that they are the same everywhere.
        signs = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
        tried = (images + eps * signs).clamp(0, 1)
        loss = values(subject.loss or margin, subject.model(tried), labels)
        higher = loss > height
        best, height = torch.where(per_image(higher, best), tried, best), torch.where(higher, loss, height)
    return best


def _by_every_draw(which: Tensor) -> Tensor:
    return which if which.ndim == 1 else which.all(0)
