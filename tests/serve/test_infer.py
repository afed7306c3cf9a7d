"""The Open Inference Protocol: the tensors by themselves, and the endpoint as clients of Triton and KServe see it."""

import json
import tracemalloc
from urllib.parse import urlsplit

import numpy as np
import pytest
from bad_images import encode
from hypothesis import given, settings
from hypothesis import strategies as st

import raypurify
from raypurify.serve.http import Refusal
from raypurify.serve.tensors import MODEL, OUTPUTS, InferLimits, read, write
from serve.endpoint import HEADERS, expected, noisy

httpx = pytest.importorskip("httpx")

LIMITS = InferLimits(json_bytes=100_000, images=4, pixels=5_000, all_pixels=9_000)
TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12))}
LENGTH = "Inference-Header-Content-Length"


def request(tensor=(), **more):
    return {"inputs": [{**TENSOR, **dict(tensor)}], **more}


def body_of(message, binary=b""):
    text = json.dumps(message).encode()
    return text + binary, str(len(text)) if binary else None


def as_binary(size, **more):
    return (
        {key: value for key, value in TENSOR.items() if key != "data"}
        | {"parameters": {"binary_data_size": size}}
        | more
    )


def test_json_flat_nested_and_binary_data_are_the_same_tensor():
    flat, nested = np.arange(24, dtype=np.uint8), np.arange(24).reshape(2, 2, 2, 3).tolist()
    shape = [2, 2, 2, 3]
    for body in (
        body_of(request({"shape": shape, "data": flat.tolist()})),
        body_of(request({"shape": shape, "data": nested})),
        body_of({"inputs": [as_binary(24, shape=shape)], "parameters": None}, flat.tobytes()),
    ):
        np.testing.assert_array_equal(read(*body, LIMITS).images, np.array(nested))
    alone = read(*body_of(request({"shape": [4, 2, 3], "data": flat.tolist()}, id="7")), LIMITS)
    assert (alone.images.shape, alone.shape, alone.id) == ((1, 4, 2, 3), (4, 2, 3), "7")


def test_outputs_are_those_that_are_asked_for_as_they_are_asked_for():
    facts = [{"cluster": 3, "distance": 0.5, "flagged": True, "iterations": 9, "relative_change": 0.25}]
    pixels = [np.full((2, 2, 3), 7, np.uint8)]

    def answered(**more):
        body, length = write(read(*body_of(request(**more)), LIMITS), pixels, facts, "v")
        message, rest = json.loads(body[:length]), body[length:] if length else b""
        for output in message["outputs"]:
            if "data" not in output:
                size = output["parameters"]["binary_data_size"]
                kind = {"UINT8": "u1", "INT32": "<i4", "FP32": "<f4", "BOOL": "?"}[output["datatype"]]
                output["data"], rest = np.frombuffer(rest[:size], kind).tolist(), rest[size:]
        assert rest == b""
        assert message["model_name"] == MODEL
        return {output["name"]: (output["datatype"], output["shape"], output["data"]) for output in message["outputs"]}

    everything = {
        "purified": ("UINT8", [1, 2, 2, 3], [7] * 12),
        "cluster": ("INT32", [1], [3]),
        "distance": ("FP32", [1], [0.5]),
        "flagged": ("BOOL", [1], [True]),
        "iterations": ("INT32", [1], [9]),
        "relative_change": ("FP32", [1], [0.25]),
    }
    assert answered() == answered(parameters={"binary_data_output": True}) == answered(outputs=[]) == everything
    some = [{"name": "flagged"}, {"name": "purified", "parameters": {"binary_data": False}}]
    for parameters in ({}, {"binary_data_output": True}):
        assert [*answered(outputs=some, parameters=parameters)] == ["flagged", "purified"]


