"""What of an input is passed over: the reasons it is counted by, and how they are told to people."""

import posixpath
import re

from raypurify.containers.rows import IMAGE_SUFFIXES

# Names that say image: what is not read of them is worth a word.
_UNREAD = (
    ".heic .heif .hif .avif .jxl .jp2 .j2k .jpx .jxr .tga .psd .svg .exr .hdr .ico .icns .pcx .dds .qoi .apng .xcf "
    ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf"
)
UNREAD_SUFFIXES = frozenset(_UNREAD.split()) - IMAGE_SUFFIXES
_UNREAD_IMAGES = "images that are not read"
_HEIC = " (`pip install 'raypurify[heic]'` on every node)"
_REMEDIES = {
    ".arrow files": " (in Python `datasets.load_from_disk(FOLDER).to_parquet('x.parquet')` writes one that is read)",
    "links to folders": " (--follow-links reads them)",
    "links in tars": " (`tar --dereference` packs what they lead to)",
    f".avif {_UNREAD_IMAGES}": " (`pip install 'pillow>=11.3'` on every node)",
    **{f"{suffix} {_UNREAD_IMAGES}": _HEIC for suffix in (".heic", ".heif", ".hif")},
}
_SHOWN_REASONS = 8


def suffix_reason(path: str) -> str:
    """The reason by which a file is counted that no container reads.

    >>> suffix_reason("a/1.HEIC.txt"), suffix_reason("a/1.JXL"), suffix_reason("a/1")
    ('.txt files', '.jxl images that are not read', 'files without a suffix')
    """
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in UNREAD_SUFFIXES:
        return f"{suffix} {_UNREAD_IMAGES}"
    if not suffix:
        return "files without a suffix"
    # Numbers and texts after a dot are no suffixes, and may be as many as there are files.
    return f"{suffix} files" if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9]{1,8}", suffix) else "other files"


def passed_over_text(ignored: dict[str, int]) -> str:
    """What was passed over of an input, for people: the most frequent reasons, and what to do where there is something.

    >>> passed_over_text({".txt files": 2, "links to folders": 1})
    '2 .txt files, 1 links to folders (--follow-links reads them)'
    """

    def rank(reason: str) -> tuple[bool, int]:
        # Links may be whole classes, however few they are.
        return not (reason.startswith("links") or reason.endswith(_UNREAD_IMAGES)), -ignored[reason]

    urgent = [reason for reason in ignored if not rank(reason)[0]]
    most = sorted(ignored, key=rank)
    count = max(_SHOWN_REASONS, len(urgent))
    shown = [f"{ignored[reason]:,} {reason}{_REMEDIES.get(reason, '')}" for reason in sorted(most[:count])]
    rest = sum(ignored[reason] for reason in most[count:])
    return ", ".join(shown + [f"{rest:,} others"] * bool(rest))
