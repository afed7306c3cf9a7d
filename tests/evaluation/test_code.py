"""The digest of code follows what it does, and not how it is written down."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from small_bundles import write_front_end, write_rsfp

import raypurify
from raypurify.evaluation import code, digests
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.digests import attack_code, classifier_code, purifier_code
from raypurify.evaluation.specs import AttackSpec, ClassifierSpec, PurifierSpec

PACKAGE = Path(raypurify.__file__).parent


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    def digest(text):
        code._read.cache_clear()
        module, file = ModuleType("own_purifier"), tmp_path / "own_purifier.py"
        module.__file__ = str(file)
        file.write_text(text)
        monkeypatch.setitem(sys.modules, "own_purifier", module)
        return code_digest("own_purifier")

    yield digest
    code._read.cache_clear()


def test_a_digest_changes_with_what_is_done_alone(digest_of, monkeypatch):
    text = '"""Says."""\nfrom raypurify.purifiers import JPEG\n\ndef f(x):\n    return x\n'
    before = digest_of(text)
    for same in (text.replace("Says", "Tells"), text.replace("f(x):", "f( x ):  # why")):
        assert digest_of(same) == before
    for other in (text.replace("return x", "return 2 * x"), text.replace("JPEG", "Median")):
        assert digest_of(other) != before
    assert digest_of(text) == before
    monkeypatch.setattr(code, "__version__", "0")
    assert digest_of(text) != before
    assert code_digest("no_such_module") == code_digest("no_such_module") != code_digest("another")


@pytest.fixture
def read_modules(monkeypatch):
    """The modules that digests are made of, as they are read."""
    read, seen = code._read, []
    monkeypatch.setattr(code, "_read", lambda name: (seen.append(name), read(name))[1])
    return seen


def test_a_digest_holds_what_is_imported_through_packages(read_modules):
    code_digest("raypurify.purifiers.rsfp")
    assert {"raypurify.csc.cbpdn", "raypurify.csc.tikhonov", "raypurify.purifiers.rewriting"} <= set(read_modules)
    assert "raypurify.config" in read_modules
    assert "raypurify.purifiers.jpeg" not in read_modules


@pytest.mark.parametrize(
    ("module", "held"),
    [
        ("purifiers.region_sparse", {"regions", "supervision", "fronts", "trees", "config", "patches.omp"}),
        ("purifiers.front_end", {"fronts", "regions", "config", "bundle.tensors", "nets.front_encoder"}),
        ("purifiers.jpeg", {"images"}),
        ("evaluation.threat_model", {"fronts", "supervision", "training.semantic.pcl"}),
    ],
)
def test_a_digest_holds_settings_and_all_that_computes(module, held, read_modules):
    code_digest(f"raypurify.{module}")
    seen = {name.removeprefix("raypurify.") for name in read_modules}
    assert held <= seen
    assert not {name.split(".")[0] for name in seen} & {room for rooms in code.APART.values() for room in rooms}


def test_rooms_count_unless_there_is_a_reason():
    apart = [room for rooms in code.APART.values() for room in rooms]
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.*"))} - {"__init__"}
    assert len(apart) == len(set(apart))
    assert set(apart) <= rooms
    # What has no reason to be apart is what there was, until somebody adds a room, which then counts.
    computing = {"csc", "patches", "clusters", "nets", "bundle", "purifiers", "attacks", "training", "evaluation"}
    settings = {"config", "trees", "supervision", "regions", "fronts"}
    assert computing | settings | {"scans", "png", "images", "pictures"} <= rooms - set(apart)


def test_a_room_that_is_new_counts(tmp_path, monkeypatch):
    (tmp_path / "purifiers").mkdir()
    (tmp_path / "purifiers" / "own.py").write_text("from raypurify.novel import SIZE")
    (tmp_path / "novel.py").write_text("SIZE = 2")
    monkeypatch.setattr(code, "_ROOT", tmp_path)
    before = code_digest("raypurify.purifiers.own")
    (tmp_path / "novel.py").write_text("SIZE = 3")
    code._read.cache_clear()
    assert code_digest("raypurify.purifiers.own") != before
    code._read.cache_clear()


def test_a_bundle_that_is_a_classifier_has_the_code_of_its_network(tmp_path, read_modules):
    plain = write_rsfp(tmp_path / "rsfp")
    defended = write_front_end(tmp_path / "front", supervised=True)
    learners = {"cifar_resnet", "efficientnet_lite", "torchvision_nets"}
    for bundle, held in ((plain, {"wide_resnet"}), (defended, learners)):
        read_modules.clear()
        classifier_code(ClassifierSpec(kind="bundle", path=str(bundle)))
        assert {f"raypurify.nets.{name}" for name in held} <= set(read_modules)
    assert "raypurify.nets.wide_resnet" not in read_modules


def test_a_module_alone_counts_without_what_it_imports(digest_of, monkeypatch):
    text = "from raypurify.purifiers import JPEG\n"
    digest_of(text)
    alone, read, seen = code_digest(alone=("own_purifier",)), code._read, []
    with monkeypatch.context() as patched:
        patched.setattr(code, "_read", lambda name: (seen.append(name), read(name))[1])
        assert code_digest(alone=("own_purifier",)) == alone
    assert seen == ["own_purifier"]
    digest_of(text + "x = 1")
    assert code_digest(alone=("own_purifier",)) != alone


def test_each_purifier_and_attack_has_a_digest_of_its_own():
    purifiers = [purifier_code(PurifierSpec(purifier=name)) for name in ("rsfp", "jpeg", "tvm", "rsfp_global")]
    attacks = [attack_code(AttackSpec(attack=name)) for name in ("pgd", "fgsm", "uap")]
    knowing = attack_code(AttackSpec(attack="pgd", knows="bpda"))
    assert len({*purifiers, *attacks, knowing}) == 8
    kinds = ("cifar-resnet", "wide-resnet", "torchvision", "efficientnet-lite")
    assert len({classifier_code(ClassifierSpec(kind=kind, path="a")) for kind in kinds}) == 4


def test_the_package_that_does_the_work_of_an_attack_counts_by_its_version(monkeypatch):
    pytest.importorskip("pyautoattack")
    before = attack_code(AttackSpec(attack="autoattack"))
    monkeypatch.setattr(digests, "version", lambda package: f"{package} 0")
    assert attack_code(AttackSpec(attack="autoattack")) != before
