"""Sparse coding of one image of 256² against the solvers of sporco, on sporco's own picture and dictionaries.

Every side is asked for the same objective: at most 0.1 % above the optimum, which our descent finds first (``gap`` says
how exactly). A side of sporco is run once to count the iterations that it needs, then timed for as many, with its
statistics switched off where it can do without (FastSolve); ours gets the largest ``rel_tol`` of a short list that
suffices. sporco's ADMM has its own defaults (AutoRho), its PGM the fastest of its rules for the step on these problems,
BacktrackRobust.

dicodile is timed where it is installed (``pip install dicodile mpich``, ``mpiexec`` on the path), without the start of
its processes, in double precision, which it works in. It does not wrap at the borders: for it the outer pixels of the
image are zero, so that both problems have one optimum. It stops at a largest step, so each side says where it ended.
"""

import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from csc_signals import CORES
from PIL import Image
from timing import in_turn, ratio

from raypurify.csc import solve_cbpdn, tikhonov_split

LMBDA, ABOVE, SIZE = 0.05, 1e-3, 256
TOLERANCES = (2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4)
MOST = 400
DICODILE_TOL = 5e-4


def grey_64(*given) -> Iterator[dict]:
    yield against("grey, 64 atoms", "G:8x8x64", *given)
    if find_spec("dicodile"):
        yield against_dicodile("grey, 64 atoms", "G:8x8x64")


def grey_128(*given) -> Iterator[dict]:
    yield against("grey, 128 atoms", "G:8x8x128", *given)


def colour_64(*given) -> Iterator[dict]:
    yield against("colour, 64 atoms", "RGB:8x8x3x64", *given)


def against(case: str, name: str, _data: Path, _pool: object, repeat: int) -> dict:
    import sporco.fft
    from sporco.util import convdicts

    sporco.fft.pyfftw_threads = CORES
    theirs = convdicts()[name].astype(np.float32)
    colour = theirs.ndim == 4
    atoms = torch.from_numpy(theirs if colour else theirs[:, :, None]).permute(3, 2, 0, 1).contiguous()
    signal = high_part("RGB" if colour else "L")
    best = solve_cbpdn(atoms, signal, LMBDA, rel_tol=2e-5, method="cd")
    goal = float(best.objective) * (1 + ABOVE)
    rel_tol = next(tol for tol in TOLERANCES if float(solve_cbpdn(atoms, signal, LMBDA, tol).objective) <= goal)
    sides: dict[str, Callable[[], object]] = {"raypurify": lambda: solve_cbpdn(atoms, signal, LMBDA, rel_tol)}
    image = np.ascontiguousarray(signal[0].permute(1, 2, 0).numpy().squeeze())
    iterations = {}
    for peer in ("admm", "pgm"):
        iterations[peer] = count(solver(peer, theirs, image, MOST), goal)
        sides[peer] = lambda peer=peer: solver(peer, theirs, image, iterations[peer], FastSolve=True).solve()
    often = in_turn({"raypurify": sides.pop("raypurify")}, 5 * repeat)
    times = often | in_turn(sides, repeat, warm=False)
    return {
        "case": f"256², {case}, λ = {LMBDA}",
        "times_as_fast_as_sporco": {peer: ratio(times, peer, "raypurify") for peer in iterations},
        "iterations": iterations,
        "unsolved": [peer for peer, taken in iterations.items() if taken == MOST],
        "rel_tol": rel_tol,
        "objective_above_optimum_at_most": ABOVE,
        "gap_of_the_optimum": round(float(best.gap / best.objective), 6),
        "active": round(float((best.codes != 0).float().mean()), 5),
        "repeat": repeat,
    }


