"""The site of README, docs/, examples/ and the docstrings: ``make docs``. Nothing is fetched, now or by a reader.

The source folder is the repository, so that a link means the same here and in a file viewer. What only the site needs,
the navigation and the pages of docs/reference.py, is made from what is there.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from latex2mathml.converter import convert
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.util import logging

import raypurify

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import as_rst
from navigation import navigation
from reference import write_reference

ROOT = Path(__file__).resolve().parents[1]

project, author, release = "raypurify", "The raypurify developers", raypurify.__version__
copyright = author
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/api/*.md", "examples/README.md"]
exclude_patterns = [".*", "site", "build", "runs", "raypurify", "tests", "benchmarks", "deploy", "**.egg-info"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

html_theme = "furo"
html_title = f"raypurify {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
highlight_language = "none"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_signature = "mixed"
python_maximum_signature_line_length = 100
suppress_warnings = ["config.cache"]

UNKNOWN_TO_THE_CONVERTER = {r"\arg": r"\mathrm{arg}\,", r"\Big\lVert": "‖", r"\Big\rVert": "‖"}


def prepare(app, docname: str, source: list[str]) -> None:
    """Adds the navigation to the README; a link to a folder, which a site has no page for, becomes its path."""
    folder = (ROOT / docname).parent
    source[0] = re.sub(
        r"\[([^\]]+)\]\(([^)#:\s]+)\)",
        lambda link: (link[1] if "`" in link[1] else f"`{link[1]}`") if (folder / link[2]).is_dir() else link[0],
        source[0],
    )
    if docname == "README":
        source[0] += navigation(ROOT, app.config.rooms)


def plain_docstrings(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Fields of a named tuple are told by its docstring and signature, and of settings by ``settings_fields``."""
    return True if name == "model_config" or isinstance(obj, type(NamedTuple("T", [("x", int)]).x)) else None


def settings_fields(app, what, name, obj, options, lines: list[str]) -> None:
    """A model of settings says of every field its default and meaning."""
    if not (inspect.isclass(obj) and issubclass(obj, BaseModel)):
        return
    lines.append("")
    for field, info in obj.model_fields.items():
        default = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        simple = default is not PydanticUndefined and not isinstance(default, BaseModel)
        means = f": {info.description}" if info.description else ""
        lines.append(f"* ``{field}``{f' = ``{default!r}``' if simple else ''}{means}")
    lines.append("")


def without_signature(app, what, name, obj, options, signature, returns):
    return ("", None) if inspect.isclass(obj) and issubclass(obj, BaseModel) else None


def math(display: str):
    """Writes a formula as MathML, which browsers draw by themselves."""

    def visit(self, node: nodes.Element) -> None:
        text = node.astext()
        for command, known in UNKNOWN_TO_THE_CONVERTER.items():
            text = text.replace(command, known)
        # As identifiers, primes would be drawn small and high, and norms would have no space.
        formula = re.sub("<mi>(&#x02032;|‖)</mi>", r"<mo>\1</mo>", convert(text, display=display))
        if "\\" in formula:
            logging.getLogger(__name__).warning("formula %r has a command that is not known", text, location=node)
        self.body.append(f'<div class="math">{formula}</div>' if display == "block" else formula)
        raise nodes.SkipNode

    return visit


def redirect(app, error) -> None:
    if error is None:
        head = '<meta charset="utf-8"><title>raypurify</title><meta http-equiv="refresh" content="0; url=README.html">'
        (Path(app.outdir) / "index.html").write_text(f"<!doctype html>{head}", "utf-8")


def setup(app) -> None:
    app.add_config_value("rooms", write_reference(ROOT / "docs" / "api"), "env")
    app.add_html_math_renderer("mathml", (math("inline"), None), (math("block"), None))
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", plain_docstrings)
    app.connect("autodoc-process-docstring", settings_fields)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", without_signature)
    app.connect("build-finished", redirect)
