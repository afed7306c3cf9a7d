"""Adam for a batch of which images leave."""

import torch

from raypurify.attacks.adam import Adam


def test_each_image_goes_as_by_torchs_own_whoever_leaves():
    generator = torch.Generator().manual_seed(0)
    target, w = torch.randn(4, 3, generator=generator), torch.zeros(4, 3)
    theirs = torch.zeros(4, 3, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    adam, left = Adam(w), torch.arange(4)
    for step in range(12):
        optimizer.zero_grad()
        (theirs - target).square().sum().backward()
        optimizer.step()
        w = w - 0.1 * adam.way(2 * (w - target[left]))
        torch.testing.assert_close(w, theirs.detach()[left])
        if step in (3, 7):
            stays = torch.arange(len(left)) != 1
            left, w = left[stays], w[stays]
            adam.keep(stays)
    assert len(left) == 2
