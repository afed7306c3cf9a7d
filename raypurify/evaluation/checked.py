"""The checks of the attacks of a grid, on its classifiers alone and behind its purifiers."""

import torch
from torch import Tensor

from raypurify.attacks.budget import eight_bit
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.plan import CheckName
from raypurify.evaluation.sanity import Check, Subject, check_attacks
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.evaluation.threat_model import differentiated, sight


def compute_checks(subjects: Subjects, name: CheckName, batch: GridBatch) -> list[Check]:
    """The checks of that name on the images of ``batch``.

    Behind a purifier, what the attacker differentiates is attacked and what the defence answers is judged, which may be
    two things; the attack to transfer from is that on the classifier alone. Attacks on the choice of a cluster are
    judged by the choice.
    """
    network, device = subjects.classifier(name.classifier), subjects.device
    images = torch.from_numpy(batch.pixels).to(device).float() / 255
    labels = torch.from_numpy(batch.labels).to(device)
    if not name.purifier:
        other = next((c for c in subjects.grid.classifiers if c != name.classifier), None)
        return check_attacks(Subject(network), images, labels, subjects.classifier(other) if other else None)
    defence = subjects.purifier(name.purifier)
    model, labels, loss = sight(name.knows, network, defence, images, labels)
    if differentiated(name.knows, defence) == "choice":
        return check_attacks(Subject(model, loss=loss), images, labels)

    def answer(x: Tensor) -> Tensor:
        purified = defence.purify(x).images
        return predict(network, eight_bit(purified) if subjects.grid.eight_bit else purified)

    return check_attacks(Subject(model, answer, loss), images, labels, network)
