"""The endpoint against its own OpenAPI schema: whatever is sent, every answer is one that the schema describes."""

import pytest
from bad_images import broken_images, encode, odd_images
from hypothesis import HealthCheck, given, settings
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


CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            # No schema says which bytes are an image.
            "positive_data_acceptance": {"enabled": False},
            # Arguments that nobody knows are let pass.
            "negative_data_rejection": {"enabled": False},
            # A caller may ask for an answer within no time.
            "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "504"]},
        }
    }
)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_described(url, mode):
    described = schemathesis.openapi.from_url(f"{url}/openapi.json", config=CONFIG)
    for operation in (result.ok() for result in described.get_all_operations()):
        if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
            continue  # there is nothing to get wrong

        @settings(max_examples=20, deadline=None, suppress_health_check=[*HealthCheck])
        @given(operation.as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(headers=HEADERS, timeout=60)

        check()
