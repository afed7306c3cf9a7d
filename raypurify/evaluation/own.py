"""Code of a user's own that a grid names as "package.module:name": found, brought to workers as text, imported.

What a grid names so is run: such a grid is code, as a Makefile is.
"""

import ast
import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from raypurify.errors import ConfigError, RaypurifyError, one_line

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_INSTALLED = {"site-packages", "dist-packages"}


class Source(NamedTuple):
    """A module as it lies on the machine that reads the grid; of a folder without ``__init__.py`` the text is empty."""

    file: str
    text: str
    package: bool


Sources = Mapping[str, Source]
"""Modules by their dotted names."""


def is_own(name: str) -> bool:
    """Whether an attack or a purifier of that name is code of the user's own, and no name of the package's."""
    return ":" in name


def module_of(name: str) -> str:
    """The module of a "package.module:name"."""
    return name.partition(":")[0]


def find_sources(names: Iterable[str], folders: Sequence[str]) -> dict[str, Source]:
    """The modules of these "package.module:name", and every module that they import, as far as neither is installed.

    They are looked for in ``folders``, then where Python looks. Nothing is imported. Modules of the standard library,
    of site-packages and of raypurify are on every worker, and are left out, as are those of compiled code.

    Raises ConfigError for a module that cannot be parsed, or that is in use from another file.
    """
    importlib.invalidate_caches()
    found: dict[str, Source] = {}
    waiting = [one for name in names for one in _with_parents(module_of(name))]
    while waiting:
        name = waiting.pop()
        if name in found or (source := _source(name, folders)) is None:
            continue
        there = getattr(sys.modules.get(name), "__file__", None)
        if there and not _ours(sys.modules[name]) and Path(there).resolve() != Path(source.file).resolve():
            raise ConfigError(f"{source.file}: another module {name} is in use, that of {there}; rename yours")
        found[name] = source
        waiting += imports_of(name, source)
    return found


def imports_of(name: str, source: Source) -> set[str]:
    """The dotted names that a module of the user's may import, with all their parents. Raises ConfigError."""
    pairs = [*imports(parsed(source), name if source.package else name.rpartition(".")[0])]
    named = {f"{module}.{part}".removesuffix(".") for module, part in pairs if part != "*"}
    return {one for called in {name, *named, *(module for module, _ in pairs)} for one in _with_parents(called)}


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str]]:
    """Module and name of every import in a module of ``package``; of a module as a whole the name is empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            if module := ".".join(filter(None, [*parents, node.module])):
                yield from ((module, alias.name) for alias in node.names)


def parsed(source: Source) -> ast.Module:
    """The syntax of a module. Raises ConfigError."""
    try:
        return ast.parse(source.text)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{source.file}: {one_line(error)}; mend it there") from error


def install(sources: Sources) -> None:
    """Let this process import these modules by their names, from their texts, wherever they came from.

    Modules that were imported so before are imported anew where one of them has changed.
    """
    if _IMPORTER not in sys.meta_path:
        sys.meta_path.insert(0, _IMPORTER)
    if any(_IMPORTER.sources.get(name, source) != source for name, source in sources.items()):
        for name, module in list(sys.modules.items()):
            if _ours(module):
                del sys.modules[name]
    _IMPORTER.sources.update(sources)


def installed(module: str) -> Source | None:
    """The text of a module that was installed by :func:`install`."""
    return _IMPORTER.sources.get(module)


def made_with(sources: Sources, make: Callable, *arguments: Any) -> Any:
    """What ``make(*arguments)`` gives in a process that has these modules: for partials that go to workers."""
    install(sources)
    return make(*arguments)


def own_callable(where: str, name: str) -> Callable:
    """What a "package.module:name" means. ``where`` begins the message.

    Raises ConfigError for a text that is no such name, a module that cannot be imported, and a name that it does not
    have or that cannot be called.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is not of the form package.module:name; write it so, without .py")
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{where}: there is no module {error.name}; put it beside the grid, or run where it lies"
            ) from error
        raise ConfigError(f"{where}: {module} needs {error.name}; install it, or put it beside the grid") from error
    except RaypurifyError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {module} cannot be imported, {told(error)}; mend it there") from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [one for one, value in vars(found).items() if callable(value) and not one.startswith("_")]
            raise ConfigError(f"{where}: {module} has no {path}; use one of its names, {', '.join(known[:12])}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{where}: {name} is a {type(found).__name__}; name a class or a function")
    return found


def made(where: str, make: Callable, settings: Mapping[str, Any]) -> Any:
    """What ``make(**settings)`` gives. Raises ConfigError, with file and line, for all that it raises itself."""
    try:
        return make(**settings)
    except RaypurifyError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {told(error)}; mend its settings in the grid, or its code") from error


def told(error: Exception) -> str:
    """An error of a user's code, with the place where it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {one_line(error)}"


class _Importer(MetaPathFinder, ExecutionLoader):
    """Finds modules in ``sources`` and runs their texts."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.sources:
            return None
        # With its file, so that data beside it is found where that is there, and its lines stand in tracebacks.
        return importlib.util.spec_from_loader(name, self, is_package=self.sources[name].package)

    def get_source(self, name: str) -> str:
        return self.sources[name].text

    def get_filename(self, name: str) -> str:
        return self.sources[name].file

    def is_package(self, name: str) -> bool:
        return self.sources[name].package


_IMPORTER = _Importer()


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _source(name: str, folders: Sequence[str]) -> Source | None:
    spec = _spec(name, folders)
    if spec is None:
        return None
    file = spec.origin
    if file is None and spec.submodule_search_locations:
        file = str(Path(next(iter(spec.submodule_search_locations)), "__init__.py"))
    if file is None or _INSTALLED & {*Path(file).parts}:
        return None
    if spec.origin is None:
        return Source(file, "", True)
    if not isinstance(spec.loader, SourceFileLoader):
        return None
    try:
        text = spec.loader.get_source(name) or ""
    except (ImportError, OSError) as error:
        raise ConfigError(f"{file}: {one_line(error)}; mend it there") from error
    return Source(file, text, spec.submodule_search_locations is not None)


def _spec(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Where a module lies, found without importing its parents."""
    root, *parts = name.split(".")
    if root in sys.stdlib_module_names or root in ("raypurify", "__main__"):
        return None
    spec = PathFinder.find_spec(root, [*map(str, map(Path.resolve, map(Path, folders))), *sys.path])
    if spec is None:
        # Installed for editing, it may be known to a finder of its own.
        with contextlib.suppress(ValueError):
            spec = importlib.util.find_spec(root)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def _ours(module: ModuleType) -> bool:
    return getattr(module, "__loader__", None) is _IMPORTER