WRONG = {
    "no JSON": (b"\x00", None),
    "no object": (b"[]", None),
    "deep": (b"[" * 20_000, None),
    "deep inside": (b'{"inputs":' + b"[" * 4000 + b"]" * 4000 + b"}", None),
    "many lists": (b'{"inputs":[{"data":[' + b"[]," * 20_000 + b"[]]}]}", None),
    "many strings": (b'{"inputs":[{"data":[' + b'"ab",' * 5_000 + b'""]}]}', None),
    "long numbers": (b'{"inputs":[' + b"9" * 5000 + b"]}", None),
    "no input": body_of({"inputs": []}),
    "two inputs": body_of({"inputs": [TENSOR, TENSOR]}),
    "another input": body_of(request({"name": "images"})),
    "another type": body_of(request({"datatype": "FP32"})),
    "no shape": body_of(request({"shape": []})),
    "a flat shape": body_of(request({"shape": [12]})),
    "four channels": body_of(request({"shape": [1, 1, 3, 4]})),
    "nothing": body_of(request({"shape": [0, 2, 2, 3], "data": []})),
    "below nothing": body_of(request({"shape": [-1, -2, 2, 3]})),
    "no whole shape": body_of(request({"shape": [1.0, 2, 2, 3]})),
    "too few numbers": body_of(request({"data": [0] * 11})),
    "no numbers": body_of(request({"data": None})),
    "no whole numbers": body_of(request({"data": [0.5] * 12})),
    "no numbers but truths": body_of(request({"data": [True] * 12})),
    "texts": body_of(request({"data": ["1"] * 12})),
    "large numbers": body_of(request({"data": [256] * 12})),
    "numbers below zero": body_of(request({"data": [-1] * 12})),
    "ragged": body_of(request({"data": [[[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0]]]]})),
    "nested otherwise": body_of(request({"data": [[0] * 12]})),
    "an unknown output": body_of(request(outputs=[{"name": "logits"}])),
    "images beyond all numbers": body_of(request({"shape": [10**40, 10**40, 10**40, 3]})),
    "many images": body_of(request({"shape": [5, 1, 1, 3]})),
    "less binary data": body_of({"inputs": [as_binary(12)]}, bytes(11)),
    "more binary data": body_of({"inputs": [as_binary(12)]}, bytes(13)),
    "binary data of a size below zero": body_of({"inputs": [as_binary(-12)]}, bytes(12)),
    "binary data without a size": body_of(request(), bytes(12)),
    "a length below zero": (json.dumps(request()).encode(), "-1"),
    "a length beyond the body": (json.dumps(request()).encode(), "100000"),
    "a length that is none": (json.dumps(request()).encode(), "²"),
    "a long length": (json.dumps(request()).encode(), "9" * 5000),
}
LARGE = {
    "a claim": body_of(request({"shape": [1, 1_000_000, 1_000_000, 3]})),
    "a claim with binary data": body_of({"inputs": [as_binary(3 * 10**12, shape=[1, 10**6, 10**6, 3])]}, bytes(12)),
    "a claim beyond all numbers": body_of(request({"shape": [1, 10**40, 10**40, 3]})),
    "many pixels": body_of(request({"shape": [2, 100, 50, 3]})),
    "a large image": body_of(request({"shape": [1, 5_001, 1, 3]})),
    "much JSON": (b" " * 100_001, None),
}


@pytest.mark.parametrize("name", WRONG | LARGE)
def test_requests_that_are_none_are_refused_without_memory(name):
    body, length = (WRONG | LARGE)[name]
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as refusal:
            read(body, length, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert refusal.value.status_code == (413 if name in LARGE else 400)
    assert len(refusal.value.detail["message"]) < 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*TENSOR, "parameters"]), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    tensor=st.dictionaries(st.sampled_from([*TENSOR, "parameters"]), ANYTHING | st.just([1, 1, 1, 3])),
    more=st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "inputs"]), ANYTHING),
    binary=st.binary(max_size=12),
    length=st.none() | st.integers(-2, 300).map(str) | st.text(max_size=5),
)
def test_whatever_is_sent_is_read_or_refused(tensor, more, binary, length):
    text = json.dumps(request(tensor) | more).encode()
    for body, given_length in ((text + binary, str(len(text))), (text, None), (text + binary, length)):
        refused = asked = None
        try:
            asked = read(body, given_length, LIMITS)
        except Refusal as refusal:
            refused = refusal
        assert asked is None or asked.images.dtype == np.uint8
        assert refused is None or refused.status_code in (400, 413)
        assert refused is None or json.dumps(refused.detail, ensure_ascii=False).encode()


IMAGES = np.stack([noisy(24, 20, seed=seed) for seed in range(3)])


