"""The checks of the attacks of a grid, on its classifiers alone and behind its purifiers."""

from functools import partial

import torch
from torch import Tensor

from raypurify.attacks.budget import eight_bit
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.judged import Check, Subject
from raypurify.evaluation.plan import CheckName
from raypurify.evaluation.sanity import check_attacks
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.evaluation.threat_model import Draws, differentiated, sight
from raypurify.purifiers import Unchanged
from raypurify.purifiers.draws import draws_of, is_random

JUDGED = 8
"""By how many draws a random purifier is judged."""


def compute_checks(subjects: Subjects, name: CheckName, batch: GridBatch) -> list[Check]:
    """The checks of that name on the images of ``batch``.

    Behind a purifier, what the attacker differentiates is attacked and what the defence answers is judged, which may be
    two things; the attack to transfer from is that on the classifier alone, and so it is for who knows the centres of
    the classifier's training, whose attacks raise the loss of that. Attacks on the choice of a cluster are
    judged by the choice. Of a purifier that draws at random the attacker averages as the first attack of the grid with
    such knowledge does, which also says which gradient of a sparse front end is taken; and judged is what ``JUDGED``
    draws, or ensembles of them, answer: the luck of one draw would be taken for an attack that fails.
    """
    network, device = subjects.classifier(name.classifier), subjects.device
    images = torch.from_numpy(batch.pixels).to(device).float() / 255
    labels = torch.from_numpy(batch.labels).to(device)
    if name.knows == "centres":
        model, labels, loss = sight(name.knows, network, Unchanged(), images, labels)
        return check_attacks(Subject(model, partial(predict, network), loss), images, labels, network)
    if not name.purifier:
        other = subjects.grid.other(name.classifier)
        return check_attacks(Subject(network), images, labels, subjects.classifier(other) if other else None)
    defence, together = subjects.purifier(name.purifier), subjects.ensemble(name.purifier)
    judged = JUDGED if is_random(defence) else 1
    # The attacker knows none of the draws that judge.
    draws = Draws(*subjects.grid.expectation(name.knows), skip=judged * together)
    backward = subjects.grid.backward(name.knows)
    rounded = subjects.grid.eight_bit
    model, labels, loss = sight(name.knows, network, defence, images, labels, draws, backward, rounded)
    if differentiated(name.knows, defence) == "choice":
        return check_attacks(Subject(model, loss=loss), images, labels)

    def answer(x: Tensor) -> Tensor:
        each = [one.purify(x).images for one in draws_of(defence, judged * together)]
        seen = [eight_bit(one) for one in each] if rounded else each
        return torch.stack([predict(network, *seen[k : k + together]) for k in range(0, len(seen), together)])

    return check_attacks(Subject(model, answer, loss), images, labels, network)
