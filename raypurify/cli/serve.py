"""The command of the endpoint: ``raypurify serve``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from raypurify.cli.options import Address


def serve(
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name, a folder or a URI.")] = "cifar10",
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no token; on loopback only.")] = False,
    known_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which --no-auth may be called, beside loopback; may be repeated."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token on each line, instead of $RAYPURIFY_TOKEN.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of a replica: cpu, cuda.")] = "cpu",
    replica_cpus: Annotated[float, typer.Option(help="CPUs of a replica, which are also its threads.", min=0)] = 1,
    replica_gpus: Annotated[
        float | None, typer.Option(help="GPUs of a replica, or a part of one; default: 1 for --device cuda.", min=0)
    ] = None,
    min_replicas: Annotated[int, typer.Option(help="Replicas when there is nothing to do.", min=0)] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(help="Replicas when there is much to do; default: what the CPUs allow, 4 on GPUs.", min=1),
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest image; default 4,000,000 pixels.", min=1)] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest body of a request; default 16 MiB.", min=1)] = None,
    batch_pixels: Annotated[
        int | None, typer.Option(help="Pixels purified together; default 2^14 on a CPU, 2^20 on a GPU.", min=1)
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until callers get an answer; default 60.")] = None,
    job_root: Annotated[
        list[str] | None,
        typer.Option(help="Folder or URI below which jobs may read and write; may be repeated. None: no jobs."),
    ] = None,
    address: Address = None,
) -> None:
    """Serve purification over HTTP: POST /v1/purify. Requests carry a token of $RAYPURIFY_TOKEN as a bearer token."""
    from raypurify.serve import run

    # Processes that Ray starts inherit the environment, and need no token.
    text = os.environ.pop("RAYPURIFY_TOKEN", "")
    if token_file is not None:
        text = _token_text(token_file)
    tokens = [line for line in text.splitlines() if line.strip()]
    if not no_auth and not tokens:
        if token_file is not None:
            raise typer.BadParameter(
                f"{token_file} holds no token: write one on a line, e.g. the output of `openssl rand -hex 16`",
                param_hint="--token-file",
            )
        raise typer.BadParameter(
            "no token: set RAYPURIFY_TOKEN, e.g. to the output of `openssl rand -hex 16`, or pass --no-auth",
            param_hint="RAYPURIFY_TOKEN",
        )
    if replica_gpus is None:
        replica_gpus = 1 if device.startswith("cuda") else 0
    chosen = {
        "max_replicas": max_replicas,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
        "batch_pixels": batch_pixels,
        "timeout_s": timeout,
        "job_roots": job_root,
        "known_hosts": known_host,
    }
    run(
        bundle,
        host=host,
        port=port,
        token=None if no_auth else tokens,
        address=address,
        replica_cpus=replica_cpus,
        replica_gpus=replica_gpus,
        device=device,
        min_replicas=min_replicas,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _token_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}; check the path", param_hint="--token-file") from error
