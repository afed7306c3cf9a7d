"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A port of the loopback interface that nobody listens on.

    It lies below those that Linux gives to outgoing connections: one of these may be taken by any process in the
    seconds until the server that it was found for listens.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
