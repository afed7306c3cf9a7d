"""Pages of the API reference, one for every room of the package, made from the code."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import raypurify


def rooms() -> dict[str, list[str]]:
    """By the name of a room of the package its public modules, the room itself first."""
    found: dict[str, list[str]] = {"raypurify": ["raypurify"]}
    for module in pkgutil.walk_packages(raypurify.__path__, "raypurify."):
        parts = module.name.split(".")
        if not any(part.startswith("_") for part in parts):
            found.setdefault(".".join(parts[:2]), []).append(module.name)
    return {room: modules for room, modules in found.items() if any(map(shown, modules))}


def shown(name: str) -> list[str]:
    """The names that a module has to show: what it exports, or else what it defines and documents."""
    module = importlib.import_module(name)
    return list(getattr(module, "__all__", ())) or [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name and inspect.getdoc(value)
    ]


def page(room: str, modules: list[str]) -> str:
    """The page of a room. What it exports is shown first, and not once more in the module that defines it."""
    module = importlib.import_module(room)
    exported = {id(getattr(module, name)) for name in shown(room)}
    blocks = [f"# {room}"]
    for name in modules:
        own = importlib.import_module(name)
        again = [] if name == room else [key for key in shown(name) if id(getattr(own, key)) in exported]
        if name != room:
            if len(again) == len(shown(name)):
                continue
            blocks.append(f"## {name}")
        lines = [f".. automodule:: {name}", "   :members:"]
        if again:
            lines.append(f"   :exclude-members: {', '.join(again)}")
        blocks.append("\n".join(["```{eval-rst}", *lines, "```"]))
    return "\n\n".join(blocks) + "\n"


def write_reference(folder: Path) -> list[str]:
    """Write the pages of all rooms into ``folder``, and return the names of the rooms."""
    folder.mkdir(exist_ok=True)
    pages = {f"{room}.md": page(room, modules) for room, modules in rooms().items()}
    for name, text in pages.items():
        file = folder / name
        # A page that says the same stays untouched: Sphinx then need not read it again.
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")
    for file in folder.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    return [name.removesuffix(".md") for name in pages]
