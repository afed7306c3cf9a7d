"""Names of the files that bundles keep; each has those that its method lists (``methods.contract.Method.files``)."""

NETWORK, DISTRIBUTIONS, DICTIONARIES, ENCODER, STRATA, DECODER = (
    f"{name}.safetensors" for name in ("network", "distributions", "dictionaries", "encoder", "strata", "decoder")
)
