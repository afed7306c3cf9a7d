"""The digest of code follows what it does, and not how it is written down."""

import sys
from types import ModuleType

import pytest

from raypurify.evaluation import code
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.grid import AttackSpec, PurifierSpec
from raypurify.evaluation.subjects import attack_code, purifier_code


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
    assert "raypurify.purifiers.jpeg" not in seen


def test_each_purifier_and_attack_has_a_digest_of_its_own():
    purifiers = [purifier_code(PurifierSpec(purifier=name)) for name in ("rsfp", "jpeg", "tvm", "rsfp_global")]
    attacks = [attack_code(AttackSpec(attack=name)) for name in ("pgd", "fgsm", "uap")]
    knowing = attack_code(AttackSpec(attack="pgd", knows="bpda"))
    assert len({*purifiers, *attacks, knowing}) == 8
