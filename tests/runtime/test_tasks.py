"""Many calls as tasks: results in order, errors as they are, and an item that kills its process is told."""

import os

import pytest

from raypurify.errors import SourceError
from raypurify.runtime.tasks import in_tasks


def test_results_are_in_order_and_a_death_costs_its_item(local_ray):
    # Inside, so that it travels by value: the workers do not know this module.
    def work(item):
        if item == 13:
            os.abort()
        if item == 99:
            raise SourceError("99 it is")
        return item * 2

    bundles = [range(k, k + 5) for k in range(0, 25, 5)]
    found = list(in_tasks(work, bundles, lambda item, why: f"lost {item}"))
    assert found == [f"lost {k}" if k == 13 else 2 * k for k in range(25)]
    with pytest.raises(SourceError, match="99 it is"):
        list(in_tasks(work, [[1], [99]], lambda item, why: ""))
