"""The pages of the site: each is in the navigation, and links between them lead somewhere."""

import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site():
    """The modules of docs/ that need no Sphinx."""
    sys.path.insert(0, str(REPOSITORY / "docs"))
    import docstrings
    import navigation
    import reference

    yield docstrings, navigation, reference
    sys.path.remove(str(REPOSITORY / "docs"))


def test_every_page_and_every_room_is_in_the_navigation(site):
    _, navigation, reference = site
    text = navigation.navigation(REPOSITORY, list(reference.rooms()))
    entries = re.findall(r"^[\w/.-]+$", text, re.M)
    assert len(entries) == len(set(entries))
    pages = {str(page.relative_to(REPOSITORY).with_suffix("")) for page in PAGES} - {"README"}
    folders = {path.parent.name for path in (REPOSITORY / "raypurify").glob("*/__init__.py")}
    folders -= {"presets", "bundles", "examples"}
    assert pages | {f"docs/api/raypurify.{room}" for room in folders} <= set(entries)


def anchors(page: Path) -> set[str]:
    """The names that file viewers and the site give to headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_docstrings_become_what_sphinx_reads(site):
    docstrings, _, _ = site
    text = ["One |x|.", "", "    a  ``b|c``", "", "    d", "", ">>> f(a|b)", "", "Codes of ``n``² rows."]
    assert docstrings.as_rst(text) == [
        *("One \\|x\\|.", "", "::", "", "    a  ``b|c``", "", "    d", "", ">>> f(a|b)", ""),
        "Codes of ``n``\\ ² rows.",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_endpoint_that_a_page_starts_has_a_token_or_needs_none(page):
    text = page.read_text("utf-8")
    for command in re.findall(r"raypurify serve --[^`\n]*", text):
        assert "--no-auth" in command or "export RAYPURIFY_TOKEN=" in text[: text.index(command)], command
