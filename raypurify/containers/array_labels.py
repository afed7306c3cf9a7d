"""Which array holds the labels of an array of images: the one that is named after it, or the one for all beside it."""

import re
from collections.abc import Mapping

from raypurify.containers.npy import Array

LABELS = ("labels", "label", "targets", "y")
_IMAGES = re.compile(r"(?<![a-zA-Z])(?:images?|imgs?|data|x)(?![a-zA-Z])", re.IGNORECASE)
_NUMBERED = re.compile(r"arr_(\d+)")


def names_of_labels(name: str) -> list[str]:
    """Where the labels of an array of images may stand, the surest first. Names have no suffix.

    >>> names_of_labels("fog")[:2], names_of_labels("fog")[-4:]
    (['fog_labels', 'fog_label'], ['labels', 'label', 'targets', 'y'])
    >>> "y_test" in names_of_labels("x_test"), "a/test_labels" in names_of_labels("a/test_images")
    (True, True)
    """
    folder, _, stem = name.rpartition("/")
    names = [f"{stem}_{word}" for word in LABELS]
    if found := _IMAGES.search(stem):
        names += [stem[: found.start()] + word + stem[found.end() :] for word in LABELS]
    if found := _NUMBERED.fullmatch(stem):
        # As numpy.savez(file, images, labels) names them.
        names.append(f"arr_{int(found[1]) + 1}")
    return [f"{folder}/{one}" if folder else one for one in (*names, *LABELS)]


def labels_for(name: str, rows: int, labels: Mapping[str, Array]) -> tuple[str | None, str | None]:
    """The one of the arrays of ``labels`` that holds those of so many images; and where there is none, the first that
    has the right name, and another length."""
    known = [one for one in dict.fromkeys(names_of_labels(name)) if one in labels and one != name]
    return next((one for one in known if labels[one].shape[0] == rows), None), next(iter(known), None)
