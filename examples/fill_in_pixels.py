"""Fill in pixels that are missing: code a grey image where it is known, and read off the rest.

    python examples/fill_in_pixels.py [IMAGE [SHARE]]

SHARE of the pixels, 0.3 unless told, is forgotten at random.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import raypurify
from raypurify.csc import solve_cbpdn, tikhonov_split

EXAMPLES = Path(__file__).resolve().parent

file = sys.argv[1] if len(sys.argv) > 1 else EXAMPLES / "cifar10/clean/0004-frog.png"
share = float(sys.argv[2]) if len(sys.argv) > 2 else 0.3
image = torch.from_numpy(np.asarray(Image.open(file).convert("L")).copy())[None, None] / 255  # (1, 1, H, W)
known = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) >= share

# The low part where pixels are missing: a smooth mean of those that are known.
seen = torch.where(known, image, 0.0)
low = tikhonov_split(seen)[0] / tikhonov_split(known.float())[0]
high = torch.where(known, image - low, 0.0)

# Colour atoms make grey ones; a dictionary learned from grey images, by learn_dictionary, would do better.
atoms = raypurify.load("cifar10").dictionaries[0].mean(1, keepdim=True)  # (M, 1, h, w)
norms = torch.linalg.vector_norm(atoms, dim=(1, 2, 3), keepdim=True)
code = solve_cbpdn((atoms / norms)[norms.flatten() > 0.1], high, lmbda=0.01, mask=known, pad=8)
filled = torch.where(known, image, (low + code.reconstruction).clamp(0, 1))


def psnr(guess: torch.Tensor) -> float:
    """Of the missing pixels, in dB."""
    return -10 * (guess - image)[~known].square().mean().log10().item()


print(f"image       {tuple(image.shape)}, {int((~known).sum())} pixels missing")
print(f"objective   {code.objective.item():.4f}, at most {code.gap.item():.4f} above the optimum")
print(f"low part    {psnr(low):.1f} dB")
print(f"with atoms  {psnr(filled):.1f} dB")
