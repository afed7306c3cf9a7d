"""What README and docs point to is there, and their examples run."""

import re

import pytest
from committed_results import REPOSITORY, page_of


@pytest.mark.parametrize(("name", "shape"), [("sparse-coding", "[16, 32, 48, 64]"), ("from-sporco", "[2, 8, 48, 64]")])
def test_the_example_of_sparse_coding_runs(name, shape, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", page_of(f"docs/{name}.md"), re.S)
    exec(compile(example, f"docs/{name}.md", "exec"), {})
    assert f"torch.Size({shape})" in capsys.readouterr().out


DOCS = ("decisions", "algorithm", "sparse-coding", "from-sporco", "cluster", "bulk", "scale", "evaluation", "training")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in (*DOCS, "claims"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page_of(page)):
        if "://" not in target:
            assert ((REPOSITORY / page).parent / target).exists(), target


def test_algorithm_page_names_code_and_tests_that_exist():
    tests = re.findall(r"`((?:[a-z_]+/)?test_[a-z_]+\.py)(?:::(\w+))?`", page_of("docs/algorithm.md"))
    assert len(tests) > 20
    for path, name in tests:
        source = (REPOSITORY / "tests" / path).read_text("utf-8")
        assert not name or re.search(rf"(def|class) {name}\b", source), (path, name)
