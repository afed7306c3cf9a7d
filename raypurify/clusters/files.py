"""The files of clusters: one for each class while a fit clusters, then three for all, which training reads.

    class-NNNNN.safetensors    rows (n,), labels (n,), the curve of WCSS at ks; means, factors, rest, singular, squares
                               (see ``Estimates``); of a class in blocks also its sums, within.* and total.*
    clusters.json              form, cluster_class (K,), sizes (K,), wcss: a curve for each class
    distributions.safetensors  the state of ``ClusterDistributions``, float32
    cluster_of_row.npy         the cluster of every row of the source, int64; −1: not a training image

``write_class`` and ``write_clusters`` make them; no one else knows their names.
"""

import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raypurify.clusters.class_clusters import ClassClusters, ClassSums
from raypurify.clusters.distributions import ClusterDistributions
from raypurify.clusters.estimates import Estimates
from raypurify.clusters.scatter import Scatter
from raypurify.errors import TrainingError, of_file
from raypurify.files import DAMAGED_ZIP, reading
from raypurify.storage import Place, Where, resolve

FACTS, DISTRIBUTIONS, OF_ROW = "clusters.json", "distributions.safetensors", "cluster_of_row.npy"


class ClassLabels(NamedTuple):
    """The part of a class's file that is not distributions.

    ``rows`` (n,) and their ``labels`` (n,), the ``curve`` of WCSS by number of clusters, how many ``clusters`` there
    are, the most ``axes`` of one, and whether one is ``singular``.
    """

    rows: np.ndarray
    labels: np.ndarray
    curve: dict[int, float]
    clusters: int
    axes: int
    singular: bool


def class_path(folder: Place, label: int) -> Place:
    """The file of a class's clusters.

    >>> class_path(resolve("clusters"), 7).name
    'class-00007.safetensors'
    """
    return folder / f"class-{label:05d}.safetensors"


def write_class(file: Place, found: ClassClusters) -> None:
    """Write the clusters of a class in one step, floats as float32 where only distances need them."""
    estimates = found.estimates
    sums = _to_tensors("within", found.sums.within) | _to_tensors("total", found.sums.total) if found.sums else {}
    tensors = sums | {
        "rows": found.rows,
        "labels": found.labels,
        "ks": np.array(found.ks),
        "curve": np.array(found.curve),
        "means": estimates.means.astype(np.float32),
        "factors": estimates.factors.astype(np.float32),
        "rest": estimates.rest.astype(np.float32),
        "squares": np.array(estimates.squares),
        "singular": estimates.singular.astype(np.uint8),
    }
    file.write(save(tensors))


def read_labels(file: Place) -> ClassLabels:
    """Read what a class's file says of its rows. Raises SourceError naming the file where it is damaged."""
    with reading(file):
        tensors = load(file.read())
        rows, labels, ks, curve, singular = (tensors[name] for name in ("rows", "labels", "ks", "curve", "singular"))
        axes, steps = tensors["factors"].shape[1], dict(zip(ks.tolist(), curve.tolist()))
        return ClassLabels(rows, labels, steps, len(singular), axes, bool(singular.any()))


def read_estimates(file: Place) -> Estimates:
    """Read the distributions of a class's clusters, float32. Raises SourceError naming the file where it is damaged."""
    with reading(file):
        tensors = load(file.read())
        singular, squares = tensors["singular"].astype(bool), float(tensors["squares"])
        return Estimates(tensors["means"], tensors["factors"], tensors["rest"], singular, squares)


def read_sums(file: Place) -> ClassSums | None:
    """Read the sums of a class; None where the file has none, because the class fitted in memory. Raises SourceError
    naming the file where it is damaged."""
    with reading(file):
        tensors = load(file.read())
        if "total.mean" not in tensors:
            return None
        return ClassSums(*(_from_tensors(prefix, tensors) for prefix in ("within", "total")))


def write_clusters(
    folder: Where,
    form: str,
    state: dict[str, np.ndarray],
    cluster_of_row: np.ndarray,
    cluster_class: list[int],
    sizes: np.ndarray,
    curves: list[dict[int, float]],
) -> None:
    """Write the three files of all clusters into ``folder``, the module's docstring says which."""
    folder = resolve(folder)
    facts = {"form": form, "cluster_class": cluster_class, "sizes": sizes.tolist(), "wcss": curves}
    (folder / DISTRIBUTIONS).write(save(state))
    write_labels(folder, cluster_of_row)
    (folder / FACTS).write(json.dumps(facts).encode())


def load_clusters(folder: Where) -> tuple[ClusterDistributions, np.ndarray]:
    """Read the distributions, and the global cluster index of every source row (−1: not a training image).

    Raises TrainingError naming the folder where a file is missing or damaged.
    """
    file = folder
    try:
        place = resolve(folder)
        file = place / FACTS
        form = json.loads(file.read())["form"]
        file = place / DISTRIBUTIONS
        distributions = ClusterDistributions.from_state(safetensors.torch.load(file.read()), form=form)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise _unreadable(file, e) from e
    return distributions, load_labels(place)


def load_labels(folder: Where) -> np.ndarray:
    """Read the global cluster index of every source row, (rows,) int64; −1: not a training image.

    Raises TrainingError naming the folder where the file is missing or damaged.
    """
    file = resolve(folder) / OF_ROW
    try:
        found = np.load(io.BytesIO(file.read()), allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind != "i":
            raise ValueError("it holds no row of whole numbers")
    except (OSError, ImportError, *DAMAGED_ZIP) as e:
        raise _unreadable(file, e) from e
    return found


def write_labels(folder: Where, cluster_of_row: np.ndarray) -> None:
    """Write the file that ``load_labels`` reads."""
    rows = io.BytesIO()
    np.save(rows, cluster_of_row)
    (resolve(folder) / OF_ROW).write(rows.getvalue())


def _unreadable(file: Where, error: Exception) -> TrainingError:
    return TrainingError(
        f"cannot read the clusters in {file}: {of_file(error)}; give the clusters folder of a fit, or delete it there "
        "and run the fit again"
    )


def _to_tensors(prefix: str, sums: Scatter) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": np.asarray(value) for name, value in sums._asdict().items()}


def _from_tensors(prefix: str, tensors: dict[str, np.ndarray]) -> Scatter:
    values: Iterator[Any] = (tensors[f"{prefix}.{name}"] for name in Scatter._fields)
    return Scatter(*(value if value.ndim else value.item() for value in values))
