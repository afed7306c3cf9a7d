"""Random problems of sparse coding."""

import torch


def random_dictionary(atoms, size, seed=0, dtype=torch.float32, sets=None):
    generator = torch.Generator().manual_seed(seed)
    shape = (atoms, 3, size, size) if sets is None else (sets, atoms, 3, size, size)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (drawn / torch.linalg.vector_norm(drawn, dim=(-3, -2, -1), keepdim=True)).to(dtype)


def random_signal(count, height, width, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)).to(dtype)
