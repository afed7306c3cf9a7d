"""What the names of a tar's members say: which make a sample, which of these are its images, which are no part of any.

WebDataset's rule: the key is the path up to the first dot of the file name, the rest is the extension, and its last
part says what a member is. So every member is an image whose extension ends in that of an image file, unless a word
before that says that it is a mask, or the extensions of the images are named.
"""

import posixpath
import re
from collections.abc import Sequence

from raypurify.containers.rows import IMAGE_SUFFIXES
from raypurify.errors import SourceError

# Image files of this kind hold no picture of anything: `7.seg.png`, `7.left.depth_map.png`.
MASKS = frozenset(
    ("mask", "masks", "seg", "segm", "segmap", "segmentation", "semantic", "instance", "instances", "panoptic")
    + ("label", "labels", "annotation", "annotations", "trimap", "matte", "edges", "heatmap")
    + ("depth", "disp", "disparity", "normals", "flow")
)
_NOTES = frozenset(("readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"))
_NOTE_SUFFIXES = frozenset(("", ".md", ".txt", ".rst", ".html", ".pdf", ".cff", ".bib"))


def suffix_of(name: str) -> tuple[str, str]:
    """``(key, extension)`` of a member's name.

    >>> suffix_of("a.b/7.seg.png")
    ('a.b/7', '.seg.png')
    """
    folder, base = posixpath.split(name)
    stem, dot, rest = base.partition(".")
    return posixpath.join(folder, stem), dot + rest


def is_image(suffix: str, named: str | None = None) -> bool:
    """Whether a member of this extension is an image; ``named`` are the only ones that are, as
    :func:`named_members` gives them.

    >>> [is_image(suffix) for suffix in (".jpg", ".left.PNG", ".2.jpg", ".seg.png", ".semantic_mask.png", ".txt")]
    [True, True, True, False, False, False]
    >>> is_image(".seg.png", "jpg,seg.png"), is_image(".left.jpg", "jpg,seg.png")
    (True, False)
    """
    suffix = suffix.lower()
    if named is not None:
        return suffix[1:] in named.split(",")
    return is_image_file(suffix) and not MASKS & set(re.split("[^a-z]+", suffix.rpartition(".")[0]))


def is_image_file(suffix: str) -> bool:
    """Whether an extension ends in that of an image file, be it a mask."""
    return posixpath.splitext(f"x{suffix}")[1].lower() in IMAGE_SUFFIXES


def named_members(text: str) -> str:
    """The extensions that a user names, one or several with commas between them, in one form. Raises SourceError where
    there is none.

    >>> named_members(".JPG"), named_members("right.png, left.png")
    ('jpg', 'left.png,right.png')
    """
    names = sorted({name.strip().lower().removeprefix(".") for name in text.split(",")} - {""})
    if not names:
        raise SourceError(f"--image-member {text!r} names no extension; give e.g. jpg, or left.png,right.png")
    return ",".join(names)


def is_hidden(name: str) -> bool:
    """Whether a member is what an operating system leaves: a name with a dot in front, ``__MACOSX``, ``Thumbs.db``.

    >>> is_hidden("./a/._7.jpg"), is_hidden("__MACOSX/7.jpg"), is_hidden("./a/7.jpg")
    (True, True, False)
    """
    base = posixpath.basename(name)
    return base.startswith(".") or base.lower() in ("thumbs.db", "desktop.ini") or "__MACOSX" in name.split("/")


def is_note(key: str, suffixes: Sequence[str]) -> bool:
    """Whether a sample of no image is a text about the set: ``README.md``, ``LICENSE``."""
    return posixpath.basename(key).lower() in _NOTES and all(suffix.lower() in _NOTE_SUFFIXES for suffix in suffixes)


def output_suffixes(suffixes: Sequence[str], images: Sequence[int], suffix: str) -> dict[int, str]:
    """The extension in the output of each of the ``images`` among the members of a sample: its last part becomes
    ``suffix``. Where two would meet, the one that has it already keeps it, the others get it behind their own.

    >>> output_suffixes([".left.jpg", ".right.png", ".jpg", ".png"], [0, 1, 2, 3], ".png")
    {1: '.right.png', 3: '.png', 0: '.left.png', 2: '.jpg.png'}
    """
    taken = {other for number, other in enumerate(suffixes) if number not in images}
    plain = {number: suffixes[number].rpartition(".")[0] + suffix for number in images}
    found: dict[int, str] = {}
    for number in sorted(images, key=lambda number: (plain[number] != suffixes[number], number)):
        name = plain[number]
        if name in taken:
            name = suffixes[number] + suffix
        while name in taken:
            name += suffix
        taken.add(name)
        found[number] = name
    return found


def stem_of(path: str) -> str:
    """The path of a tar without what says that it is one, compressed or not.

    >>> stem_of("a.b/c.tar"), stem_of("c.TAR.gz"), stem_of("c.d.tgz")
    ('a.b/c', 'c', 'c.d')
    """
    stem, suffix = posixpath.splitext(path)
    return stem[:-4] if suffix.lower() != ".tar" and stem.lower().endswith(".tar") else stem


def path_within(outer: str, name: str) -> str:
    """The path of a member ``name`` of a tar, as if the tar were the folder ``outer``, and never outside of it.

    >>> path_within("a/train", "./../n01.tar")
    'a/train/n01.tar'
    """
    return "/".join((outer, *(part for part in name.split("/") if part not in ("", ".", ".."))))