def against_dicodile(case: str, name: str) -> dict:
    from dicodile.update_z.dicod import dicod
    from sporco.util import convdicts

    atoms = torch.from_numpy(convdicts()[name].astype(np.float32)).permute(2, 0, 1)[:, None].contiguous()
    size, signal = atoms.shape[-1], torch.zeros(1, 1, SIZE, SIZE)
    signal[..., size:-size, size:-size] = high_part("L")[..., size:-size, size:-size]
    best = solve_cbpdn(atoms, signal, LMBDA, rel_tol=2e-5, method="cd")
    rel_tol = TOLERANCES[1]
    (seconds,) = in_turn({"raypurify": lambda: solve_cbpdn(atoms, signal, LMBDA, rel_tol)}, 5).values()
    image, filters = signal[0].double().numpy(), atoms.double().numpy()
    settings = {"strategy": "greedy", "max_iter": 10**8, "verbose": 0}
    found, *_, record = dicod(image, filters, LMBDA, n_workers=CORES, tol=DICODILE_TOL, **settings)
    codes = torch.zeros(best.codes.shape, dtype=torch.float64)
    codes[0, :, : found.shape[1], : found.shape[2]] = torch.from_numpy(np.asarray(found))
    reached = solve_cbpdn(atoms.double(), signal.double(), LMBDA, method="cd", initial=codes, max_iter=0).objective
    ours = solve_cbpdn(atoms, signal, LMBDA, rel_tol).objective
    above = {"raypurify": ours, "dicodile": reached}
    return {
        "case": f"256², {case}, borders of zeros, λ = {LMBDA}",
        "times_as_fast_as_dicodile": round(float(record["t_run"]) / statistics.median(seconds), 2),
        "objective_above_optimum": {side: round(float(each / best.objective) - 1, 5) for side, each in above.items()},
        "tol": DICODILE_TOL,
        "repeat": 1,
    }


def high_part(mode: str) -> torch.Tensor:
    """High part (1, C, 256, 256) of the middle of a photo that comes with sporco."""
    import sporco

    picture = Image.open(Path(sporco.__path__[0]) / "data" / "monarch.png").convert(mode)
    left, top = ((side - SIZE) // 2 for side in picture.size)
    pixels = np.atleast_3d(np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))).transpose(2, 0, 1)
    return tikhonov_split(torch.from_numpy(pixels.astype(np.float32))[None] / 255)[1]


def solver(peer: str, atoms: np.ndarray, image: np.ndarray, most: int, **options):
    from sporco.admm.cbpdn import ConvBPDN as Admm
    from sporco.pgm.backtrack import BacktrackRobust
    from sporco.pgm.cbpdn import ConvBPDN as Pgm

    options |= {"MaxMainIter": most, "RelStopTol": 0.0}
    if peer == "admm":
        chosen = Admm.Options(options | {"AuxVarObj": True, "HighMemSolve": True})
        return Admm(atoms, image, LMBDA, chosen, dimK=0)
    return Pgm(atoms, image, LMBDA, Pgm.Options(options | {"L": 50.0, "Backtrack": BacktrackRobust()}), dimK=0)


def count(run, goal: float) -> int:
    """Iterations until the objective of ``run`` is at most ``goal``."""
    run.opt["Callback"] = lambda state: state.itstat[-1].ObjFun <= goal
    run.solve()
    return run.itstat[-1].Iter + 1


def table(records: list[dict]) -> str:
    """These cases as Markdown."""
    rows = ["| case | against | times as fast |", "|---|---|---|"]
    for record in records:
        for peer, speedup in record.get("times_as_fast_as_sporco", {}).items():
            taken = record["iterations"][peer]
            rows.append(f"| {record['case']} | sporco's {peer.upper()}, {taken} iterations | {speedup:.0f} |")
        if "times_as_fast_as_dicodile" in record:
            rows.append(f"| {record['case']} | dicodile | {record['times_as_fast_as_dicodile']:.0f} |")
    return "\n".join(rows)


PARTS = {"grey-64": grey_64, "grey-128": grey_128, "colour-64": colour_64}
