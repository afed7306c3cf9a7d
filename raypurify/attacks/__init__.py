"""Gradient attacks on a classifier, for robust training and for evaluation alike.

An attack is a frozen dataclass of settings, called as ``attack(model, images, labels)``; ``attacks.base`` has the
contract, ``attacks.budget`` the norms. A new attack is one file with such a class and one entry in ``ATTACKS``.
"""

from raypurify.attacks.base import Attack, Loss, Model
from raypurify.attacks.bim import BIM
from raypurify.attacks.budget import NORMS
from raypurify.attacks.cw import CW
from raypurify.attacks.fgsm import FGSM
from raypurify.attacks.pgd import PGD
from raypurify.attacks.tpgd import TPGD

ATTACKS: dict[str, type[Attack]] = {"fgsm": FGSM, "bim": BIM, "pgd": PGD, "tpgd": TPGD, "cw": CW}
"""Every attack by its name in settings and tables. Each class is made from at least ``eps`` and ``norm``."""

__all__ = ["ATTACKS", "BIM", "CW", "FGSM", "NORMS", "PGD", "TPGD", "Attack", "Loss", "Model"]
