"""Gray-box accuracy: a pretrained CIFAR-10 ResNet-56 on attacked images, before and after purification.

    python benchmarks/graybox.py --data DIR [--images 500] [--bundle cifar10] [--out benchmarks/results/graybox.json]

DIR holds ``cifar10/test.parquet`` and ``cifar10-resnet/resnet56-*.th``. The attacker knows the classifier and not the
purifier; perturbations are measured by dissimilarity ‖x′−x‖₂/‖x‖₂, and attacked images are rounded to 8 bits, as a file
would be. Every purifier sees the same images. ``--table`` prints the table of a results file as Markdown.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

import raypurify
from raypurify.attacks import BIM, FGSM
from raypurify.images import decode_image, to_float
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.training.record import device_name

RESULTS = Path(__file__).parent / "results" / "graybox.json"
ATTACKS = {
    "FGSM 0.08": FGSM(eps=0.08, norm="dissimilarity"),
    "FGSM 0.04": FGSM(eps=0.04, norm="dissimilarity"),
    "BIM 0.04": BIM(eps=0.04, norm="dissimilarity", steps=100),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=100, help="images at a time; on a GPU 1000 is quicker")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text())))
        return
    if arguments.data is None:
        parser.error("give --data")
    results = measure(arguments.data, arguments.images, arguments.bundle, arguments.device, arguments.batch)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def measure(data: Path, count: int, bundle: str, device: str = "cpu", batch: int = 100) -> dict:
    images, labels = load_images(data / "cifar10" / "test.parquet", count)
    classifier = load_cifar_resnet(next((data / "cifar10-resnet").glob("resnet56-*.th"))).to(device)
    purifier = raypurify.load(bundle, device)
    rows, seconds = {}, 0.0
    for name, attack in {"clean": None, **ATTACKS}.items():
        hits = {"none": 0, "raypurify": 0}
        for start in range(0, len(images), batch):
            x, y = (part[start : start + batch].to(device) for part in (images, labels))
            if attack is not None:
                x = (attack(classifier, x, y) * 255).round() / 255
            begun = time.perf_counter()
            purified = (purifier.purify(x).images * 255).round() / 255
            seconds += time.perf_counter() - begun
            for defence, shown in (("none", x), ("raypurify", purified)):
                with torch.no_grad():
                    hits[defence] += int((classifier(shown).argmax(1) == y).sum())
        rows[name] = {defence: {"accuracy": h / count, "interval": wilson(h, count)} for defence, h in hits.items()}
        print(name, rows[name], flush=True)
    return {
        "command": f"python benchmarks/graybox.py --data DIR --images {count} --bundle {bundle} --device {device} "
        f"--batch {batch}",
        "classifier": "ResNet-56",
        "set": "CIFAR-10 test, the first images",
        "images": count,
        "bundle": purifier.digest,
        "purify_seconds_per_image": round(seconds / (count * len(rows)), 5),
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def load_images(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = pq.read_table(path, columns=["image", "label"])[:count]
    images = np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()])
    return torch.from_numpy(images), torch.from_numpy(rows["label"].to_numpy().copy())


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    p, width = hits / count, z * math.sqrt(hits * (count - hits) / count**3 + z * z / (4 * count * count))
    middle, scale = p + z * z / (2 * count), 1 + z * z / count
    return round((middle - width) / scale, 4), round((middle + width) / scale, 4)


def table(results: dict) -> str:
    """The results as a Markdown table."""
    names = list(results["rows"])
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for defence, shown in (("none", "no defence"), ("raypurify", "raypurify")):
        cells = []
        for name in names:
            cell = results["rows"][name][defence]
            low, high = cell["interval"]
            cells.append(f"{100 * cell['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f})")
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
