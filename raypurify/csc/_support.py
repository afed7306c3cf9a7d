"""Least squares on the support of a sparse code, solved directly: quick where few coefficients are active."""

import torch

# Active coefficients whose normal equations are still solved faster than by conjugate gradients, and numbers in as many
# placed atoms of the image's size: 128 MiB.
_MOST, _NUMBERS = 1500, 1 << 24
# Of the pivots of a Cholesky factor in float64. Below this the equations are taken as singular.
_PIVOT = 1e-5


def solve_on_support(
    atoms: torch.Tensor, support: torch.Tensor, gradient: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``D_S(D_SᴴD_S)⁻¹g_S`` for each image (N, C, H, W), and which images (N,) have been solved; the others are zero.

    Unsolved are images with many active coefficients, and those where ``D_SᴴD_S`` is nearly singular. Arguments as in
    ``implicit.differentiate_implicitly``, whose mask W makes the dictionary WD; computed in float64.
    """
    count, _, height, width = gradient.shape
    images = gradient.new_zeros(count, atoms.shape[2], height, width)
    solved = torch.zeros(count, dtype=torch.bool, device=gradient.device)
    rows, columns = (torch.arange(side, device=gradient.device) for side in atoms.shape[-2:])
    for k in range(count):
        where = support[k].nonzero()
        if len(where) > min(_MOST, _NUMBERS // images[0].numel()):
            continue
        kept = atoms[0 if len(atoms) == 1 else k].double()
        active, row, column = where.T
        # Each active atom at its place, around the borders.
        placed = kept.new_zeros(len(where), kept.shape[1], height, width)
        index = torch.arange(len(where), device=kept.device)[:, None, None, None]
        channel = torch.arange(kept.shape[1], device=kept.device)[:, None, None]
        down = (row[:, None, None, None] + rows[:, None]) % height
        right = (column[:, None, None, None] + columns) % width
        placed[index, channel, down, right] = kept[active]
        if mask is not None:
            placed *= mask[k].double()
        matrix = placed.flatten(1)
        factor, failed = torch.linalg.cholesky_ex(matrix @ matrix.T)
        pivots = factor.diagonal()
        if failed or (len(where) and not pivots.min() > _PIVOT * pivots.max()):
            continue
        values = gradient[k][active, row, column].double()
        solution = matrix.T @ torch.cholesky_solve(values[:, None], factor)
        images[k] = solution.reshape(images[k].shape).to(images)
        solved[k] = True
    return images, solved
