"""The Tikhonov low-pass split of an image."""

import torch

from raypurify.csc.padding import pad_mirrored
from raypurify.errors import DataError


def tikhonov_split(images: torch.Tensor, lmbda: float = 5.0, pad: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Split images into a smooth part and the remainder, ``low + high = images``.

    The low part is ``argmin_x ½‖x − s‖² + (λ/2) Σ_i ‖G_i x‖²`` with the forward differences ``G_i`` along rows and
    columns (RSFP, §III-E and its reference [47]), solved exactly by one division in the Fourier domain after symmetric
    padding. Equal to ``sporco.signal.tikhonov_filter(s, lmbda, npd=pad)``. Differentiable; any device.

    Args:
        images: (N, C, H, W), float32 or float64, any H and W ≥ 1 (smaller than ``pad`` too).
        lmbda: smoothing weight λ ≥ 0; larger moves more of the image to the high part.
        pad: samples of symmetric padding on each side, ≥ 0.

    Returns:
        ``(low, high)``, each of the shape, dtype and device of ``images``.

    Raises:
        DataError: not a float batch of four dimensions, not finite, or a negative ``lmbda`` or ``pad``.

    >>> low, high = tikhonov_split(torch.full((1, 3, 8, 8), 0.5))
    >>> bool(torch.allclose(low, torch.tensor(0.5)) and high.abs().max() < 1e-6)
    True
    """
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64) or 0 in images.shape[1:]:
        raise DataError(
            f"images: expected (N, C, H, W) in float32 or float64, got {tuple(images.shape)} in {images.dtype}; "
            "convert with .float() and add the batch axis"
        )
    if not (lmbda >= 0 and pad >= 0):
        raise DataError(f"lmbda={lmbda}, pad={pad}: both must be ≥ 0")
    if not torch.isfinite(images).all():
        raise DataError("images: holds NaN or infinite values; remove those images first")
    if not len(images):
        return images, images.clone()  # an FFT of nothing is an error in MKL
    height, width = images.shape[-2:]
    shape = torch.Size((height + 2 * pad, width + 2 * pad))
    attenuation = _attenuation(shape, lmbda, images)
    # A step at a time under one name, so that of a large image no more than two are in memory.
    smooth = torch.fft.rfft2(pad_mirrored(images, pad)).div_(attenuation)
    smooth = torch.fft.ifft(smooth, dim=-2)
    smooth = torch.fft.irfft(smooth, n=shape[1])[..., pad : pad + height, pad : pad + width].contiguous()
    return smooth, images - smooth


def _attenuation(shape: torch.Size, lmbda: float, like: torch.Tensor) -> torch.Tensor:
    # |1 − e^{iω}|² = 2 − 2 cos ω is the spectrum of a forward difference; float64 keeps λ large exact.
    height, width = shape
    rows = 2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(height, dtype=torch.float64))
    cols = 2 - 2 * torch.cos(2 * torch.pi * torch.fft.rfftfreq(width, dtype=torch.float64))
    return (1 + lmbda * (rows[:, None] + cols[None, :])).to(dtype=like.dtype, device=like.device)
