"""How proxy, ingress and replicas ask each other: by gRPC, which costs less than calls of actors and has limits."""

import os

from raypurify.errors import ConfigError

# What every node's environment should hold before Ray is started on it. Without the second an image, or an answer, of
# more than 4 MiB would not pass.
GRPC = {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str((1 << 31) - 1)}


def check_hops() -> None:
    """Raises ConfigError where this node's environment asks for gRPC and leaves its limit as small as it is."""
    switch, limit = GRPC
    if os.environ.get(switch) == "1" and int(os.environ.get(limit, 0)) < int(GRPC[limit]):
        raise ConfigError(
            f"{switch}=1 lets no image of more than 4 MiB through by itself; set "
            f"{limit}={GRPC[limit]} too where nodes are started, or neither"
        )
