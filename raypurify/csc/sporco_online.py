"""Online dictionary learning by sporco's first-order learner, its coding step replaced by :func:`solve_cbpdn`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from raypurify.csc.cbpdn import solve_cbpdn

# How exactly each image is coded. Ten times finer or twice coarser changed the held-out objective by less than 0.1 %.
_REL_TOL = 1e-2
# The step is a / (j + b) at image j, for 32×32 pixels; the gradient is a sum over pixels, so a falls with their number.
_STEP_A, _STEP_B, _STEP_PIXELS = 20.0, 10.0, 32 * 32


def learn_by_sporco(
    signals: torch.Tensor,
    start: torch.Tensor,
    lmbda: float,
    passes: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    """Learn a dictionary from ``signals`` (N, C, H, W), one at a time in a random order, beginning at ``start``.

    ``start`` and the result are (M, C, h, w) of unit norm, the result on the CPU; ``progress`` is that of
    ``learn_dictionary``. After image j the dictionary takes a projected gradient step of length a / (j + b) (Liu et
    al., First- and Second-order Methods for Online Convolutional Dictionary Learning, 2018, algorithm 1).
    """
    images = signals.cpu().numpy()
    step = _STEP_A * (_STEP_PIXELS / (images.shape[2] * images.shape[3])) ** 0.5
    learner = _learner(start.numpy(), lmbda, step)
    total = passes * len(images)
    for done in range(total):
        if done % len(images) == 0:
            order = rng.permutation(len(images))
        learner.solve(images[order[done % len(images)]].transpose(1, 2, 0), dimK=0)
        if progress is not None:
            progress(done + 1, total)
    learned = learner.getdict().squeeze(axis=3).transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(learned, dtype=np.float32))


def _learner(start: np.ndarray, lmbda: float, step: float) -> Any:
    import sporco.fft
    from sporco.dictlrn.onlinecdl import OnlineConvBPDNDictLearn

    # Clusters are learned side by side in processes; threads inside each would only compete.
    sporco.fft.pyfftw_threads = 1

    class Learner(OnlineConvBPDNDictLearn):
        def xstep(self, S: np.ndarray, lmbda: float, dimK: int) -> None:
            signal = torch.from_numpy(np.ascontiguousarray(S.transpose(2, 0, 1)))[None]
            dictionary = torch.from_numpy(np.ascontiguousarray(self.D.squeeze(axis=3).transpose(3, 2, 0, 1)))
            codes = solve_cbpdn(dictionary, signal, lmbda, rel_tol=_REL_TOL).codes
            self.Sf = sporco.fft.rfftn(S.reshape(self.cri.shpS), None, self.cri.axisN)
            self.setcoef(codes[0].numpy().transpose(1, 2, 0).reshape(self.cri.shpX))
            self.xstep_itstat = None

    options = OnlineConvBPDNDictLearn.Options({"eta_a": step, "eta_b": _STEP_B})
    return Learner(start.transpose(2, 3, 1, 0), lmbda, options, dimK=0)
