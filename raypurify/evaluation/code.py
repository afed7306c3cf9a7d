"""Digests of code: what a purifier or an attack does is decided by its settings and by the text that reads them."""

import ast
import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import raypurify
from raypurify.evaluation import own
from raypurify.version import __version__

APART = {
    "files that are read have digests in keys": ("disk", "stores", "storage", "files", "client", "containers"),
    "only people read what it says": ("errors",),
    "it finds the module of a bundle's method, which counts by itself": ("methods",),
    "it is in every digest": ("version",),
}
"""Rooms that decide nothing of what comes of an image, by the reason why. All others count, new ones too: those that
compute, and those of settings, which have limits and defaults. Modules of ``evaluation`` count one by one, as ``plan``
and ``digests`` name them, and what only puts weights into a network does not: they have digests, too."""

_ROOT = Path(raypurify.__file__).parent


def code_digest(*modules: str, alone: Sequence[str] = ()) -> str:
    """The digest of the package's version, of the modules of these names, and of those that they import, but for rooms
    ``APART``; of modules ``alone`` without what these import. Of modules of a user's own (``own``) all that they import
    counts, but what is installed.

    Comments, docstrings and the form of the text do not count. A module that is no file, as in a notebook, counts by
    its name alone.

    >>> code_digest("raypurify.purifiers.jpeg") == code_digest("raypurify.purifiers.tvm")
    False
    """
    texts, waiting = {name: _read(name)[0] for name in alone}, list(modules)
    while waiting:
        name = waiting.pop()
        if name not in texts:
            source = own.installed(name)
            texts[name], used = _read_own(name, source) if source else _read(name)
            waiting += used
    parts = [__version__, *(f"{name}\0{texts[name]}" for name in sorted(texts))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """What a module says, and the modules of raypurify that it imports and that count."""
    file = _file(module) or getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return "", ()
    tree = _Bare().visit(ast.parse(Path(file).read_text("utf-8")))
    found = {where for name, part in own.imports(tree) if (where := _home(name, part))}
    return ast.unparse(tree), tuple(sorted(found - {module}))


def _read_own(module: str, source: own.Source) -> tuple[str, tuple[str, ...]]:
    """What a module of the user's says, and the modules that it imports, of the user's and of those that count."""
    tree = _Bare().visit(own.parsed(source))
    ours = {where for name, part in own.imports(tree) if (where := _home(name, part))}
    theirs = {name for name in own.imports_of(module, source) if own.installed(name)}
    return ast.unparse(tree), tuple(sorted((ours | theirs) - {module}))


def _file(module: str) -> Path | None:
    package, *path = module.split(".")
    base = _ROOT.joinpath(*path)
    if package != "raypurify" or not path or any(path[0] in rooms for rooms in APART.values()):
        return None
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def _home(module: str, name: str) -> str | None:
    """The module that holds what is imported as a name from a module, which may hand it on; None if none counts."""
    if _file(f"{module}.{name}"):
        return f"{module}.{name}"
    file = _file(module)
    if file is None or file.name != "__init__.py":
        return module if file else None
    handed = [
        where for where, part in own.imports(ast.parse(file.read_text("utf-8"))) if part == name and where != module
    ]
    return _home(handed[0], name) if handed else module


class _Bare(ast.NodeTransformer):
    """Takes out what is for readers and for type checkers."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        # A body may not be empty.
        return ast.Pass() if text else node

    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)
