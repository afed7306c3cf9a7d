"""The filters that STL's authors published, in the form of raypurify's dictionaries: for ``grids/stl-authors.yaml``.

    python benchmarks/authors_filters.py --basis BASIS --out FILE

BASIS is the folder ``basis`` of their repository, GitBoSun/AdvDefense_CSC. Their 64 filters for all images of CIFAR-10
were learned at λ 0.2; those of each cluster are not published. Their code reads images by OpenCV, so that colours go
from blue to red.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FILTERS = Path("basis_cifar", "64_p8_lm0.2.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basis", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    filters = np.load(arguments.basis / FILTERS, allow_pickle=False)
    atoms = torch.from_numpy(filters.transpose(3, 2, 0, 1)).flip(1).float()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({"atoms": atoms.contiguous()}, arguments.out)


if __name__ == "__main__":
    main()
