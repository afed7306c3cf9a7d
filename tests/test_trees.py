"""YAML of settings and grids: what its loader takes otherwise than PyYAML does."""

import pytest

from raypurify.trees import apply_override, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-1.E+4", -1e4), (".5e2", 50.0), ("12e03", 12e3), ("1e", "1e"), ("e3", "e3"), ("'1e-3'", "1e-3")],
)
def test_a_number_is_what_it_is_in_yaml_1_2(text, value):
    tree = parse_yaml(f"a: {text}", "here")
    assert tree == {"a": value}
    assert type(tree["a"]) is type(value)
    changed: dict = {}
    apply_override(changed, f"a={text}")
    assert changed == tree


def test_what_overrides_a_merge_stays_when_it_is_merged_itself():
    text = """
    a: &a {x: 1, y: 2}
    b: &b {<<: *a, x: 3}
    c: {<<: *b}
    d: {<<: [*b, {x: 7, z: 8}], y: 5}
    """
    tree = parse_yaml(text, "here")
    assert tree["c"] == {"x": 3, "y": 2}
    assert tree["d"] == {"x": 3, "y": 5, "z": 8}
