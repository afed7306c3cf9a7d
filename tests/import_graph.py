"""Imports among modules, read from their text: at the top, inside functions, for type checkers."""

import ast
from pathlib import Path


def modules_below(folder: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name, or of a folder of scripts by its stem."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        base = folder.parent if (folder / "__init__.py").exists() else folder
        parts = path.relative_to(base).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports; of ``from a import b, c`` those are a.b and a.c."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def import_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Which others of ``modules`` each of them imports."""

    def module_of(name: str) -> str:
        # Of a.b.c, a module where there is one of that name, else what the module a.b holds.
        return name if name in modules else name.rpartition(".")[0]

    return {
        name: {module_of(one) for one in imported(path)} & modules.keys() - {name} for name, path in modules.items()
    }
