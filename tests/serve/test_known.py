"""The known image that a replica solves again and again: what is wrong with a purifier is found out."""

from dataclasses import replace

import pytest
import torch

import raypurify
from raypurify.errors import BundleError, RaypurifyError
from raypurify.serve.known import Known
from raypurify.serve.metrics import ReplicaMetrics
from raypurify.serve.replica import PurifierReplica
from serve.variants import variant


def test_a_purifier_that_stays_as_it_was_has_no_problem(bundle):
    known = Known(raypurify.load(bundle))
    assert [known.problem() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("part", ["network", "atoms"])
def test_a_bundle_with_numbers_that_are_none_is_not_served(bundle, tmp_path, part):
    with pytest.raises(RaypurifyError, match=r"does not purify|finite"):
        Known(raypurify.load(variant(bundle, tmp_path / "nan", nan=(part,))))


def test_a_bundle_that_erases_images_is_not_served(bundle):
    purifier = raypurify.load(bundle)
    purify = purifier.purify

    def black(images):
        done = purify(images)
        return replace(done, images=images * 0, relative_change=torch.ones(len(images)))

    purifier.purify = black
    with pytest.raises(BundleError, match=r"does not purify: .* relative change 1; fit it again"):
        Known(purifier)


@pytest.mark.parametrize("part", ["one atom of a cluster that is not asked", "a weight", "a mean", "the answers"])
def test_what_changes_in_memory_is_found_out(bundle, part):
    purifier = raypurify.load(bundle)
    known = Known(purifier)
    if part == "a weight":
        next(purifier.network.parameters()).view(-1)[5] += 1
    elif part == "a mean":
        purifier.distributions.means[2, 3] += 1e-3
    elif part == "the answers":
        known.pixels = known.pixels // 2
    else:
        purifier.dictionaries[(known.facts["cluster"] + 1) % 3, 0, 0, 0, 0] += 1e-3
    assert ("came out differently" if part == "the answers" else "not the ones that were loaded") in known.problem()


def test_what_a_replica_solves_at_its_start_is_no_callers_image(bundle, monkeypatch):
    told = []
    monkeypatch.setattr(ReplicaMetrics, "results", lambda self, results: told.extend(results))
    replica = PurifierReplica.func_or_class(str(bundle), "cpu", 1, 1 << 14, 1 << 20)
    assert 0 < replica.small.pace < 1e-2
    assert told == []
    replica._purify([replica.known.image])
    assert len(told) == 1
