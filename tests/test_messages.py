"""Every message names a remedy that exists: what it tells people to do, and the options and commands that it names."""

import ast
import re
from pathlib import Path

import typer
from import_graph import modules_below

from raypurify.cli.app import app

PACKAGE = Path(__file__).resolve().parents[1] / "raypurify"
# What people meet who run commands; arrays of the wrong shape are for those who call functions.
ROOMS = ("config", "client", "bundle", "containers", "runtime", "serve", "bulk", "fit", "evaluation", "cli", "nets")
REFUSALS = ("SourceError", "SinkError", "BundleError", "ConfigError", "TrainingError", "TarDamage", "BadParameter")
# A clause of its own that begins by what to do, or says of a value what it has to be.
VERBS = (
    "add|call|check|choose|copy|delete|expected|extract|fit|free|get|give|install|leave|let|lower|make|mend|name|pack|pip|purify"
    "|put|raise|raypurify|remove|rename|report|run|save|say|see|set|sort|the same|unpack|upgrade|use|wait|write"
)
REMEDY = re.compile(rf"(?:^|[;:,] )(?:or |{{…}})?(?:{VERBS})\b|\b(?:must|needs?|has to) ")
# Texts without a clause of their own, and why.
EXCEPTIONS = {
    "{…}: {…}": "what is put in is a TarDamage, which says what to do",
    "{…}: holds {…} of the {…} rows of shard {…}; {…}": "what is put in says to get the file again",
    "{…} in it {…}": "the same",
    "{…}": "what is put in is a text that was found by a look into a file, where it names what to do",
    "{…}: holds more than the {…} rows of shard {…}; {…}": "the same",
    "bundle {…}: {…}": "what is put in is the refusal of one of its parts, which says to fit it again",
}
# A command at the beginning of a text, of a clause or of code.
CALLED = re.compile(r"(?:^|[`:;,.] ?)raypurify ([a-z][a-z-]+)")
# Options of other programs, and of all.
OTHERS = {"--hard-dereference", "--dereference", "--help"}


def text(node: ast.AST) -> str:
    """A message as it is written, with {…} where something is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values)
    return f"{text(node.left)}{text(node.right)}" if isinstance(node, ast.BinOp) else "{…}"


def refusals() -> dict[str, str]:
    found = {}
    for name, path in modules_below(PACKAGE).items():
        if name.split(".")[1:2] and name.split(".")[1] in ROOMS:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if called in REFUSALS and node.args:
                    found[f"{name}:{node.lineno}"] = text(node.args[0])
    return found


def test_every_refusal_says_what_to_do():
    held = refusals()
    assert len(held) > 100
    without = {where: said for where, said in held.items() if not REMEDY.search(said) and said not in EXCEPTIONS}
    assert not without, "\n".join(f"{where} {said}" for where, said in without.items())
    assert set(EXCEPTIONS) <= set(held.values())


def literals() -> dict[str, str]:
    """Every text in the package that is no docstring, by where it stands."""
    found = {}
    for name, path in modules_below(PACKAGE).items():
        tree = ast.parse(path.read_text("utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found[f"{name}:{node.lineno}:{node.col_offset}"] = node.value
    return found


def test_options_and_commands_that_are_named_are_there():
    group = typer.main.get_command(app)
    commands = group.commands
    options = {option for one in (group, *commands.values()) for param in one.params for option in param.opts}
    named = {
        option: where for where, said in literals().items() for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", said)
    }
    assert len(named) > 15
    assert {option: where for option, where in named.items() if option not in options | OTHERS} == {}
    called = {word: where for where, said in literals().items() for word in CALLED.findall(said)}
    assert {"fit", "retry-failed", "status"} <= set(called)
    assert {word: where for word, where in called.items() if word not in commands} == {}
