"""Attacks on a classifier, for robust training and for evaluation alike.

An attack is a frozen dataclass of settings, called as ``attack(model, images, labels)``. It knows a model only as a
function from images to logits, so what an attacker knows is put into the model, not into the attack: ``adaptive`` and
``joint`` make models of a purifier and its classifier. ``base`` has the contract, ``budget`` the norms and how to stay
within them, ``losses`` what is raised, ``ascent`` the loop of those that follow a gradient, ``success`` when an image
counts as fooled, ``restarts`` what is kept of several attempts, ``passes`` how often an image may be asked about.

To add an attack: one file with such a class, whose first settings are ``eps`` and ``norm``, and one entry in
``ATTACKS``. Grids find it there, and ``tests/attacks/test_attacks.py`` runs the contract over every entry; settings
that make it quick enough for tests, and what it does not promise, are said at the top of that test.
"""

from raypurify.attacks.apgd import APGD
from raypurify.attacks.autoattack import AutoAttack
from raypurify.attacks.base import Attack, Loss, Model
from raypurify.attacks.bim import BIM
from raypurify.attacks.budget import NORMS
from raypurify.attacks.cw import CW
from raypurify.attacks.deepfool import DeepFool
from raypurify.attacks.fgsm import FGSM
from raypurify.attacks.low_frequency import LowFrequency
from raypurify.attacks.mim import MIM
from raypurify.attacks.pgd import PGD
from raypurify.attacks.square import Square
from raypurify.attacks.stadv import StAdv
from raypurify.attacks.tpgd import TPGD
from raypurify.attacks.uap import UAP, Universal

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "mim": MIM,
    "tpgd": TPGD,
    "apgd": APGD,
    "cw": CW,
    "deepfool": DeepFool,
    "uap": UAP,
    "low-frequency": LowFrequency,
    "stadv": StAdv,
    "square": Square,
    "autoattack": AutoAttack,
}
"""Every attack by its name in settings and tables. Each class is made from at least ``eps`` and ``norm``."""

__all__ = [
    "APGD",
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
    "LowFrequency",
    "Model",
    "Square",
    "StAdv",
    "Universal",
]
