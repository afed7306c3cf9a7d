"""``metrics.jsonl``: a line per epoch."""

import json
from typing import Any

import torch

from raypurify.errors import TrainingError
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
    for text in file.read().splitlines() if file.kind == "file" else []:
        try:
            line = json.loads(text)
        except ValueError:
            # A line cut short by a kill: its epoch is done again.
            continue
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            lines.append(line)
    return [by for _, by in sorted({line["epoch"]: line for line in lines}.items())]


def ended_lines(folder: Where) -> list[dict[str, Any]]:
    """The lines of a training that has ended. Raises TrainingError where there is none."""
    if not (lines := read_lines(folder)):
        raise TrainingError(
            f"{resolve(folder) / METRICS} is missing or damaged: it has no line of an epoch, though the training has "
            f"ended; delete the folder {folder} to train again"
        )
    return lines


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
