"""The purifier of a bundle of any method: a cluster for each image, whose atoms rewrite it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.bundle import Bundle
from raypurify.bundle.names import DICTIONARIES
from raypurify.bundle.tensors import fitting
from raypurify.errors import ConfigError, DataError, one_line
from raypurify.purifiers.base import Purified, checked, relative_change
from raypurify.trees import problems_of

# What a network sees at a time on a CPU: the activations of more leave its cache.
CPU_PIXELS = 1 << 15
Same = TypeVar("Same", bound="Bundled")
Net = TypeVar("Net", bound=nn.Module)
_HOW = "give one for all images, or one for each"


class Work(NamedTuple):
    """What a method did: purified ``images`` (N, 3, H, W), and for each the ``cluster`` (N,), the ``distance`` (N,) to
    it, the solver's ``iterations`` (N,), and where only a part of it was coded, its box ``region`` (N, 4)."""

    images: Tensor
    cluster: Tensor
    distance: Tensor
    iterations: Tensor
    region: Tensor | None = None


class Bundled(ABC):
    """A purifier that is made of a bundle on a ``device``.

    Every image is of a cluster, has a distance to it, and is rewritten with that cluster's atoms. A subclass is a
    method: it says which cluster, how far, and how atoms rewrite an image; those that code high parts by convolutional
    sparse coding are :class:`~raypurify.purifiers.convolutional.Convolutional`. A method with one dictionary has one
    cluster, of all images.

    Attributes: the ``bundle``, its ``settings`` and ``digest``; ``dictionaries`` (K, M, 3, h, w) of atoms of unit norm;
    ``classes_of_cluster``, for each cluster the name of its class, None where it is of none; ``min_size``; ``tunable``,
    the section of settings that says how images are rewritten, which ``with_settings`` changes; ``distance_is_apart``,
    whether these leave the distance as it is, and so the threshold of the flag.

    Raises BundleError for tensors that do not fit the manifest, and ConfigError for a device that cannot be used here.
    """

    tunable: ClassVar[str]
    distance_is_apart: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, device: str | torch.device = "cpu"):
        place = _usable(device)
        self.bundle, self.settings, self.digest = bundle, bundle.settings, bundle.digest
        with fitting(bundle):
            classes = bundle.manifest.classes
            self.classes_of_cluster = [None if c is None else classes[c] for c in bundle.manifest.cluster_class]
            self.dictionaries = _of_unit_norm(bundle.tensors[DICTIONARIES]["atoms"].float())
            self.min_size = max(self.dictionaries.shape[-2:])
            self._assemble()
            if not all(part.isfinite().all() for part in self.numbers()):
                raise ValueError("they hold values that are not finite")
        self._move(place)

    @abstractmethod
    def _assemble(self) -> None:
        """Make what the method needs of ``bundle.tensors``, on the CPU.

        What is put into attributes of this object goes to its device by itself: tensors, networks, which are frozen
        and in evaluation mode from then on, and objects with ``to`` and ``state``. What is raised for tensors that do
        not fit becomes a BundleError.
        """

    @abstractmethod
    def choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The cluster (N,) int64 of each image (N, 3, H, W), and the distance (N,) to it."""

    @abstractmethod
    def own_distance(self, images: Tensor, cluster: Tensor) -> Tensor:
        """The distance (N,) of each image (N, 3, H, W) to the ``cluster`` (N,) that is named for it."""

    @abstractmethod
    def cluster_distances(self, images: Tensor) -> Tensor:
        """The distance (N, K) of each image to each cluster, differentiable: what an attacker of the choice follows."""

    def to(self: Same, device: str | torch.device) -> Same:
        """The purifier on a device: itself where it is there already, else a copy, so that this one stays.

        >>> import raypurify
        >>> purifier = raypurify.load("cifar10")
        >>> purifier.to("cpu") is purifier
        True
        """
        device = _usable(device)
        if device == self.dictionaries.device:
            return self
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, nn.Module):
                setattr(moved, name, deepcopy(value))
        moved._move(device)
        return moved

    def with_settings(self: Same, /, **changes: Any) -> Same:
        """A copy that rewrites images with other settings of its section ``tunable``, by their names there.

        ``bundle`` and ``digest`` stay: what is to say in provenance what it did is a bundle of its own
        (``methods.adjust``). Raises ConfigError for a setting that there is not, or a value that it cannot have.

        >>> import raypurify
        >>> raypurify.load("cifar10-stl").with_settings(noise_factor=10, refit=True).settings.csc.noise_factor
        10.0
        """
        section = getattr(self.settings, self.tunable).model_dump() | changes
        kind = type(self.settings)
        try:
            settings = kind.model_validate(self.settings.model_dump() | {self.tunable: section})
        except ValidationError as error:
            raise ConfigError(f"{problems_of(error, kind, 'settings')}; mend its settings") from error
        changed = copy(self)
        changed.settings = settings
        return changed

    def numbers(self) -> Iterator[Tensor]:
        """Every tensor that decides what the purifier does, in an order that is always the same."""
        for value in vars(self).values():
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, nn.Module):
                yield from value.state_dict().values()
            elif hasattr(value, "state"):
                yield from value.state().values()

    @torch.no_grad()
    def purify(self, images: Tensor, *, cluster: int | Sequence[int] | Tensor | None = None) -> Purified:
        """Purify images (N, 3, H, W), floating point in [0, 1], H and W no smaller than an atom.

        With ``cluster``, one index for all images or one for each, none is chosen: the dictionary is that cluster's,
        distance and flag are of that cluster, and the result says ``cluster_given``.

        Deterministic; an image's result does not depend on the rest of its batch beyond rounding. Raises DataError for
        anything else than such images, and for a cluster that the bundle does not have.

        >>> import raypurify, torch
        >>> raypurify.load("cifar10").purify(torch.rand(2, 3, 32, 32), cluster=[3, 8]).cluster
        tensor([3, 8])
        """
        images = checked(images, self.min_size, "an atom").to(self.device)
        given = None if cluster is None else self._indices(cluster, len(images))
        done = self._rewritten(images, given)
        flagged = done.distance > self.bundle.manifest.calibration.distance_threshold
        return Purified(
            images=done.images,
            cluster=done.cluster,
            distance=done.distance,
            flagged=flagged,
            relative_change=relative_change(done.images, images),
            iterations=done.iterations,
            cluster_given=given is not None,
            region=done.region,
        )

    @abstractmethod
    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images (N, 3, H, W), differentiable in ``images``: for attackers who know the purifier.

        The arguments are those of sparse coding by iteration: to ``rel_tol`` it is solved, ``differentiable`` says how
        its gradient is taken (``csc.solve_cbpdn``), ``hold_lmbda`` that λ has none.
        """

    @abstractmethod
    def _rewritten(self, images: Tensor, given: Tensor | None) -> Work:
        """Images (N, 3, H, W), checked and on the device, purified as they are deployed; their clusters are the
        ``given`` ones (N,), or chosen."""

    def _move(self, device: torch.device) -> None:
        """Take everything to a device, networks in place."""
        self.device = device
        for name, value in list(vars(self).items()):
            if isinstance(value, nn.Module):
                value.to(device).eval().requires_grad_(False)
            elif hasattr(value, "to"):
                setattr(self, name, value.to(device))

    def _indices(self, cluster: int | Sequence[int] | Tensor, count: int) -> Tensor:
        """The given clusters as (count,) int64. Raises DataError."""
        try:
            index = torch.as_tensor(cluster)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"cluster={cluster!r} is no index of a cluster: {_HOW}") from error
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise DataError(f"cluster is of type {index.dtype}, indices are whole numbers: {_HOW}")
        if index.ndim > 1 or (index.ndim == 1 and len(index) != count):
            raise DataError(f"cluster has shape {tuple(index.shape)} for {count} images: {_HOW}")
        index = index.to(self.device, torch.int64).expand(count)
        last = len(self.dictionaries) - 1
        missing = index[(index < 0) | (index > last)]
        if len(missing):
            raise DataError(f"there is no cluster {int(missing[0])} in this bundle: give an index from 0 to {last}")
        return index


