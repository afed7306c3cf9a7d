"""The benchmark that fills Table I of RSFP, on a network of no worth."""

from pathlib import Path

import pytest
import torch

from raypurify.attacks import BIM, CW, PGD, TPGD
from raypurify.nets import WideResNet
from raypurify.nets.store import save_network


@pytest.fixture
def table1(benchmark):
    return benchmark("table1")


def test_the_attacks_share_the_budget(table1):
    made = table1.attacks("dissimilarity", 0.04)
    assert list(made) == ["PGD", "CW", "BIM", "TPGD"]
    assert [type(attack) for attack in made.values()] == [PGD, CW, BIM, TPGD]
    assert {(attack.eps, attack.norm) for attack in made.values()} == {(0.04, "dissimilarity")}


def test_measures_every_network_under_every_attack(table1, data_file, tmp_path, capsys):
    data = data_file("cifar10/test.parquet").parents[1]
    torch.manual_seed(0)
    save_network(tmp_path / "a.safetensors", WideResNet(10, 1, 10))
    made = {
        "PGD": PGD(0.3, "l2", steps=2),
        "CW": CW(0.3, "l2", searches=2, steps=2),
        "BIM": BIM(0.3, "l2", steps=2),
        "TPGD": TPGD(0.3, "l2", steps=2),
    }
    networks = dict.fromkeys(("PGDAT+RST (Random)", "mine"), tmp_path / "a.safetensors")
    results = table1.measure(networks, data, 6, "l2", 0.3, "cpu", made=made)
    first, second = results["networks"].values()
    assert first == second
    for cell in first["rows"].values():
        low, high = cell["interval"]
        assert low <= cell["accuracy"] <= high
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("mine TPGD: 6/6 images; 100.0 % of the work, 0.0 min left")
    assert "/" not in results["command"].replace("benchmarks/", "")
    lines = table1.table(results).splitlines()
    assert lines[2].startswith("| PGDAT+RST (Random) | ")
    assert lines[3] == "| RSFP: PGDAT+RST (Random) | 77.36 | 66.99 | 39.66 | 60.52 | 73.92 |"
    assert lines[4].startswith("| mine | ")
    assert sum(line.startswith("| RSFP: ") for line in lines) == len(table1.PAPER)
    assert "budget l2 0.3; PGD 2 steps; CW 2 × 2 steps; BIM 2 steps; TPGD 2 steps" in lines[-1]


def test_a_bundle_names_the_architecture_of_its_network(table1, tmp_path):
    from raypurify import bundles

    network = table1.network_of(next(iter(bundles.__path__)) / table1.Path("cifar10/network.safetensors"))
    assert network.settings["depth"] == 16


def test_a_network_without_a_name_is_refused(table1):
    assert table1.named_path("a=b=c.safetensors") == ("a", table1.Path("b=c.safetensors"))
    for text in ("path.safetensors", "=path", "name="):
        with pytest.raises(table1.argparse.ArgumentTypeError, match="NAME=PATH"):
            table1.named_path(text)


def test_the_trained_rows_are_the_papers_and_differ_in_what_their_names_say(table1, benchmark):
    from raypurify.config import Settings, load_settings

    networks = benchmark("table1_networks")
    assert set(networks.ROWS) - {"TRADES"} == set(table1.PAPER) - {"No defense"}
    settings = load_settings(path=networks.CONFIG)
    for name, (_, start, loss, pull) in networks.ROWS.items():
        row = networks.of_row(settings, loss, pull, start and Path("weights.safetensors"))
        Settings.model_validate(row.model_dump())
        assert (row.robust.alpha > 0) == ("RST" in name)
        assert (row.robust.loss == "trades") == (name == "TRADES")
        assert (row.robust.init == "random") == (start is None)
        assert row.robust.epochs == (2 if start else 5)
        assert row.robust.attack == settings.robust.attack
