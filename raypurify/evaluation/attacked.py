"""The attacked images of a grid: made once, kept in a file of their own, and shared by all cells that look at them."""

import hashlib
import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raypurify.attacks.budget import as_file
from raypurify.evaluation.contract import check_attacked
from raypurify.evaluation.grid import CellName
from raypurify.evaluation.own import is_own
from raypurify.evaluation.plan import GridPlan
from raypurify.evaluation.subjects import Subjects
from raypurify.evaluation.threat_model import Draws, perturb
from raypurify.storage import Place


def attacked_images(
    plan: GridPlan, subjects: Subjects, name: CellName, batch: int, clean: Tensor, labels: Tensor
) -> Tensor:
    """The attacked images (n, 3, H, W) in [0, 1] of a cell on one batch, from their file or, where there is none, made
    of ``clean`` and written to it."""
    attack = subjects.attack(name.attack)
    if attack is None:
        return clean
    file = plan.adversarial(name, batch)
    if (stored := read_attacked(file)) is not None:
        return stored.to(subjects.device)
    spec, known = plan.grid.attacks[name.attack], plan.grid.known(name)
    victim, defence = subjects.classifier(plan.grid.victim(name.classifier, spec)), subjects.purifier(known)
    draws = Draws(*spec.expectation, skip=plan.grid.in_use(name))
    # The seed is of the key: the same images come out of whichever actor does this.
    generator = torch.Generator().manual_seed(int(file.name[:15], 16))
    rounded = plan.grid.eight_bit
    attacked = perturb(attack, spec.knows, victim, defence, clean, labels, generator, draws, spec.backward, rounded)
    if is_own(spec.attack):
        attacked = check_attacked(name.attack, attack, attacked, clean)
    if rounded:
        attacked = as_file(attacked, clean, attack.eps, attack.norm)
    stored = (attacked * 255).round().to(torch.uint8) if plan.grid.eight_bit else attacked
    images = stored.cpu().contiguous()
    file.write(save({"images": images}, {"sha256": _digest(images)}))
    return attacked


def read_attacked(file: Place) -> Tensor | None:
    """The attacked images (n, 3, H, W) in [0, 1] of a file that the plan names, None where there is none, or it is
    damaged."""
    if file.kind != "file":
        return None
    data = file.read()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load(data)
        whole = header["__metadata__"]["sha256"] == _digest(tensors["images"])
    except (SafetensorError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        return None
    stored = tensors["images"]
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()
