"""Docstrings as they are written here, made reStructuredText: for editors and ``help()`` they are plain text."""

import re
from itertools import groupby

_AFTER_A_LITERAL = " \n'\")]}>-/\\:.,;!?"


def as_rst(lines: list[str]) -> list[str]:
    r"""The lines of a docstring with indented blocks as listings, bars that are norms, and letters beside literals.

    >>> as_rst(["Files:", "", "    a.b   |what|", "", "A norm |x| of ``n``² images."])
    ['Files:', '', '::', '', '    a.b   |what|', '', 'A norm \\|x\\| of ``n``\\ ² images.']
    """
    done, before = [], ""
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        block = list(group)
        if not blank:
            plain = before.endswith("::") or block[0].lstrip().startswith((">>>", ".. "))
            indented = all(line.startswith("    ") for line in block)
            listing = before and indented and not before.startswith((":", " ", "*"))
            before = block[-1] if not (plain or listing) else before
            if listing and not plain:
                # Several blocks in a row are one listing.
                block = block if done[-2:-1] and done[-2].startswith("    ") else ["::", "", *block]
            elif not plain:
                block = _prose("\n".join(block)).split("\n")
        done += block
    return done


def _prose(text: str) -> str:
    parts = text.split("``")
    for i, part in enumerate(parts):
        if i % 2 == 0:
            beside = i and part and part[0] not in _AFTER_A_LITERAL
            parts[i] = ("\\ " if beside else "") + re.sub(r"(?<!\\)\|", r"\\|", part)
    return "``".join(parts)
