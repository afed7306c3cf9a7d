"""Links on disks below the paths of a job: none that is there before its work, or comes into the output during it, may
lead it out of the job roots."""

import os
from collections.abc import Callable, Iterator, Sequence

from raypurify.errors import ConfigError
from raypurify.serve.jobs.roots import admit, on_disk
from raypurify.storage import Place, within, write_through_no_link


def check_inputs(paths: Sequence[str], roots: Sequence[str]) -> None:
    """Raises ConfigError where below local ``paths`` a link leads to a file outside of the ``roots``; links to folders
    are passed over by jobs, and stores have none."""
    for path in filter(on_disk, paths):
        for link in _links_to_files(path):
            if not any(within(Place(link), Place(root)) for root in roots if on_disk(root)):
                raise ConfigError(f"{link}: a link that leads out of the job roots; put the file there, or remove it")


def bound_output(output: str, roots: Sequence[str]) -> None:
    """Let this process, and those it sends places to, write a local ``output`` through no link below its root. Raises
    Refused where it lies below no root."""
    if on_disk(output):
        write_through_no_link(admit(output, roots, output=True).root)


def check_output(output: str, roots: Sequence[str]) -> None:
    """Raises ConfigError where at, above or below a local ``output`` that was admitted there is a link, wherever it
    leads: jobs write none, and would write through it. Raises Refused where it lies below no root any more."""
    if not on_disk(output):
        return
    if admit(output, roots, output=True).uri != output:
        raise ConfigError(f"{output}: a link has come into this path; remove it, or choose another output")

    def unlisted(error: OSError) -> None:
        # What cannot be listed can be written to by those who know a name there.
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise ConfigError(f"{output}: cannot be searched for links ({error.strerror}); choose another output")

    for entry in _entries(output, unlisted):
        if entry.is_symlink():
            raise ConfigError(f"{entry.path}: a link in the output; remove it, or choose another output")


def _links_to_files(path: str) -> Iterator[str]:
    if os.path.islink(path) or os.path.isfile(path):
        yield path
    # What cannot be listed the job cannot read, and says so.
    for entry in _entries(path, lambda error: None):
        if entry.is_symlink() and not os.path.isdir(entry.path):
            yield entry.path


def _entries(path: str, unlisted: Callable[[OSError], None]) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder; links are not followed."""
    waiting = [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    yield entry
        except OSError as error:
            unlisted(error)
