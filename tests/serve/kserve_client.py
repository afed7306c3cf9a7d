"""KServe's own client against an endpoint, in an environment of its own: ``kserve_client.py URL TOKEN IMAGES OUT``.

IMAGES is a ``.npy`` of uint8 (N, H, W, 3); OUT becomes an ``.npz`` with the outputs of a request in JSON and of one
with binary tensors, by ``json/<name>`` and ``binary/<name>``. Exits with an error where a check of the protocol fails.
"""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "raypurify"


async def main(url: str, token: str, images: np.ndarray, out: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    assert await client.is_server_live(url) is True
    assert await client.is_server_ready(url) is True
    assert await client.is_model_ready(url, MODEL) is True
    assert await client.is_model_ready(url, "resnet") is False
    found = {}
    for kind in ("json", "binary"):
        image = InferInput("image", [*images.shape], "UINT8")
        image.set_data_from_numpy(images, binary_data=kind == "binary")
        request = InferRequest(model_name=MODEL, infer_inputs=[image], request_id="7")
        response = await client.infer(url, request, MODEL, headers={"Authorization": f"Bearer {token}"})
        assert (response.id, response.model_name) == ("7", MODEL)
        found |= {f"{kind}/{output.name}": output.as_numpy() for output in response.outputs}
        await refused(client.infer(url, request, MODEL), "send the token")
    np.savez(out, **found)
    await client.close()


async def refused(asked, message: str) -> None:
    try:
        await asked
    except httpx.HTTPStatusError as error:
        if message in str(error):
            return
        raise
    raise AssertionError(f"was not refused: {message}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], np.load(sys.argv[3]), sys.argv[4]))
