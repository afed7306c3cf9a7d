"""The fast tests under every supported Python, and without the extras: ``make matrix``. CI knows one Python.

Interpreters are those on PATH; a missing one is skipped. Every session installs its own environment of about 2.2 GB:

    make matrix                              all of it
    make matrix ARGS="-s quick-3.12"         one of it
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

# What differs between versions: importing everything, the doctests, compiled kernels, files in and out.
QUICK = ("tests/test_structure.py", "tests/test_config.py", "tests/csc", "tests/containers")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def quick(session: nox.Session) -> None:
    """The doctests, and the tests of what differs most between versions."""
    session.install("--editable", ".[test]")
    session.run("pytest", *(session.posargs or QUICK))
    session.run("pytest", "--doctest-modules", "raypurify", "--ignore-glob", "raypurify/csc/_gpu_*.py")


@nox.session(python="3.11")
def no_extras(session: nox.Session) -> None:
    """The fast tests with nothing but raypurify and pytest: what needs more must skip, and say what it needs."""
    session.install(".", "pytest", "pytest-timeout", "pytest-xdist")
    session.run("pytest", "-rs", *(session.posargs or ["tests", "-n", "2", "--dist", "loadfile"]))
