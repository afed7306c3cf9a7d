"""Attacks on a classifier, for robust training and for evaluation alike.

An attack is a frozen dataclass of settings, called as ``attack(model, images, labels)``; ``attacks.base`` has the
contract, ``attacks.budget`` the norms, ``attacks.adaptive`` the models that an attacker of a purifier makes of it. A
new attack is one file with such a class and one entry in ``ATTACKS``.
"""

from raypurify.attacks.autoattack import AutoAttack
from raypurify.attacks.base import Attack, Loss, Model
from raypurify.attacks.bim import BIM
from raypurify.attacks.budget import NORMS
from raypurify.attacks.cw import CW
from raypurify.attacks.deepfool import DeepFool
from raypurify.attacks.fgsm import FGSM
from raypurify.attacks.mim import MIM
from raypurify.attacks.pgd import PGD
from raypurify.attacks.square import Square
from raypurify.attacks.tpgd import TPGD
from raypurify.attacks.uap import UAP, Universal

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "mim": MIM,
    "tpgd": TPGD,
    "cw": CW,
    "deepfool": DeepFool,
    "uap": UAP,
    "square": Square,
    "autoattack": AutoAttack,
}
"""Every attack by its name in settings and tables. Each class is made from at least ``eps`` and ``norm``."""

__all__ = [
    "ATTACKS",
    "BIM",
    "CW",
    "FGSM",
    "MIM",
    "NORMS",
    "PGD",
    "TPGD",
    "UAP",
    "Attack",
    "AutoAttack",
    "DeepFool",
    "Loss",
    "Model",
    "Square",
    "Universal",
]
