"""The command ``raypurify settings``: all settings of a fit as a file to start from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raypurify.cli.outcome import tell


def settings(
    preset: Annotated[str | None, typer.Option(help="Settings by name; without it the defaults of the method.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from a YAML file, to see those that it leaves out.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. method=stl or csc.lmbda=0.1; may be repeated.")
    ] = None,
) -> None:
    """Show all settings of a fit as YAML, each with what it is and may be: a file for ``fit --config``."""
    from raypurify.config import load_settings

    found = load_settings(preset, config, tuple(set or ()))
    tell(**found.model_dump(mode="json"))
    print("\n".join(_lines(found, found.own_sections())))


def _lines(model: BaseModel, names: list[str] | None = None) -> Iterator[str]:
    """The lines of a section, or of those of its fields that are ``names``."""
    for name, field in type(model).model_fields.items():
        if names is not None and name not in names:
            continue
        value, about = getattr(model, name), _about(field)
        if isinstance(value, BaseModel):
            yield f"{name}:" + (f"  # {about}" if about else "")
            yield from (f"  {line}" for line in _lines(value))
        else:
            yield f"{name}: {_shown(value)}" + (f"  # {about}" if about else "")


def _shown(value: Any) -> str:
    plain = [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _about(field: FieldInfo) -> str:
    """What a setting is, and which names it may have.

    >>> from raypurify.config import TrainingSettings
    >>> _about(TrainingSettings.model_fields["keep"])
    'last | best; best: the epoch of best validation accuracy, attacked if robust'
    """
    return "; ".join(filter(None, (" | ".join(_names(field.annotation)), field.description)))


def _names(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(name) for name in get_args(annotation)]
    return [name for part in get_args(annotation) for name in _names(part)]
