"""What purifiers hold at once does not grow with what is set, and taking less at once changes no bit."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raypurify.errors import ConfigError
from raypurify.purifiers import Median, Quilting, quilting, squeezing


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made within, views counting as what they look at."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        made = function(*arguments, **settings or {})
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return made


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_median_of_large_windows_holds_a_piece_of_them(layout, monkeypatch):
    monkeypatch.setattr(squeezing, "PIECE", 1 << 16)
    batch = images(40, 60).to(memory_format=layout)
    with Largest() as held:
        Median(size=31).purify(batch)
    # The batch, with a mirrored border, is the larger one.
    assert held.elements <= max(1 << 16, 2 * 3 * 70 * 90)


@pytest.mark.parametrize("piece", [1, 5_000, 100_000])
@pytest.mark.parametrize("size", [2, 5])
def test_medians_of_pieces_are_those_of_the_whole(size, piece, monkeypatch):
    batch = images(21, 17)
    whole, whole_slope = _with_slope(size, batch)
    monkeypatch.setattr(squeezing, "PIECE", piece)
    parts, slope = _with_slope(size, batch)
    assert torch.equal(parts, whole)
    # Windows share pixels, whose slopes are added in another order.
    torch.testing.assert_close(slope, whole_slope)


def _with_slope(size, batch):
    batch = batch.clone().requires_grad_()
    found = Median(size).transform(batch)
    return found.detach(), torch.autograd.grad(found.square().sum(), batch)[0]


def test_a_search_holds_no_more_neighbours_of_an_image_than_a_piece(monkeypatch):
    monkeypatch.setattr(quilting, "PIECE", 1 << 14)
    purifier = Quilting(patch=2, overlap=1, patches=600, neighbours=quilting.MOST_NEIGHBOURS)
    with Largest() as held:
        purifier.purify(images(60, 60))
    # 256 patches are searched at least, each with all of the bank.
    assert held.elements <= 256 * 600
    with pytest.raises(ConfigError, match="neighbours=513"):
        Quilting(neighbours=513)
