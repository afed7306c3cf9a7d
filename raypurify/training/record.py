"""``metrics.jsonl``: a line per epoch."""

import json
from typing import Any

import torch

from raypurify.storage import Where, resolve

METRICS = "metrics.jsonl"


def add_line(folder: Where, epoch: int, metrics: dict[str, Any]) -> None:
    """Append an epoch's metrics, numbers rounded to five decimals."""
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in metrics.items()}
    # A store cannot append; the lines are few.
    _write(folder, [*read_lines(folder), {"epoch": epoch, **rounded}])


def read_lines(folder: Where) -> list[dict[str, Any]]:
    """A line per epoch, ascending; one done twice after a kill counts once, by its last line."""
    file = resolve(folder) / METRICS
    lines = []
    for text in file.read().splitlines() if file.kind else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            # A line cut short by a kill: its epoch is done again.
            continue
    return [by for _, by in sorted({line["epoch"]: line for line in lines}.items())]


def keep_lines(folder: Where, epochs: int) -> None:
    """Drop the lines of epochs from ``epochs`` on, which a resumed run does again."""
    _write(folder, [line for line in read_lines(folder) if line["epoch"] < epochs])


def device_name(device: torch.device) -> str:
    """What a device is called, as far as figures may depend on it.

    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _write(folder: Where, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (resolve(folder) / METRICS).write(text.encode())
