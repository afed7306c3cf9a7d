"""One dictionary for all images, beside the thirty of the bundle cifar10: what clusters are compared with.

    python benchmarks/one_dictionary.py --data DIR [--images 7680] [--out benchmarks/one_dictionary.safetensors]

DIR holds ``cifar10/train-*.parquet``. It is learned with the settings of the bundle from as many images as all thirty
together, drawn by seed from what the fit trained on. Grids name it as ``dictionary`` of ``rsfp_global``.
"""

import argparse
from pathlib import Path

import torch
from dictionary_bundles import learn, training_images
from safetensors.torch import save_file

import raypurify

ATOMS = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=7680)
    parser.add_argument("--out", type=Path, default=ATOMS)
    arguments = parser.parse_args()
    purifier = raypurify.load("cifar10")
    images = training_images(arguments.data, purifier, arguments.images)
    atoms = learn(purifier, images, purifier.settings.dictionaries)
    # Half precision, as a bundle keeps its atoms.
    save_file({"atoms": atoms.to(torch.float16).contiguous()}, arguments.out)


if __name__ == "__main__":
    main()
