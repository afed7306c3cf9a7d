"""Trees of settings as YAML has them: of presets and files, changed by dotted overrides; what models of them are."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import resources
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from raypurify.errors import ConfigError

MOST = 2**63 - 1
"""The largest whole number of a setting, which NumPy and torch take for a seed."""
_LARGEST_TREE = 100_000
"""Values of a YAML text with its aliases written out; the largest grid has some hundreds."""


def check_number(value: object, kinds: Iterable[object]) -> None:
    """Raises ValueError for a value of a setting of these kinds that Python takes for a number and nobody means, or
    that is too large for one.

    >>> check_number(True, {float})
    Traceback (most recent call last):
    ...
    ValueError: true is a truth value; give a number
    """
    kinds = {*kinds}
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        raise ValueError(f"{str(value).lower()} is a truth value; give a number")
    if isinstance(value, int) and abs(value) > MOST and kinds & {int, float}:
        raise ValueError(f"a number of {len(str(abs(value)))} digits; give {MOST} at most")


class SettingsModel(BaseModel):
    """Base of the models of settings: a key that they do not have is refused, and no value changes once it is checked.
    Numbers are finite, ``MOST`` at most where they are whole, and a truth value is none.

    >>> class Size(SettingsModel):
    ...     side: int = 8
    >>> Size(sides=9)
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Size
    sides
      Extra inputs are not permitted [type=extra_forbidden, input_value=9, input_type=int]
    ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        check_number(value, (kind, *get_args(kind)))
        return value


def problems_of(error: ValidationError, model: type[BaseModel], whole: str) -> str:
    """What is wrong with a tree for a model, each fault by its dotted name, or as of the ``whole``; of a key that the
    model does not have, the one that may have been meant.

    >>> class Size(SettingsModel):
    ...     side: int = 8
    >>> try:
    ...     Size.model_validate({"sides": 9})
    ... except ValidationError as error:
    ...     problems_of(error, Size, "size")
    'sides: there is no such setting, perhaps side is meant'
    """
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or whole}: {_said(one, model)}" for one in error.errors())


def _said(problem: Any, model: type[BaseModel]) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"].removeprefix("Value error, ")
    *path, name = problem["loc"]
    near = get_close_matches(str(name), _fields(model, path), 1)
    meant = f", perhaps {'.'.join([*map(str, path), *near])} is meant" if near else ""
    return f"there is no such setting{meant}"


def _fields(model: Any, path: Sequence[int | str]) -> list[str]:
    """The fields of the model below a path, none where no one model is there."""
    for name in path:
        field = model.model_fields.get(name)
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind)] if field else []
        if len(kinds) != 1:
            return []
        model = kinds[0]
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def without_default(written: dict[str, Any], name: str, default: object) -> dict[str, Any]:
    """Written settings without one of a name that has its default: for a setting that came later, which is not written
    where it is not said, so that fits keep their fingerprints and bundles their bytes.

    >>> without_default({"side": 8, "depth": 2}, "depth", 2)
    {'side': 8}
    """
    return {key: value for key, value in written.items() if key != name or value != default}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is given twice, as the first would be lost without a word, and takes
    ``1e-3`` for the number that it is in YAML 1.2."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # PyYAML leaves what is overridden in its place, and of a merge of a merge may take that.
        pairs = {
            (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key): (key, v) for key, v in node.value
        }
        node.value = [*pairs.values()]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), [*"-+.0123456789"]
)


def _check_size(tree: Any) -> None:
    """Raises ValueError for a tree that is too large or endless with its aliases written out, without doing so."""
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = float("inf")
            sizes[id(value)] = 1 + sum(map(size, value.values() if isinstance(value, dict) else value))
        return sizes[id(value)]

    if size(tree) > _LARGEST_TREE:
        raise ValueError(f"with its aliases written out it holds more than {_LARGEST_TREE} values, or itself")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The tree of a YAML text, which is that of ``where``. Raises ConfigError for anything else than a mapping.

    >>> parse_yaml("csc: {lmbda: 0.1}", "here")
    {'csc': {'lmbda': 0.1}}
    """
    try:
        tree = yaml.load(text, _Loader)  # a safe loader, too
        _check_size(tree)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(e).split())}; mend it there") from e
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must hold a mapping of settings, not a {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one value of a settings tree, by ``a.b=value``. Raises ConfigError for anything else.

    >>> tree: dict[str, Any] = {}
    >>> apply_override(tree, "csc.lmbda=0.1")
    >>> tree
    {'csc': {'lmbda': 0.1}}
    """
    key, sign, value = override.partition("=")
    override = override if len(override) < 80 else f"{override[:80]}…"
    *parents, leaf = key.strip().split(".")
    if not sign or not all((*parents, leaf)):
        raise ConfigError(f"override {override!r} is not of the form key.subkey=value; write it as in csc.lmbda=0.1")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"override {override!r}: {parent!r} is a value, not a group of settings; give a key of a group"
            )
    try:
        node[leaf] = yaml.load(value, _Loader)  # a safe loader, too
        _check_size(node[leaf])
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError(f"override {override!r}: the value is not valid YAML; put it in quotes") from e


def preset_names() -> list[str]:
    """The names of the presets that ship with the package, sorted.

    >>> "tiny" in preset_names()
    True
    """
    files = resources.files("raypurify.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset_tree(name: str) -> dict[str, Any]:
    """The tree of a preset of ``preset_names()``.

    >>> preset_tree("tiny-stl")["method"]
    'stl'
    """
    text = (resources.files("raypurify.presets") / f"{name}.yaml").read_text("utf-8")
    return parse_yaml(text, f"preset {name}")
