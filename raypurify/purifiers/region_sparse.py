"""RegionSparse: sparse coding of the object region, a bilateral filter elsewhere."""

from typing import ClassVar

import torch
from torch import Tensor

from raypurify.bundle.names import DICTIONARIES
from raypurify.bundle.tensors import Tensors
from raypurify.patches.coding import Rewritten, rewrite_patches
from raypurify.purifiers.base import checked
from raypurify.purifiers.bilateral import Bilateral
from raypurify.purifiers.bundled import Bundled, Work
from raypurify.purifiers.localisation import inside, object_boxes


class RegionSparse(Bundled):
    """RegionSparse, the purifier of a bundle of the method region_sparse: codes the object of an image with few atoms a
    patch, and smooths the rest.

    Of Zhang et al., "RegionSparse: Leveraging Sparse Coding and Object Localization to Counter Adversarial Attacks",
    for an image x:

    1. The object region, a box (section IV-C a): :func:`~raypurify.purifiers.localisation.object_boxes`.
    2. In the box every patch is coded by orthogonal matching pursuit with K = ``region.nonzeros`` atoms, after
       equation 17 over the patches of the box, and overlapping patches are averaged (IV-C b). A box has two patches a
       side at least, and so has an image: ``min_size`` is one pixel more than an atom.
    3. Outside, a bilateral filter (IV-C c).
    4. F(x) = θ C(x_o) + (1 − θ) C(x_b) (equation 19) with θ = 1 in the box and 0 outside, clipped to [0, 1]. What
       balances the two is how strongly each is compressed: K, and the filter's ``sigma_space`` and ``sigma_colour``.

    The setting ``ablations`` leaves out steps as the paper's figure 4 does: "noPN" equation 17, "noBS" step 3. "noTR"
    and "noIS" are of the fit, which trains no dictionary, or smooths no images before.

    There is one dictionary, and so one cluster, of all images. The ``distance`` is the root mean square of what K atoms
    leave of the box's patches, in standard deviations: how little the image is made of what benign images are made of.
    """

    tunable: ClassVar[str] = "region"

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The one cluster (N,), 0, and the distance (N,)."""
        cluster = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return cluster, self.own_distance(images, cluster)

    def own_distance(self, images: Tensor, cluster: Tensor) -> Tensor:
        """The distance (N,) of each image to what K atoms can say."""
        return self._coded(images, object_boxes(images, self.min_size).boxes).residual.float()

    def cluster_distances(self, images: Tensor) -> Tensor:
        """The distance (N, 1) of each image to the one cluster, differentiable."""
        return self.own_distance(images, torch.zeros(len(images)))[:, None]

    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images (N, 3, H, W), differentiable in ``images``: for attackers who know the purifier.

        The gradient is that of equation 17, of the projection on the atoms that were taken, of the averaging and of the
        bilateral filter; box and atoms are piecewise constant. There is no iteration to be solved more closely, so that
        the other arguments, which those of other methods have, change nothing.
        """
        return self._rewritten(checked(images, self.min_size, "an atom").to(self.device), None).images

    def _rewritten(self, images: Tensor, given: Tensor | None) -> Work:
        how, left_out = self.settings.region, self.settings.ablations
        boxes = object_boxes(images, self.min_size).boxes
        done = self._coded(images, boxes)
        elsewhere = images
        if "noBS" not in left_out:
            elsewhere = Bilateral(how.radius, how.sigma_space, how.sigma_colour).transform(images)
        within = inside(boxes, *images.shape[-2:])
        placed = [_placed(one, box, image) for one, box, image in zip(done.images, boxes, images)]
        objects = torch.stack(placed) if placed else images
        cluster = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        purified = torch.where(within, objects, elsewhere).clamp(0, 1)
        return Work(purified, cluster, done.residual.float(), done.most, boxes)

    def _coded(self, images: Tensor, boxes: Tensor) -> Rewritten:
        how = self.settings.region
        crops = [image[:, top:bottom, left:right] for image, (left, top, right, bottom) in zip(images, boxes.tolist())]
        return rewrite_patches(
            crops, self.dictionaries[0], how.nonzeros, how.stride, "noPN" not in self.settings.ablations
        )

    def _assemble(self) -> None:
        atoms, how = self.dictionaries, self.settings.region
        if len(atoms) != 1 or atoms.shape[-1] != atoms.shape[-2]:
            raise ValueError(f"dictionaries of shape {tuple(atoms.shape)}, not (1, M, 3, b, b)")
        if how.nonzeros > min(atoms.shape[1], atoms[0, 0].numel()):
            raise ValueError(f"region.nonzeros is {how.nonzeros}, the atoms are {tuple(atoms.shape[1:])}")
        side = atoms.shape[-1]
        if how.stride > side:
            raise ValueError(f"region.stride is {how.stride}, patches are of {side}²")
        # Equation 17 leaves nothing of one patch alone, which would come back as it was.
        self.min_size = side + 1


def _placed(coded: Tensor, box: Tensor, image: Tensor) -> Tensor:
    """A coded box at its place in an empty image like ``image`` (3, H, W)."""
    left, top, right, bottom = box.tolist()
    height, width = image.shape[-2:]
    return torch.nn.functional.pad(coded.float(), (left, width - right, top, height - bottom))


def region_sparse_tensors(dictionary: Tensor) -> Tensors:
    """The tensors of a bundle of the method region_sparse, for ``save_bundle``: the atoms (M, 3, b, b) as float16.

    >>> region_sparse_tensors(torch.rand(4, 3, 8, 8))["dictionaries.safetensors"]["atoms"].shape
    torch.Size([1, 4, 3, 8, 8])
    """
    return {DICTIONARIES: {"atoms": dictionary[None].half()}}
