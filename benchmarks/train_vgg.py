"""VGG-16 for CIFAR-10, the classifier of RSFP's and STL's tables, trained by the loop of ``raypurify train``.

    python benchmarks/train_vgg.py --data DIR --out RUN [--epochs 30] [--images N] [--batch-size 128] [--lr 0.1]

DIR holds ``cifar10/train-*.parquet``, and ``cifar10/test.parquet``, on which the network is measured at the end. It is
trained on the images that the preset ``cifar10`` trains on; 1,024 of those that it holds out give each epoch's figures.
RUN gets ``network.safetensors`` (for ``{kind: vgg16, path: RUN/network.safetensors}`` of a grid), ``metrics.jsonl``,
``curve.png`` and ``vgg.json`` with the command and the test accuracy. On a GPU where there is one; run again after an
interruption, it goes on from the last checkpoint.

On one GPU:

    CUDA_VISIBLE_DEVICES=0 python benchmarks/train_vgg.py --data DIR --out RUN --epochs 60 --batch-size 256 --lr 0.2

On a CPU with instructions of bfloat16, as ``results/vgg/network.json`` has it; on one without, which takes longer,
``--images 10000 --epochs 15 --checkpoint-steps 20``.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from cifar import split_images
from denoisers import without_paths

from raypurify.config import TrainingSettings
from raypurify.files import write_json
from raypurify.images import decode_image
from raypurify.nets.store import load_network
from raypurify.nets.vgg import VGG16
from raypurify.training.batch import Batch
from raypurify.training.measure import measure
from raypurify.training.record import device_name, read_lines
from raypurify.training.single import NETWORK, train_network_here
from raypurify.training.start import drawn_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, help="train on at most so many")
    parser.add_argument("--test-images", type=int, help="measure on the first so many")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--checkpoint-steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = TrainingSettings(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        checkpoint_steps=arguments.checkpoint_steps,
    )
    images, held_out = split_images(arguments.data, arguments.out, arguments.images)
    network = drawn_network(partial(VGG16, classes=10), arguments.seed)
    about = {"vgg16": network.settings}
    train_network_here(arguments.out, network, images, held_out, settings, arguments.seed, architecture=about)
    tested = test_batches(arguments.data, arguments.test_images)
    found = measure(load_network(arguments.out / NETWORK, VGG16).to(device), tested)
    lines = read_lines(arguments.out)
    facts = {
        "command": shlex.join(["python", "benchmarks/train_vgg.py", *without_paths(sys.argv[1:])]),
        "settings": settings.model_dump(),
        "images": len(images),
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "device": device_name(device),
        "validation_accuracy": lines[-1]["validation_accuracy"],
        "test_accuracy": round(found["accuracy"], 4),
        "test_images": found["images"],
    }
    write_json(arguments.out / "vgg.json", facts)
    print(facts)


def test_batches(data: Path, count: int | None) -> list[Batch]:
    """The test images of CIFAR-10, the first ``count`` where it is given."""
    table = pq.read_table(data / "cifar10" / "test.parquet", columns=["image", "label"])[:count]
    pixels = np.stack([decode_image(one).pixels.transpose(2, 0, 1) for one in table["image"].to_pylist()])
    images, labels = torch.from_numpy(pixels), torch.from_numpy(table["label"].to_numpy().copy())
    return [Batch(*pair) for pair in zip(images.split(250), labels.split(250))]


if __name__ == "__main__":
    main()
