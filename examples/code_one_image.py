"""Sparse-code one image: split off its low part, code the high part, and put both together again.

    python examples/code_one_image.py [IMAGE [PICTURE]]

PICTURE, where it is given, shows from left to right, small ones enlarged: the image, its low part, its high part around
grey, what the atoms make of the high part, and low + atoms.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import raypurify
from raypurify.csc import solve_cbpdn, tikhonov_split

EXAMPLES = Path(__file__).resolve().parent

file = sys.argv[1] if len(sys.argv) > 1 else EXAMPLES / "cifar10/attacked/0003-airplane.png"
pixels = np.asarray(Image.open(file).convert("RGB"))
image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255  # (1, 3, H, W) in [0, 1]

# Smooth shapes stay in the low part; edges, textures and most of a perturbation are in the high part.
low, high = tikhonov_split(image, lmbda=5.0, pad=16)

# A bundle has a dictionary for each cluster of clean images. Another way to get one is raypurify.csc.learn_dictionary.
atoms = raypurify.load("cifar10").dictionaries[0]  # (M, 3, h, w), each of norm 1
code = solve_cbpdn(atoms, high, lmbda=0.2, rel_tol=5e-3)

active = (code.codes != 0).float().mean()
print(f"image       {tuple(image.shape)}, {len(atoms)} atoms of {atoms.shape[-2]}×{atoms.shape[-1]}")
print(f"objective   {code.objective.item():.4f}, at most {code.gap.item():.4f} above the optimum")
print(f"iterations  {code.iterations.item()}, converged: {code.converged.item()}")
print(f"codes       {active:.2%} of {code.codes.numel():,} coefficients are not zero")
print(f"high part   {high.norm():.3f}, of which atoms explain {code.reconstruction.norm():.3f} (L2 norms)")

if len(sys.argv) > 2:
    parts = [image, low, high + 0.5, code.reconstruction + 0.5, low + code.reconstruction]
    strip = torch.cat(parts, dim=3)[0].clamp(0, 1).mul(255).round().byte()
    scale = max(1, 256 // image.shape[3])  # pixels of a small image are to be seen
    enlarged = strip.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    Image.fromarray(enlarged.permute(1, 2, 0).numpy()).save(sys.argv[2])
    print(f"picture     {sys.argv[2]}")
