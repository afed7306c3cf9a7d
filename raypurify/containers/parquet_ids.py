"""The ids of Parquet files: a column that names the rows, where it can."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypurify.containers.contract import Listing
from raypurify.containers.look import Look
from raypurify.containers.packed import keyed
from raypurify.containers.plain_types import plain_type
from raypurify.errors import SourceError
from raypurify.storage import Place


def ids_in(file: pq.ParquetFile, place: Place, column: str) -> pa.Array:
    """The column of ids as texts. Raises SourceError where it cannot name rows."""
    kind = plain_type(file.schema_arrow.field(column).type)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(f"{place}: column {column!r} is {kind}; expected strings or integers")
    held = file.read(columns=[column])[column]
    if held.null_count:
        raise SourceError(f"{place}: column {column!r} has {held.null_count} empty rows; every row needs an id")
    return pa.concat_arrays([pa.array([], pa.large_string()), *pc.cast(held, pa.large_string()).chunks])


def own_ids(listing: Listing, looks: Mapping[str, Look]) -> bool:
    """Whether the ids that files hold name their rows. Raises SourceError where they do not and the job asks for
    labels, which one learns from or measures by, or names the column."""
    insists = listing.asked.labels or listing.asked.id_column is not None
    refused = next((one.facts["ids"] for one in looks.values() if "ids" in one.facts), None)
    if refused is not None:
        if insists:
            raise SourceError(refused)
        return False
    if not any("ids" in one.arrays for one in looks.values()):
        return True
    ids = pa.chunked_array(
        [
            one.arrays["ids"]
            if "ids" in one.arrays
            else pa.array([f"{key}-{row}" for row in range(one.rows)], pa.large_string())
            for key, _, one in keyed(listing, looks)
        ]
    )
    if pc.count_distinct(ids).as_py() == len(ids):
        return True
    if not insists:
        return False
    counted = pc.value_counts(ids)
    first = counted.filter(pc.greater(counted.field("counts"), 1))[0].as_py()
    raise SourceError(f"{listing.root}: the id {first['values']!r} appears {first['counts']} times; ids must be unique")
