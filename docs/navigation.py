"""The navigation of the site. A new page of docs/ is in it by itself; to give it another place, name it here."""

from pathlib import Path

SERVING = ("serve", "serve-api", "serve-jobs", "serve-operations")
USE = (
    "command-line",
    "bulk",
    *SERVING,
    "libraries",
    "bundles",
    "training",
    "evaluation",
    "results",
    "observability",
    "sparse-coding",
    "from-sporco",
    "cluster",
)
WHY = ("algorithm", "claims", "clusters", "scale", "three-hosts", "decisions")


def navigation(root: Path, rooms: list[str]) -> str:
    """The site's table of contents, as MyST at the end of the first page."""
    pages = [page.stem for page in sorted((root / "docs").glob("*.md"))]
    rest = [f"docs/{page}" for page in pages if page not in USE + WHY]
    return (
        _part("Use", ["Start <self>", "examples/README", *(f"docs/{page}" for page in USE)])
        + _part("How and why", [*(f"docs/{page}" for page in WHY), *rest, "CONTRIBUTING", "CHANGELOG"])
        + _part("API", [f"docs/api/{room}" for room in rooms])
    )


def _part(caption: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
