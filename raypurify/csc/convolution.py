"""Circular convolution of coefficient maps with colour atoms, in the Fourier domain.

Spectra of a dictionary have the shape (N, 3, M, H, W//2 + 1), or (1, ...) where all images share one dictionary. The
origin of an atom is its top-left corner, as in sporco: ``(d * x)[p] = Σ_q d[q] x[p − q mod (H, W)]``.
"""

import torch


def atom_spectra(atoms: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Zero-padded real FFT of atoms (N, M, 3, h, w)."""
    return torch.fft.rfft2(atoms.transpose(1, 2), s=(height, width))


def synthesize(spectra: torch.Tensor, maps_hat: torch.Tensor) -> torch.Tensor:
    """``D x``: spectra of maps (N, M, ...) to spectra of images (N, 3, ...)."""
    # A loop over the three channels reads memory in order; einsum would permute both operands first (3 to 4x slower).
    return torch.stack([(spectra[:, c] * maps_hat).sum(1) for c in range(spectra.shape[1])], dim=1)


def analyze(spectra_conj: torch.Tensor, images_hat: torch.Tensor) -> torch.Tensor:
    """``Dᴴ r``: spectra of images (N, 3, ...) to spectra of maps (N, M, ...)."""
    out = spectra_conj[:, 0] * images_hat[:, 0, None]
    for c in range(1, spectra_conj.shape[1]):
        out = out.addcmul(spectra_conj[:, c], images_hat[:, c, None])
    return out


def reconstruct(atoms: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """``Σ_m d_m * x_m`` for atoms (N or 1, M, 3, h, w) and codes (N, M, H, W): images (N, 3, H, W)."""
    height, width = codes.shape[-2:]
    images_hat = synthesize(atom_spectra(atoms, height, width), torch.fft.rfft2(codes))
    return torch.fft.irfft2(images_hat, s=(height, width))