def check_outputs(bundle, outputs):
    """Outputs by name are those of the same images through the same bundle in this process."""
    for number, image in enumerate(IMAGES):
        wanted, out = expected(bundle, encode(image))
        # A batch may round differently from a single image by one level.
        assert np.abs(np.asarray(outputs["purified"][number]).astype(int) - wanted).max() <= 1
        assert outputs["cluster"][number] == int(out.cluster[0])
        assert outputs["distance"][number] == pytest.approx(float(out.distance[0]), rel=1e-3)
        assert outputs["flagged"][number] == bool(out.flagged[0])
        assert outputs["iterations"][number] > 0


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_runs_unchanged(url, bundle, binary):
    triton = pytest.importorskip("tritonclient.http")
    digest = raypurify.load(bundle).digest
    client = triton.InferenceServerClient(urlsplit(url).netloc)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, digest[:16])
    assert not client.is_model_ready("resnet")
    assert not client.is_model_ready(MODEL, "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["versions"] == [digest[:16]]
    assert [output["name"] for output in metadata["outputs"]] == [*OUTPUTS]
    (described,) = metadata["inputs"]
    image = triton.InferInput(described["name"], [*IMAGES.shape], described["datatype"])
    image.set_data_from_numpy(IMAGES, binary_data=binary)
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    # The client writes into the headers that it is given.
    for outputs, version in ((asked, digest[:16]), (None, "")):
        result = client.infer(MODEL, [image], version, outputs, request_id="7", headers={**HEADERS})
        check_outputs(bundle, {name: result.as_numpy(name) for name in OUTPUTS})
        response = result.get_response()
        assert (response["id"], response["model_version"]) == ("7", digest[:16])
    for headers, name, message in (
        ({}, MODEL, "send the token"),
        ({**HEADERS}, "resnet", "no model is named 'resnet'"),
    ):
        with pytest.raises(triton.InferenceServerException, match=message):
            client.infer(name, [image], headers=headers)
    client.close()


def test_the_wire_format_of_kserve(client, bundle):
    """What its InferenceRESTClient sends and reads."""
    for path, member in (("health/live", "live"), ("health/ready", "ready"), (f"models/{MODEL}/ready", "ready")):
        answer = client.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()[member]) == (200, True)
    binary = {"parameters": {"binary_data_size": IMAGES.nbytes}}
    about = {"name": "image", "shape": [*IMAGES.shape], "datatype": "UINT8"}
    text = json.dumps({"id": "1", "inputs": [about | binary]}).encode()
    octets = {LENGTH: str(len(text)), "content-type": "application/octet-stream"}
    message = {"inputs": [about | {"data": IMAGES.ravel().tolist()}], "parameters": {}, "id": None, "outputs": None}
    for body, headers in (
        (text + IMAGES.tobytes(), octets),
        (json.dumps(message), {"content-type": "application/json"}),
    ):
        answer = client.post(f"/v2/models/{MODEL}/infer", content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
        outputs = {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer.json()["outputs"]}
        check_outputs(bundle, outputs)
    alone = {"inputs": [about | {"shape": [24, 20, 3], "data": IMAGES[0].ravel().tolist()}]}
    (purified,) = client.post(f"/v2/models/{MODEL}/infer", json=alone | {"outputs": [{"name": "purified"}]}).json()[
        "outputs"
    ]
    assert purified["shape"] == [24, 20, 3]


def test_errors_are_those_of_the_protocol(client, small_url):
    path = f"/v2/models/{MODEL}/infer"
    small = small_url + path
    tensor = {"name": "image", "datatype": "UINT8", "shape": [4, 4, 3], "data": [0] * 48}
    many = tensor | {"shape": [3, 8, 8, 3], "data": [0] * 576}
    for answer, status, error in (
        (client.get("/v2/nothing"), 404, "not-found"),
        (client.get("/v2/models/resnet"), 404, "not-found"),
        (client.get(f"/v2/models/{MODEL}/versions/1/ready"), 404, "not-found"),
        (client.get(path), 405, "method-not-allowed"),
        (client.post(f"/v2/models/{MODEL}/versions/1/infer", json={"inputs": [tensor]}), 404, "not-found"),
        (
            client.post(path, content=b"x", headers={"Content-Type": "text/csv"}),
            415,
            "wrong-type",
        ),
        (
            client.post(path, content=b"x", headers={"Content-Encoding": "gzip"}),
            415,
            "wrong-type",
        ),
        (client.post(path, json={"inputs": []}), 400, "bad-request"),
        (httpx.post(small, json={"inputs": [tensor]}), 422, "too-small"),
        (httpx.post(small, json={"inputs": [many]}), 400, "bad-request"),
        (httpx.post(small, content=bytes(300_001)), 413, "too-large"),
        (httpx.post(small, json={"inputs": [tensor]}, headers={"X-Raypurify-Timeout": "x"}), 400, "bad-timeout"),
    ):
        assert answer.status_code == status, answer.text
        assert [*answer.json()] == ["error"]
        assert answer.json()["error"].startswith(f"{error}: ")
