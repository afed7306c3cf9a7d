"""Circular convolution of coefficient maps with atoms of C channels, in the Fourier domain.

Spectra of a dictionary have the shape (N, C, M, H, W//2 + 1), or (1, ...) where all images share one dictionary. The
origin of an atom is its top-left corner, as in sporco: ``(d * x)[p] = Σ_q d[q] x[p − q mod (H, W)]``.
"""

import torch


def atom_spectra(atoms: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Spectra (N, C, M, H, W//2 + 1) of atoms (N, M, C, h, w): their real FFT, zero-padded to H×W."""
    return torch.fft.rfft2(atoms.transpose(1, 2), s=(height, width))


def synthesize(spectra: torch.Tensor, maps_hat: torch.Tensor) -> torch.Tensor:
    """Spectra (N, C, H, W//2 + 1) of the images ``D x``, from the spectra (N, M, H, W//2 + 1) of the maps x."""
    # A loop over the channels reads memory in order; einsum would permute both operands first (3 to 4x slower).
    return torch.stack([(spectra[:, c] * maps_hat).sum(1) for c in range(spectra.shape[1])], dim=1)


def analyze(spectra_conj: torch.Tensor, images_hat: torch.Tensor) -> torch.Tensor:
    """Spectra (N, M, H, W//2 + 1) of the maps ``Dᴴ r``, from the spectra (N, C, H, W//2 + 1) of the images r."""
    out = spectra_conj[:, 0] * images_hat[:, 0, None]
    for c in range(1, spectra_conj.shape[1]):
        out = out.addcmul(spectra_conj[:, c], images_hat[:, c, None])
    return out


def reconstruct(atoms: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Images ``Σ_m d_m * x_m`` (N, C, H, W) of codes x (N, M, H, W) and atoms d (N or 1, M, C, h, w)."""
    height, width = codes.shape[-2:]
    images_hat = synthesize(atom_spectra(atoms, height, width), torch.fft.rfft2(codes))
    return torch.fft.irfft2(images_hat, s=(height, width))
