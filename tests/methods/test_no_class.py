"""What a bundle whose clusters are of no class writes, in every form that results have."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encode, pixels
from small_bundles import WRITERS

import raypurify
from raypurify.bulk.job import purify
from raypurify.errors import ConfigError
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.evaluation.digests import classifier_digest, purifier_code, purifier_digest
from raypurify.evaluation.specs import ClassifierSpec, PurifierSpec
from raypurify.evaluation.subjects import make_purifier
from raypurify.methods import METHODS
from raypurify.modules import PurifierModule
from raypurify.ray import Purify
from raypurify.serve.http import provenance_headers

BARE = [name for name, method in METHODS.items() if not method.classes]


@pytest.fixture(scope="module", params=BARE)
def bundle(request, tmp_path_factory):
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def test_a_job_writes_null_and_counts_no_classes(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / "in" / f"{k}.png").write_bytes(encode(pixels(24, seed=k)))
    summary = purify([str(tmp_path / "in")], str(tmp_path / "out"), str(bundle), engine="local")
    table = pq.read_table(tmp_path / "out" / "_raypurify" / "provenance.parquet")
    assert table["class"].to_pylist() == [None] * 3
    purifier = raypurify.load(str(bundle))
    assert set(table["cluster"].to_pylist()) <= {*range(len(purifier.dictionaries))}
    assert np.isfinite(table["distance"].to_numpy()).all()
    assert table["bundle"].unique().to_pylist() == [purifier.digest]
    assert summary.classes == {}
    assert json.loads((tmp_path / "out" / "_raypurify" / "summary.json").read_text())["classes"] == {}
    assert (tmp_path / "out" / "_raypurify" / "sheet.png").exists()


def test_a_step_of_ray_data_says_nothing_in_the_column(bundle):
    done = Purify(bundle)({"image": np.full((2, 32, 32, 3), 128, np.uint8)})
    assert done["class"].tolist() == [None, None]
    assert done["reason"].tolist() == ["", ""]


def test_a_header_is_empty():
    assert provenance_headers({"class": None, "cluster": 2}) == {"X-Raypurify-Class": "", "X-Raypurify-Cluster": "2"}


def test_a_module_is_made_of_the_bundle(bundle):
    module = PurifierModule(bundle, "implicit")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module(x).sum().backward()
    assert x.grad.abs().amax() > 0


def test_a_grid_takes_the_bundle_by_its_name_alone(bundle):
    where = str(bundle)
    section = raypurify.load(where).tunable
    name, value = {"csc": ("lmbda", 0.3), "region": ("nonzeros", 5), "encoder": ("dropout", 0.3)}[section]
    spec = PurifierSpec(purifier="bundle", bundle=where, **{name: value})
    purifier = make_purifier("strata", spec)
    assert getattr(getattr(purifier.settings, section), name) == value
    assert purifier_digest(spec) != purifier_digest(PurifierSpec(purifier="bundle", bundle=where))
    assert purifier_code(spec) != purifier_code(PurifierSpec(purifier="rsfp"))
    with pytest.raises(
        ConfigError, match=f"is a bundle of the method {purifier.bundle.manifest.method}: write purifier: bundle"
    ):
        make_purifier("strata", PurifierSpec(purifier="rsfp", bundle=where))
    with pytest.raises(ConfigError, match="has no classifier; name one of rsfp or front_end that has"):
        CLASSIFIERS["bundle"].load(where, None, {})


def test_a_grid_refuses_it_as_a_classifier_before_any_work(bundle):
    with pytest.raises(ConfigError, match="has no classifier; name one of rsfp or front_end that has"):
        classifier_digest(ClassifierSpec(kind="bundle", path=str(bundle)))
