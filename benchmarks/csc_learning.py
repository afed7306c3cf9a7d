"""How soon a dictionary is as good as the one of sporco's own online learner."""

import numpy as np
import torch
from timing import in_turn, ratio

from raypurify.csc import solve_cbpdn
from raypurify.csc.learning import ENGINES, random_patches


def learning(signals, held_out, rel_tol: float, cores: int, repeat: int) -> dict:
    """Time until each engine reaches the held-out objective at which sporco's learner ends after one pass.

    All start from the same random patches. An engine is run afresh on 16, 32, … images until it gets there; the run
    that did is then timed in turn with the peer's pass. The constants of the engines were chosen on images of this
    file too, the held-out ones among them.
    """
    start = random_patches(signals.numpy(), 64, 8, np.random.default_rng(0))
    sides = {"sporco": lambda: sporco_dictionary(start, signals, rel_tol, cores)}
    target = held_out_objective(sides["sporco"](), held_out)
    images, objective = {}, {"sporco": target}
    for name, learn in ENGINES.items():

        def run(count: int, learn=learn):
            return learn(signals[:count], torch.from_numpy(start), 0.2, 1, np.random.default_rng(0), None)

        counts = range(16, len(signals) + 1, 16)
        images[name] = next((n for n in counts if held_out_objective(run(n), held_out) <= target), None)
        objective[f"engine {name}"] = held_out_objective(run(len(signals)), held_out)
        if images[name]:
            sides[f"engine {name}"] = lambda run=run, count=images[name]: run(count)
    times = in_turn(sides, repeat)
    return {
        "case": f"learn 64 atoms to the objective of sporco's learner after {len(signals)} images of 32²",
        "speedup": {name: ratio(times, "sporco", f"engine {name}") for name in images if images[name]},
        "images_needed": images,
        "held_out_objective_after_all": {name: round(value, 4) for name, value in objective.items()},
        "held_out_images": len(held_out),
        "repeat": repeat,
    }


def sporco_dictionary(start, signals, rel_tol: float, cores: int):
    """One pass of sporco's own online learner."""
    import sporco.fft
    from sporco.dictlrn.onlinecdl import OnlineConvBPDNDictLearn

    sporco.fft.pyfftw_threads = cores
    options = OnlineConvBPDNDictLearn.Options({"CBPDN": {"RelStopTol": rel_tol, "MaxMainIter": 200}})
    learner = OnlineConvBPDNDictLearn(start.transpose(2, 3, 1, 0), 0.2, options, dimK=0)
    for signal in signals.numpy():
        learner.solve(signal.transpose(1, 2, 0), dimK=0)
    return torch.from_numpy(learner.getdict().squeeze(3).transpose(3, 2, 0, 1).astype(np.float32).copy())


def held_out_objective(atoms, held_out) -> float:
    atoms = atoms / torch.linalg.vector_norm(atoms, dim=(1, 2, 3), keepdim=True)
    return float(solve_cbpdn(atoms, held_out, rel_tol=1e-3).objective.mean())
