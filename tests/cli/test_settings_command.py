"""All settings of a fit as a file: what is shown is what is used, and each is explained."""

import json

import pytest
import yaml

from raypurify.cli.app import app, main
from raypurify.config import SECTIONS, load_settings, presets
from raypurify.errors import ConfigError


def shown(capsys, *arguments: str) -> str:
    app(["settings", *arguments], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", presets())
def test_the_file_of_a_preset_is_the_preset(preset, capsys, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(shown(capsys, "--preset", preset), "utf-8")
    assert load_settings(path=file) == load_settings(preset)
    assert load_settings(path=file).model_dump() == load_settings(preset).model_dump()


@pytest.mark.parametrize("method", SECTIONS)
def test_without_a_preset_they_are_the_defaults_of_a_method_and_of_no_other(method, capsys):
    tree = yaml.safe_load(shown(capsys, "--set", f"method={method}"))
    assert tree["method"] == method
    every = {name for names in SECTIONS.values() for name in names}
    assert every & set(tree) == set(SECTIONS[method])


def test_settings_that_files_leave_out_by_default_are_shown_with_what_they_may_be(capsys):
    text = shown(capsys, "--preset", "tiny", "--set", "csc.lmbda=0.00001")
    assert "  image_size: null  # side that images are squashed to before" in text
    assert "  keep: last  # last | best; best: the epoch" in text
    assert yaml.safe_load(text)["csc"]["lmbda"] == 0.00001


def test_a_setting_that_is_none_is_refused_and_programs_read_the_others(capsys, monkeypatch):
    with pytest.raises(ConfigError, match="lambda"):
        app(["settings", "--set", "csc.lambda=1"], standalone_mode=False)
    monkeypatch.setattr("sys.argv", ["raypurify", "settings", "--preset", "tiny-stl", "--json"])
    with pytest.raises(SystemExit):
        main()
    said = json.loads(capsys.readouterr().out)
    assert (said["exit"], said["strata"]) == (0, load_settings("tiny-stl").model_dump(mode="json")["strata"])
