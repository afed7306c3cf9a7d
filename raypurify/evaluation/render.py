"""Sections of a report, written as Markdown with pictures beside it and as one HTML file with the pictures in it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from raypurify.evaluation.tables import as_markdown
from raypurify.storage import Place

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block; overflow: auto }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100%; display: block; margin: 1rem 0 }
td.figure { white-space: nowrap }
small { color: #666 }
code { background: #f4f4f4; padding: .1rem .3rem }
"""
# An accuracy or a difference, and its interval.
_FIGURE = re.compile(r"([+-]?\d+\.\d+)( \([^()]*\))?(.*)")


@dataclass(frozen=True)
class Section:
    """A section of a report, titled: paragraphs, then a table (its head and rows), then pictures by file name."""

    title: str
    text: tuple[str, ...] = ()
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    pictures: tuple[tuple[str, bytes], ...] = ()


def write_sections(out: Place, title: str, sections: Sequence[Section]) -> Place:
    """Write ``report.md``, ``report.html`` and the pictures into ``out``; returns the HTML file's path.

    Pictures of one file name, of names that differ in what no file's name has, are numbered.
    """
    sections = _told_apart(sections)
    for section in sections:
        for name, data in section.pictures:
            (out / name).write(data)
    (out / "report.md").write(_markdown(title, sections).encode())
    page = out / "report.html"
    page.write(_html(title, sections).encode())
    return page


def slug(name: str) -> str:
    """A name as part of a file's name.

    >>> slug("low-pass, λ 0.1/2")
    'low-pass--λ-0.1-2'
    """
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    taken: set[str] = set()

    def free(name: str) -> str:
        stem, dot, end = name.rpartition(".")
        names = (f"{stem}{number}{dot}{end}" for number in ("", *(f"-{k}" for k in range(2, len(taken) + 3))))
        # Some file systems know no case.
        found = next(one for one in names if one.casefold() not in taken)
        taken.add(found.casefold())
        return found

    return [replace(one, pictures=tuple((free(name), data) for name, data in one.pictures)) for one in sections]


def _markdown(title: str, sections: Sequence[Section]) -> str:
    blocks = [f"# {title}"]
    for section in sections:
        blocks += [f"## {section.title}", *section.text]
        if section.table:
            blocks.append(as_markdown(*section.table))
        blocks += [f"![{section.title}]({name})" for name, _ in section.pictures]
    return "\n\n".join(blocks) + "\n"


def _html(title: str, sections: Sequence[Section]) -> str:
    blocks = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        blocks.append(f"<h2>{escape(section.title)}</h2>")
        blocks += [f"<p>{escape(text)}</p>" for text in section.text]
        if section.table:
            head, body = section.table
            rows = [_row("th", head), *(_row("td", row) for row in body)]
            blocks.append(f"<table>{''.join(rows)}</table>")
        for name, data in section.pictures:
            source = base64.b64encode(data).decode()
            blocks.append(f'<img alt="{escape(section.title)}, {escape(name)}" src="data:image/png;base64,{source}">')
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(blocks)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(_cell(tag, cell) for cell in cells)}</tr>"


def _cell(tag: str, text: str) -> str:
    """A cell; one of a figure is not broken, so that rows of a table stay lines, and its interval stands back.

    >>> _cell("td", "86.0 (82.3–89.1)")
    '<td class="figure">86.0<small> (82.3–89.1)</small></td>'
    """
    if not (found := _FIGURE.fullmatch(text)):
        return f"<{tag}>{escape(text)}</{tag}>"
    figure, interval, rest = (escape(part or "") for part in found.groups())
    return f'<{tag} class="figure">{figure}{interval and f"<small>{interval}</small>"}{rest}</{tag}>'
