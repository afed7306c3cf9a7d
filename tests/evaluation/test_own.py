"""Code of one's own in a grid: where it is found, what of it counts, and how what is wrong with it is said."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raypurify.errors import ConfigError, RaypurifyError, SourceError
from raypurify.evaluation import own
from raypurify.evaluation.contract import check_attacked, check_classifier, check_purified
from raypurify.evaluation.digests import (
    attack_code,
    classifier_code,
    classifier_digest,
    purifier_code,
    purifier_digest,
)
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.plan import load_own
from raypurify.evaluation.specs import AttackSpec, ClassifierSpec, PurifierSpec
from raypurify.evaluation.subjects import Subjects, make_classifier
from raypurify.nets.state import state_digest

MODULES = {
    "mine/__init__.py": "from .sizes import SIDE\n",
    "mine/sizes.py": "SIDE = 3\n",
    "mine/nets.py": """
import torch
from torch import nn

from . import SIDE
import beside
from plain.deep import factor

def make(classes=4, gives="logits", scale=1):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes))
    return {"logits": network, "number": 3, "images": nn.Identity(), "pair": Pair(), "one": One()}[gives]

class Pair(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), 1

class One(nn.Module):
    def forward(self, images):
        if len(images) > 1:
            raise ValueError("one at a time")
        return images.mean((2, 3))

number = 3

def raises():
    raise KeyError("weights")
""",
    "mine/light.py": "from . import SIDE\ndef make(classes):\n    return classes\n",
    "beside.py": "from raypurify.purifiers.jpeg import JPEG\n",
    "plain/deep.py": "factor = 2\n",
    "apart.py": "x = 1\n",
    "things.py": """
from dataclasses import dataclass
import torch
from raypurify.purifiers.transform import Transform

@dataclass(frozen=True)
class Add:
    by: float = 0.1
    eps: float = 0.1
    norm: str = "linf"

    def __call__(self, model, images, labels, *, generator=None, loss=None):
        return images + self.by

class NoBudget:
    def __call__(self, *_, **__): ...

class Silent:
    eps, norm = 1, "linf"

@dataclass(frozen=True)
class Times(Transform):
    by: float = 0.5
    min_size = 1

    def transform(self, images):
        return images * self.by

class Bare(Times):
    def purify(self, images):
        return images

class Nothing: ...

class Draws:
    min_size, seed = 1, 0

    def purify(self, images): ...
""",
    "broken.py": "def make(:\n",
    "needs.py": "import no_such_package\n",
    "fails.py": "raise OSError('no room')\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the modules above; what is imported of them is forgotten afterwards."""
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(own, "_IMPORTER", own._Importer())
    before = set(sys.modules)
    yield tmp_path
    sys.meta_path[:] = [one for one in sys.meta_path if type(one) is not own._Importer]
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {Path(one).parts[0].removesuffix(".py") for one in MODULES}:
            del sys.modules[name]


def grid_of(folder, classifier=None, attack=None, purifier=None):
    tree = {
        "images": {"paths": "unread"},
        "modules": str(folder),
        "classifiers": {"net": classifier or {"kind": "python", "path": "mine.nets:make"}},
        "attacks": {"a": attack or {"attack": "things:Add"}},
        "purifiers": {"p": purifier or {"purifier": "things:Times"}},
    }
    grid = load_grid(tree)
    load_own(grid)
    return grid


def test_what_is_imported_from_outside_site_packages_is_found_and_counts(folder):
    names = {"mine", "mine.sizes", "mine.nets", "beside", "plain", "plain.deep", "things"}
    assert set(load_own(grid_of(folder))) == names

    def marks():
        grid = grid_of(folder)
        spec, attack, purifier = grid.classifiers["net"], grid.attacks["a"], grid.purifiers["p"]
        return classifier_code(spec), attack_code(attack), purifier_code(purifier)

    before = marks()
    (folder / "apart.py").write_text("x = 2\n")
    (folder / "plain/deep.py").write_text("factor = 2  # why\n")
    assert marks() == before
    for name, text, which in (
        ("plain/deep.py", "factor = 3\n", [0]),
        ("mine/sizes.py", "SIDE = 4\n", [0]),
        ("beside.py", "from raypurify.purifiers.squeezing import Median as JPEG\n", [0]),
        ("things.py", MODULES["things.py"] + "y = 1\n", [1, 2]),
    ):
        (folder / name).write_text(text)
        after = marks()
        assert [k for k in range(3) if after[k] != before[k]] == which
        before = after


