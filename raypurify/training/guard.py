"""Catastrophic overfitting: robustness to many steps is lost within an epoch while a single step seems withstood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from raypurify.config import DecoderSettings, DenoisingSettings, TrainingSettings

FALL, SHARE = 0.1, 0.5


def collapsed(accuracy: float, clean: float, best: float, best_clean: float) -> bool:
    """Whether accuracy under a multi-step attack has collapsed since its best epoch.

    It has when it fell by 0.1 or more, to less than half of the best, and did not merely go down with clean accuracy:
    the part of the clean accuracy that holds under attack must have halved too. A bad epoch at a high learning rate
    takes both down; catastrophic overfitting (Wong et al. 2020, section 5.1) takes robustness alone.

    >>> collapsed(0.05, 0.80, best=0.40, best_clean=0.75), collapsed(0.15, 0.30, best=0.40, best_clean=0.75)
    (True, False)
    """
    fell = best - accuracy >= FALL and accuracy < SHARE * best
    return fell and accuracy * best_clean < SHARE * best * clean


@dataclass
class Guard:
    """Watches the epochs of a training and holds the weights of the best one, by accuracy under attack where that is
    measured, and else ``by`` another figure; with ``stops``, it calls for an end when that collapses."""

    best: dict[str, Any] = field(default_factory=dict)
    stops: bool = True
    by: str = "validation_accuracy"

    def watch(
        self,
        epoch: int,
        figures: dict[str, float],
        weights: dict[str, Tensor],
        supervision: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> str | None:
        """Take in an epoch's validation figures, its weights, and the centres and branches that learned beside them; a
        sentence when robustness has collapsed, otherwise None."""
        clean = figures[self.by]
        accuracy, best = figures.get("validation_pgd_accuracy", clean), self.best
        if best and self.stops and collapsed(accuracy, clean, best["accuracy"], best["clean"]):
            return (
                f"catastrophic overfitting: accuracy under attack fell to {accuracy:.3f} in epoch {epoch} from "
                f"{best['accuracy']:.3f} in epoch {best['epoch']}; training stopped, the network of epoch "
                f"{best['epoch']} is kept"
            )
        if not best or accuracy > best["accuracy"]:
            held = {"weights": _copied(weights), "supervision": _copied(supervision)}
            self.best = {"epoch": epoch, "accuracy": accuracy, "clean": clean, **held}
        return None


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def guard_of(settings: TrainingSettings) -> Guard | None:
    """What the settings ask for: a guard that stops a robust training, one that only holds the best epoch, or none.

    >>> guard_of(TrainingSettings()) is None, guard_of(TrainingSettings(keep="best")).stops
    (True, False)
    """
    # On clean images there is no robustness that could be lost.
    stops = getattr(settings, "guard", False) and getattr(settings, "images", "attacked") != "clean"
    alone = isinstance(settings, DecoderSettings) and not settings.supervised
    by = "validation_psnr" if alone or isinstance(settings, DenoisingSettings) else "validation_accuracy"
    return Guard(stops=stops, by=by) if stops or settings.keep == "best" else None