def latents_at(side: int, latents: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a network's ``latents`` gives (N, d) for images (N, 3, H, W) of any size, resized to ``side`` first.

    >>> latents_at(8, lambda images: images.flatten(1), torch.rand(2, 3, 9, 20)).shape
    torch.Size([2, 192])
    """
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    if images.is_cuda:
        return latents(images)
    return torch.cat([latents(part) for part in images.split(max(1, CPU_PIXELS // side**2))])


def weighted(make: Callable[[], Net], weights: Mapping[str, Tensor]) -> Net:
    """The network that ``make()`` gives, with these ``weights`` by their names, copied, floating point as float32.

    It takes no more memory than they do: how large it is say settings, which whoever wrote the bundle chose. Raises
    RuntimeError for weights of another network.

    >>> weighted(lambda: nn.Linear(2, 1), {"weight": torch.ones(1, 2).half(), "bias": torch.zeros(1)}).weight.dtype
    torch.float32
    """
    with torch.device("meta"):
        network = make()
    single = {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in weights.items()}
    network.load_state_dict(single, assign=True)
    return network


def _usable(device: str | torch.device) -> torch.device:
    """The device as tensors name it, with its number."""
    try:
        return torch.empty(0, device=device).device
    # What torch raises differs with what is wrong: a name, a build without CUDA, a number too large.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"device {str(device)!r} cannot be used here: {one_line(error)}; give cpu, or cuda where torch finds a GPU"
        ) from error


def _of_unit_norm(atoms: Tensor) -> Tensor:
    """Dictionaries (K, M, 3, h, w) scaled to atoms of L2 norm 1. Raises ValueError for what no atoms can be: nothing,
    zeros, numbers that are not finite."""
    if not atoms.numel():
        raise ValueError(f"dictionaries of shape {tuple(atoms.shape)} hold no atoms")
    scaled = atoms / torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
    if not torch.isfinite(scaled).all():
        raise ValueError("dictionaries hold atoms that are zero or not finite")
    return scaled
