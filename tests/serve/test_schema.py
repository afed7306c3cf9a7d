"""The endpoint against its own OpenAPI schema: whatever is sent, every answer is one that the schema describes."""

import pytest
from bad_images import broken_images, encode, odd_images
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from serve.endpoint import HEADERS, noisy

httpx = pytest.importorskip("httpx")
schemathesis = pytest.importorskip("schemathesis")

FILES = [encode(noisy(24, 20)), encode(noisy(24, 20), "JPEG"), encode(noisy(24, 20), "WEBP")]
FILES += [data for data, _ in (odd_images() | broken_images()).values() if len(data) < 10_000]


@st.composite
def damaged(draw):
    """Bytes of an image file in which some are others, or missing."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for place in draw(st.lists(st.integers(0, max(0, len(data) - 1)), max_size=4)):
        if data:
            data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([None, None, len(data) // 2, 12]))])


for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, damaged() | st.binary(max_size=64))


@pytest.fixture(scope="package")
def described(url):
    """The schema of the running endpoint."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")
# No schema says which bytes are an image.
EXCLUDED = [schemathesis.checks.positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=[*HealthCheck])
def test_every_answer_is_described(case):
    case.call_and_validate(headers=HEADERS, excluded_checks=EXCLUDED, timeout=60)
