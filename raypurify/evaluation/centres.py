"""Centres in a grid: a classifier with the semantic losses that it was trained with, for attackers who know them."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypurify.attacks import Loss, Model
from raypurify.errors import DataError
from raypurify.nets.places import features_at
from raypurify.storage import Where
from raypurify.training.supervision import load_supervision


class Supervised(nn.Module):
    """A classifier that has the centres and branches beside it that it was trained with (``training.supervision``).

    It gives the logits of its ``network``. Raises TrainingError for a file that does not fit it.
    """

    def __init__(self, network: nn.Module, file: Where):
        super().__init__()
        self.network = network
        self.supervision, self.alpha = load_supervision(file, network)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def joint_loss(classifier: Supervised) -> tuple[Model, Loss]:
    """What the adaptive attacker of Mustafa et al., Table 4, looks at: the model, and the loss of its training.

    L = CE(f(x), y) + Σ (CE + α · semantic loss) over the branches + α · semantic loss of the latents, of each image:
    their eq. 8, and 9 where there are branches. The loss is that of the images which the model was last asked about.
    """
    held = classifier.supervision
    last: dict[str, Tensor] = {}

    def model(images: Tensor) -> Tensor:
        with features_at(classifier.network, held.places) as found:
            logits = classifier.network(images)
        last.update(found)
        return logits

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if any(len(features) != len(labels) for features in last.values()):
            raise DataError("the attack asks the loss of other images than it looked at: take fgsm, bim, mim or pgd")
        values, entropies, _ = held(last, labels)
        each = cross_entropy(logits, labels, reduction="none") + classifier.alpha * values
        return each if entropies is None else each + entropies

    return model, loss
