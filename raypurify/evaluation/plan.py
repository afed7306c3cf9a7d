"""The plan of an evaluation: every digest and key of a grid, resolved once, and what is still to do.

    OUT/adversarial/<key>.safetensors      attacked images; the key is a digest of classifier, attack, images and seed
    OUT/cells/<key>.parquet                what one purifier made of them; the key adds the purifier's digest, and
                                           the classifier's where the attack is made on another one; what is kept of
                                           an image may change without another attack
    OUT/checks/<key>.json                  the checks of the attacks on one classifier, alone or behind a purifier

A key holds all that decides the content, so a grid that was interrupted or changed computes what is new in it, and a
file is never wrong. Of what classifiers, attacks and purifiers do it holds their settings and their code
(``code.code_digest``), as it does of the modules that write the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raypurify.evaluation.batches import GridBatch, first_images
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.digests import (
    attack_code,
    classifier_code,
    classifier_digest,
    purifier_code,
    purifier_digest,
)
from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.judged import Check
from raypurify.evaluation.own import Sources, find_sources, install
from raypurify.evaluation.specs import OF_CLASSIFIERS, USUAL_EXPECTATION
from raypurify.files import fingerprint, read_json
from raypurify.storage import Place

# What a cell keeps of an image is decided there, too.
KEEPING = ("raypurify.purifiers.draws", "raypurify.training.denoising")


class CheckName(NamedTuple):
    """The name of the checks of the attacks on a classifier behind a purifier, by an attacker who ``knows`` of it; on
    the classifier alone, ``purifier`` is empty."""

    classifier: str
    purifier: str
    knows: str


class CellKeys(NamedTuple):
    """The keys of one cell's files on one batch: of the attacked images, and of what one purifier made of them."""

    adversarial: str
    cell: str


@dataclass(frozen=True)
class CellUnit:
    """A unit of work: cells of a classifier under an attack on one batch, together so that the attack is made once."""

    classifier: str
    attack: str
    batch: int
    purifiers: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.purifiers)

    @property
    def note(self) -> str:
        """A few words for the line of progress."""
        return f"{self.classifier}, {self.attack}"


@dataclass(frozen=True)
class CheckUnit:
    """A unit of work: the checks of the attacks on one classifier, alone or behind a purifier."""

    name: CheckName
    size: int = 1

    @property
    def note(self) -> str:
        """A few words for the line of progress."""
        return ", ".join(filter(None, (self.name.classifier, self.name.purifier, "checks")))


GridUnit = CellUnit | CheckUnit


@dataclass(frozen=True)
class GridPlan:
    """A grid with its digests and keys, for a folder ``out``.

    ``digests`` are by "classifiers" or "purifiers" and name, ``keys`` by cell, for each batch in order, ``check_keys``
    by what is checked, empty without checks. ``own`` has the modules of the user's own, for workers to install.
    """

    grid: Grid
    out: Place
    digests: dict[str, dict[str, str]]
    keys: dict[CellName, tuple[CellKeys, ...]]
    check_keys: dict[CheckName, str]
    own: Sources

    def adversarial(self, name: CellName, batch: int) -> Place:
        """The file of the attacked images of a cell on one batch."""
        return self.out / "adversarial" / f"{self.keys[name][batch].adversarial}.safetensors"

    def cell(self, name: CellName, batch: int) -> Place:
        """The file of a cell on one batch."""
        return self.out / "cells" / f"{self.keys[name][batch].cell}.parquet"

    def checks(self, name: CheckName) -> Place:
        """The file of the checks of that name."""
        return self.out / "checks" / f"{self.check_keys[name]}.json"

    @property
    def cells(self) -> int:
        """The number of cells, done or not."""
        return sum(map(len, self.keys.values()))

    def units(self) -> list[GridUnit]:
        """What is still to do: the cells that are missing, and the checks that are missing or not whole."""
        missing: dict[tuple[str, str, int], list[str]] = {}
        there = set((self.out / "cells").names())
        for name, keys in self.keys.items():
            for batch in range(len(keys)):
                if self.cell(name, batch).name not in there:
                    missing.setdefault((name.classifier, name.attack, batch), []).append(name.purifier)
        cells = [CellUnit(*where, tuple(purifiers)) for where, purifiers in missing.items()]
        return [*cells, *(CheckUnit(name) for name in self.check_keys if read_checks(self.checks(name)) is None)]


def load_own(grid: Grid) -> Sources:
    """The modules of the user's own that a grid names, installed in this process. Raises ConfigError."""
    sources = find_sources(grid.own, grid.modules)
    install(sources)
    return sources