def test_a_process_with_the_texts_needs_no_files(folder, tmp_path_factory):
    import pickle

    sources = load_own(grid_of(folder, {"kind": "python", "path": "mine.light:make"}))
    (tmp_path_factory.mktemp("elsewhere") / "x").write_text("")
    for name in MODULES:
        (folder / name).unlink()
    code = (
        "import pickle, sys\n"
        "from raypurify.evaluation.own import made_with, own_callable\n"
        "make = made_with(pickle.load(sys.stdin.buffer), own_callable, 'classifier', 'mine.light:make')\n"
        "import mine.sizes, inspect\n"
        "print(make.__module__, mine.SIDE, inspect.getsource(make).count('classes'), mine.__file__)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(sources), capture_output=True, check=True)
    assert run.stdout.decode().split() == ["mine.light", "3", "2", str(folder / "mine/__init__.py")]


def test_a_changed_module_is_imported_anew(folder):
    grid = grid_of(folder)
    images = torch.full((1, 3, 4, 4), 0.5)
    assert Subjects(grid).purifier("p").purify(images).images.unique().tolist() == [0.25]
    (folder / "things.py").write_text(MODULES["things.py"].replace("* self.by", "* 0"))
    load_own(grid)
    assert Subjects(grid).purifier("p").purify(images).images.unique().tolist() == [0]


def test_weights_count_wherever_they_come_from(folder):
    spec = grid_of(folder).classifiers["net"]
    images = torch.rand(2, 3, 8, 8)
    torch.manual_seed(1)
    first, second = make_classifier(spec), make_classifier(spec)
    # Drawn weights are the same in every process, and the state of the process's own generator stays.
    assert torch.equal(first(images), second(images))
    before = classifier_digest(spec)
    assert before == classifier_digest(spec)
    drawn = (folder / "mine/nets.py").read_text()
    (folder / "mine/nets.py").write_text(
        drawn.replace("    return {", "    torch.nn.init.ones_(network[2].weight)\n    return {")
    )
    grid_of(folder)
    assert classifier_digest(spec) != before
    torch.save(first.state_dict(), folder / "weights")
    filled = spec.model_copy(update={"weights": str(folder / "weights")})
    assert torch.equal(make_classifier(filled)(images), first(images))
    assert len({before, classifier_digest(spec), classifier_digest(filled)}) == 3
    (folder / "file").write_text("a")
    named = [spec.model_copy(update={"settings": {"scale": str(folder / "file")}})]
    digest = classifier_digest(named[0])
    (folder / "file").write_text("b")
    assert classifier_digest(named[0]) != digest
    torch.save({"other": torch.ones(1)}, folder / "weights")
    with pytest.raises(SourceError, match=r"weights: does not fit mine\.nets:make"):
        make_classifier(filled)


def test_files_count_wherever_settings_name_them(folder):
    file = folder / "weights.pt"
    settings = {"flat": str(file), "listed": [1, [str(file)]], "mapped": {"deep": {"weights": str(file)}}}

    def marks():
        held = [{name: value} for name, value in settings.items()]
        return [
            mark
            for one in held
            for mark in (
                classifier_digest(ClassifierSpec(kind="python", path="mine.nets:make", settings={"scale": one})),
                attack_code(AttackSpec(attack="things:Add", **one)),
                purifier_digest(PurifierSpec(purifier="things:Times", **one)),
            )
        ]

    grid_of(folder)
    file.write_text("a")
    before = marks()
    assert marks() == before
    file.write_text("b")
    assert not {*before} & {*marks()}


def test_buffers_count_that_no_state_dict_holds():
    def digest(value, persistent):
        network = torch.nn.BatchNorm2d(2)
        network.register_buffer("table", torch.full((2,), value), persistent=persistent)
        return state_digest(network)

    assert digest(1.0, False) == digest(1.0, False)
    assert digest(1.0, False) != digest(2.0, False)
    # Digests of networks without such buffers are those that results are kept under.
    plain = torch.nn.BatchNorm2d(2)
    assert state_digest(plain) == "b1b22973fb9dd74ae8be7deef8882c3fb73370fd9baefb5e6294c44dc3520355"


WRONG = {
    "no form": ({"kind": "python", "path": "mine/nets.py"}, "'mine/nets.py' is not of the form package.module:name"),
    "no module": ({"kind": "python", "path": "mine.other:make"}, "no module mine.other; put it beside the grid"),
    "no package": ({"kind": "python", "path": "needs:make"}, "needs needs no_such_package; install it"),
    "no name": ({"kind": "python", "path": "mine.nets:build"}, "mine.nets has no build; use one of its names, make"),
    "no callable": ({"kind": "python", "path": "mine.nets:number"}, "mine.nets:number is a int; name a class"),
    "no setting": ({"kind": "python", "path": "mine.nets:make", "settings": {"depth": 3}}, "argument 'depth'"),
    "no module of torch": (
        {"kind": "python", "path": "mine.nets:make", "settings": {"gives": "number"}},
        "classifier mine.nets:make gives a int; it has to give a torch.nn.Module",
    ),
    "an error": ({"kind": "python", "path": "mine.nets:raises"}, "KeyError at nets.py:26: 'weights'; mend"),
    "an error of the module": ({"kind": "python", "path": "fails:make"}, "OSError at fails.py:1: no room; mend it"),
    "no syntax": ({"kind": "python", "path": "broken:make"}, "broken.py: invalid syntax"),
    "settings of others": (
        {"kind": "bundle", "path": "cifar10", "settings": {"a": 1}},
        "kind bundle takes no settings",
    ),
}


@pytest.mark.parametrize(("classifier", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_classifier_is_said(classifier, message, folder):
    with pytest.raises(ConfigError) as refused:
        Subjects(grid_of(folder, classifier)).classifier("net")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("attack", "purifier", "message"),
    [
        ("things:NoBudget", None, "attack 'a': a NoBudget has eps=None and norm=None; give it the attributes eps"),
        ("things:Silent", None, "attack 'a': a Silent cannot be called; give its class a __call__"),
        ("things:Subtract", None, "attack 'a': things has no Subtract; use one of its names"),
        (None, "things:Nothing", "purifier 'p': a Nothing has no purify and min_size; make it a subclass"),
        (None, "things:Draws", "purifier 'p': a Draws has a seed; make it a dataclass"),
        (None, "others:Blur", "purifier 'p': there is no module others; put it beside the grid"),
    ],
)
def test_what_is_wrong_with_attacks_and_purifiers_is_said(attack, purifier, message, folder):
    named = {"attack": attack and {"attack": attack}, "purifier": purifier and {"purifier": purifier}}
    subjects = Subjects(grid_of(folder, **named))
    with pytest.raises(ConfigError) as refused:
        subjects.attack("a") if attack else subjects.purifier("p")
    assert message in str(refused.value)


def test_outputs_are_checked_before_figures_rest_on_them(folder):
    grid = grid_of(folder)
    images, labels = torch.full((2, 3, 8, 8), 0.95), torch.tensor([0, 3])
    for gives, message in (
        ("images", "gives torch.float32 of shape (2, 3, 8, 8) for images of shape (2, 3, 8, 8); it has to give logits"),
        ("pair", "gives a tuple; it has to give a tensor of logits"),
        ("one", "cannot take images of shape (2, 3, 8, 8), ValueError at nets.py:20: one at a time; let it"),
    ):
        spec = ClassifierSpec(kind="python", path="mine.nets:make", settings={"gives": gives})
        with pytest.raises(ConfigError) as refused:
            check_classifier("net", make_classifier(spec), images, labels)
        assert f"classifier 'net' {message}" in str(refused.value)
    network = Subjects(grid).classifier("net")
    check_classifier("net", network, images, labels)
    with pytest.raises(ConfigError, match="tells 4 classes apart, the images have a label 4; use another"):
        check_classifier("net", network, images, labels + 1)
    with pytest.raises(ConfigError, match="the images have a label -1, and classes count from 0"):
        check_classifier("net", network, images, labels - 1)
    attack = Subjects(grid).attack("a")
    with pytest.raises(ConfigError, match=r"attack 'a' gives values outside \[0, 1\]"):
        check_attacked("a", attack, attack(network, images, labels), images)
    lower = dataclasses.replace(attack, by=-0.2)
    with pytest.raises(ConfigError, match=r"attack 'a' went 0.2 far in linf, its eps is 0.1; let it stay within"):
        check_attacked("a", lower, lower(network, images, labels), images)
    within = dataclasses.replace(attack, by=-0.1)
    assert check_attacked("a", within, within(network, images, labels), images).shape == images.shape
    bare = Subjects(grid_of(folder, purifier={"purifier": "things:Bare"})).purifier("p")
    with pytest.raises(ConfigError, match="purifier 'p' gives a Tensor; it has to give a Purified"):
        check_purified("p", bare, images)
    check_purified("p", Subjects(grid).purifier("p"), images)


def test_modules_are_found_beside_the_grid_and_refused_where_another_is_in_use(folder, monkeypatch):
    (folder / "grid.yaml").write_text(
        "images: {paths: unread}\nclassifiers: {net: {kind: python, path: 'mine.nets:make'}}\n"
    )
    grid = load_grid(folder / "grid.yaml")
    assert "mine.nets" in load_own(grid)
    assert isinstance(Subjects(grid).classifier("net"), torch.nn.Module)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "apart", type(sys)("apart"))
    sys.modules["apart"].__file__ = "/another/apart.py"
    (folder / "beside.py").write_text("import apart\n")
    with pytest.raises(RaypurifyError, match=r"another module apart is in use, that of /another/apart.py; rename"):
        load_own(grid)
