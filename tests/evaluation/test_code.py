"""The digest of code follows what it does, and not how it is written down."""

import sys
from types import ModuleType

import pytest

from raypurify.evaluation import code, digests
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.digests import attack_code, classifier_code, purifier_code
from raypurify.evaluation.specs import AttackSpec, ClassifierSpec, PurifierSpec


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


def test_a_digest_holds_what_is_imported_through_packages(monkeypatch):
    read, seen = code._read, []
    monkeypatch.setattr(code, "_read", lambda name: (seen.append(name), read(name))[1])
    code_digest("raypurify.purifiers.rsfp")
    assert {"raypurify.csc.cbpdn", "raypurify.csc.tikhonov", "raypurify.purifiers.rewriting"} <= set(seen)
    assert "raypurify.config" in seen
    assert "raypurify.purifiers.jpeg" not in seen


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
