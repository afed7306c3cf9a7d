"""A store on this machine as one that is far away: what it is asked arrives so many milliseconds later.

    python benchmarks/far_store.py HOST PORT MILLISECONDS

prints the port at which it listens on 127.0.0.1, and ends with its standard input.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

PART = 1 << 16


async def main(host: str, port: int, seconds: float) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        """Pass on what comes, each part ``seconds`` after it came."""
        parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            data = b"any"
            while data:
                data = await reader.read(PART)
                parts.put_nowait((clock() + seconds, data))

        task = asyncio.create_task(read())
        with contextlib.suppress(OSError):
            while (part := await parts.get())[1]:
                await asyncio.sleep(part[0] - clock())
                writer.write(part[1])
                await writer.drain()
        task.cancel()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, requests, seconds), pump(answers, writer, 0), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # Connections that are open would be complained of.
    os._exit(0)


@contextlib.contextmanager
def far(endpoint: str, milliseconds: float) -> Iterator[str]:
    """The endpoint by which the one at ``endpoint``, HOST:PORT, is so far away."""
    command = [sys.executable, __file__, *endpoint.rsplit(":", 1), str(milliseconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000))