def make_plan(grid: Grid, out: Place, batches: Sequence[GridBatch]) -> GridPlan:
    """The plan of a grid on its batches, for a folder that may hold some of the files already.

    Modules of the user's own are installed in this process. Raises ConfigError or BundleError for weights and bundles
    that are missing or damaged, and ConfigError for such modules.
    """
    own = load_own(grid)
    digests = {
        "classifiers": {name: classifier_digest(spec) for name, spec in grid.classifiers.items()},
        "purifiers": {name: purifier_digest(spec) for name, spec in grid.purifiers.items()},
    }
    images = [batch.digest for batch in batches]
    checked = first_images(batches, grid.sanity).digest
    names = [CellName(c, a, p) for c in grid.classifiers for a in grid.attacks for p in grid.rows(c)]
    codes = {name: purifier_code(spec) for name, spec in grid.purifiers.items()}
    decided = {name: [digests["purifiers"][name], code] for name, code in codes.items()}
    classifiers = {
        name: fingerprint(digests["classifiers"][name], classifier_code(spec))
        for name, spec in grid.classifiers.items()
    }
    keys = {name: tuple(_cell_keys(grid, classifiers, decided, name, mark) for mark in images) for name in names}
    return GridPlan(grid, out, digests, keys, _check_keys(grid, classifiers, decided, checked), own)


def read_checks(file: Place) -> list[Check] | None:
    """The checks in a file, None where it is missing or not whole."""
    found = read_json(file)
    try:
        return [Check(**one) for one in found] or None if isinstance(found, list) else None
    except TypeError:
        return None


def _cell_keys(
    grid: Grid, classifiers: dict[str, str], purifiers: dict[str, list[str]], name: CellName, images: str
) -> CellKeys:
    spec, purifier = grid.attacks[name.attack], purifiers[name.purifier]
    victim = grid.victim(name.classifier, spec)
    known = purifiers[grid.known(name)] if spec.knows not in OF_CLASSIFIERS else None
    decisive = spec.decisive, attack_code(spec)
    making = code_digest(alone=("raypurify.evaluation.attacked",))
    keeping = code_digest(*KEEPING, alone=("raypurify.evaluation.cells",))
    shared = images, grid.seed, grid.batch, grid.eight_bit
    # That of what is known is in its digest.
    own, in_use = grid.purifiers[grid.known(name)].ensemble or 1, grid.in_use(name)
    draws = [] if in_use == own else [in_use]
    adversarial = fingerprint(classifiers[victim], decisive, known, *shared, *draws, making)
    seen = [purifier] + ([classifiers[name.classifier]] if victim != name.classifier else [])
    return CellKeys(adversarial, fingerprint(adversarial, keeping, *seen))


def _check_keys(
    grid: Grid, classifiers: dict[str, str], purifiers: dict[str, list[str]], images: str
) -> dict[CheckName, str]:
    """What is checked: each classifier that is attacked, alone where it ever is, also by who knows its training, and
    behind each purifier for all that is known of that; of attacks that are made on something else that alone."""
    if not grid.sanity:
        return {}
    knowing = [spec for spec in grid.attacks.values() if spec.knows not in OF_CLASSIFIERS]
    own = dict.fromkeys(spec.knows for spec in knowing if not spec.made_on)
    elsewhere = [spec.made_on for spec in grid.attacks.values() if spec.made_on]
    victims = dict.fromkeys([*map(grid.victim, grid.classifiers), *(one.classifier for one in elsewhere)])
    alone = [c for c in victims if grid.classifiers[c].alone]
    names = [CheckName(c, "", "classifier") for c in alone]
    if any(spec.knows == "centres" for spec in grid.attacks.values()):
        names += [CheckName(c, "", "centres") for c in alone if grid.classifiers[c].centres]
    names += [CheckName(c, p, k) for c in victims for p in grid.rows(c) if p in grid.defended for k in own]
    transferred = [(spec.made_on, spec.knows) for spec in knowing if spec.made_on]
    names += [CheckName(on.classifier, on.purifier, k) for on, k in transferred if on.purifier in grid.defended]
    modules = "raypurify.evaluation.sanity", "raypurify.evaluation.threat_model"
    code = code_digest(*modules, alone=("raypurify.evaluation.checked",))

    def key(n: CheckName) -> str:
        # Behind a purifier there is rounding, and alone another classifier to transfer from.
        beside = grid.eight_bit if n.purifier else classifiers.get(grid.other(n.classifier) or "")
        parts = "checks", classifiers[n.classifier], purifiers.get(n.purifier), n.knows, images, code, beside
        # Only where it is said, so that other keys stay.
        expectation, backward = grid.expectation(n.knows), grid.backward(n.knows)
        said: list[Any] = [] if expectation == USUAL_EXPECTATION else [expectation]
        return fingerprint(*parts, *said, *([backward.model_dump()] if backward else []))

    return {n: key(n) for n in names}
