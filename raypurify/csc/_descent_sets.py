"""Working sets of descent on a GPU, cell by cell: from codes to them, through a batch that shrinks, and back."""

from typing import NamedTuple

import torch

from raypurify.csc._descent_cells import Grid

# Coefficients that a cell has room for at first; it doubles where that is too little.
ROOM = 32


class Codes(NamedTuple):
    """Working sets of n images, each cell with the same room.

    Attributes:
        keys: (n, cells, room) int32, ``(m · H + y) · W + x``.
        values: (n, cells, room) float32.
        counts: (n, cells) int32, how many of them a cell has.
    """

    keys: torch.Tensor
    values: torch.Tensor
    counts: torch.Tensor


class Batch(NamedTuple):
    """Images that are still worked on.

    Attributes:
        rows: (n,) int64, which of the whole batch each is.
        which: (n,) int64, its dictionary.
        level: (n,) float32, its λ.
        codes: its working set.
    """

    rows: torch.Tensor
    which: torch.Tensor
    level: torch.Tensor
    codes: Codes

    def part(self, some: torch.Tensor) -> "Batch":
        """Those that ``some`` (k,) counts."""
        codes = Codes(*(each[some] for each in self.codes))
        return Batch(self.rows[some], self.which[some], self.level[some], codes)


class Finished(NamedTuple):
    """Images that left the batch together: their rows, and what :class:`Found` holds of them.

    Attributes:
        rows: (n,) int64, which of the whole batch each is.
        codes: their working sets.
        rest: (n, C, H, W), ``s − Dx``.
        rounds: of all of them.
        violation: (n,).
        top: (n,).
    """

    rows: torch.Tensor
    codes: Codes
    rest: torch.Tensor
    rounds: int
    violation: torch.Tensor
    top: torch.Tensor


class Found(NamedTuple):
    """Sparse codes of n images, and how good each is.

    Attributes:
        place: (4, k) int64, image, atom, row and column of the coefficients that are not zero, in ascending order.
        value: (k,) float32.
        rest: (n, C, H, W), ``s − Dx``.
        rounds: (n,) int64.
        violation: (n,), as :class:`raypurify.csc.cd.ImageCode` has it.
        top: (n,), alike.
    """

    place: torch.Tensor
    value: torch.Tensor
    rest: torch.Tensor
    rounds: torch.Tensor
    violation: torch.Tensor
    top: torch.Tensor


def first_codes(
    signal: torch.Tensor, atoms: int, grid: Grid, initial: torch.Tensor | None, ratio: torch.Tensor | None
) -> Codes:
    """The working sets of codes ``initial`` (N, M, H, W) of ``signal`` (N, C, H, W), dense or sparse; None: of zeros.

    Where atoms have weights, ``ratio`` (N, M) says what they are multiplied by, and codes hence divided.
    """
    count, _, height, width = signal.shape
    counts = torch.zeros(count, grid.cells, dtype=torch.int32, device=signal.device)
    keys = torch.zeros(count, grid.cells, ROOM, dtype=torch.int32, device=signal.device)
    if initial is None:
        return Codes(keys, torch.zeros_like(keys, dtype=torch.float32), counts)
    initial = (initial if initial.is_sparse else initial.to_sparse()).coalesce()
    given = initial.values() != 0
    (n, m, y, x), value = initial.indices()[:, given], initial.values()[given]
    if ratio is not None:
        value = value / ratio[n, m]
    cell = y * grid.down.parts // height * grid.across.parts + x * grid.across.parts // width
    home = n * grid.cells + cell
    order = torch.argsort(home, stable=True)
    counts = torch.bincount(home, minlength=count * grid.cells)
    room = max(ROOM, 1 << (int(counts.max()) - 1).bit_length()) if len(value) else ROOM
    slot = torch.arange(len(order), device=signal.device) - (counts.cumsum(0) - counts)[home[order]]
    to = home[order] * room + slot
    keys = torch.zeros(count * grid.cells * room, dtype=torch.int32, device=signal.device)
    values = torch.zeros_like(keys, dtype=torch.float32)
    keys[to], values[to] = ((m * height + y) * width + x)[order].to(torch.int32), value[order]
    shape = (count, grid.cells)
    return Codes(keys.reshape(*shape, room), values.reshape(*shape, room), counts.reshape(shape).to(torch.int32))


def gather(done: list[Finished], atoms: int, size: torch.Size, ratio: torch.Tensor | None) -> Found:
    """All images in their order, of H×W in ``size``, with codes multiplied by ``ratio`` (N, M) where there is one."""
    height, width = size
    places, values = [], []
    for one in done:
        keys, numbers, counts = one.codes
        used = torch.arange(keys.shape[2], device=keys.device) < counts[:, :, None]
        n, cell, slot = (used & (numbers != 0)).nonzero(as_tuple=True)
        key = keys[n, cell, slot].long()
        place = torch.stack([one.rows[n], key // (height * width), key // width % height, key % width])
        places.append(place)
        values.append(numbers[n, cell, slot])
    place, value = torch.cat(places, 1), torch.cat(values)
    if ratio is not None:
        value = value * ratio[place[0], place[1]]
    rows = torch.cat([one.rows for one in done])
    back = torch.argsort(rows)
    rounds = torch.cat([torch.full_like(one.rows, one.rounds) for one in done])[back]
    rest, violation, top = (torch.cat(parts)[back] for parts in zip(*((one.rest, *one[4:]) for one in done)))
    order = torch.argsort(((place[0] * atoms + place[1]) * height + place[2]) * width + place[3])
    return Found(place[:, order], value[order], rest, rounds, violation, top)
