"""``metrics.jsonl``: a line per epoch."""

import json
from pathlib import Path
from typing import Any

import torch

from raypurify.files import replacing

METRICS = "metrics.jsonl"


def add_line(folder: Path, epoch: int, metrics: dict[str, Any]) -> None:
    """Append an epoch's metrics, numbers rounded to five decimals."""
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in metrics.items()}
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, **rounded}) + "\n")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """A line per epoch, ascending; one done twice after a kill counts once, by its last line."""
    path, lines = folder / METRICS, []
    for text in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            # A line cut short by a kill: its epoch is done again.
            continue
    return [by for _, by in sorted({line["epoch"]: line for line in lines}.items())]


def keep_lines(folder: Path, epochs: int) -> None:
    """Drop the lines of epochs from ``epochs`` on, which a resumed run does again."""
    kept = [json.dumps(line) + "\n" for line in read_lines(folder) if line["epoch"] < epochs]
    with replacing(folder / METRICS) as temporary:
        temporary.write_text("".join(kept), "utf-8")


def device_name(device: torch.device) -> str:
    """What a device is called, as far as figures may depend on it.

    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
