"""The command `textmask serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import Device, RunPath, find_run, say
from textmask.errors import ConfigError
from textmask.progress import silenced

MEBI = 1024 * 1024


def serve(
    run: RunPath = Path("default"),
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Addresses other than loopback need a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port. Use 0 to pick a free one.", min=0, max=65535)
    ] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the bearer token that clients must send (default: no token)."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Further host name that clients may use; repeatable (default: none).",
        ),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="Audit log file, JSON Lines (default: none).")
    ] = None,
    audit_sentences: Annotated[
        bool,
        typer.Option(
            "--audit-sentences", help="Record prompts in plain text instead of as hashes."
        ),
    ] = False,
    max_bytes: Annotated[
        int,
        typer.Option(
            help="Maximum size of an upload in bytes (default: 64 MiB).",
            min=1024,
            show_default=False,
        ),
    ] = 64 * MEBI,
    max_pixels: Annotated[
        int, typer.Option(help="Maximum number of pixels per image.", min=1)
    ] = 25_000_000,
    queue: Annotated[
        int,
        typer.Option(help="Maximum number of waiting requests; further ones get 429.", min=0),
    ] = 16,
    workers: Annotated[
        str,
        typer.Option(
            help="Requests that are segmented at the same time: a number, or auto (up to 4 on a CPU, 1 on a GPU)."
        ),
    ] = "auto",
    keep_minutes: Annotated[
        float, typer.Option(help="Minutes before an unused image is evicted.", min=0.1)
    ] = 30.0,
    jobs_root: Annotated[
        Path | None,
        typer.Option(help="Folder that jobs read from and write to (default: no jobs)."),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="Take client addresses from a proxy on this machine."),
    ] = False,
    device: Device = "auto",
) -> None:
    """Serve a run: an HTTP interface and a web page to try prompts, on this machine only by default.

    Example: textmask serve runs/biclip --port 8000
    """
    path = find_run(run).path
    if jobs_root is not None and not jobs_root.is_dir():
        raise ConfigError(f"--jobs-root {jobs_root} is not a directory.")
    token = _token(token_env)

    try:
        from textmask.serve.access import is_loopback
        from textmask.serve.app import create_app
        from textmask.serve.limits import Limits
        from textmask.serve.segmenter import Segmenter
        from textmask.serve.server import listen, server_of
        from textmask.serve.service import ServiceOptions
        from textmask.serve.workers import share_threads, worker_threads
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"textmask serve needs {error.name}: pip install 'textmask[serve]'."
        ) from error

    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, so a token is needed. Set an environment variable "
            "and name it with --token-env."
        )
    at_once, threads = worker_threads(workers, device)
    limits = Limits(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        queue=queue,
        workers=at_once,
        keep_seconds=keep_minutes * 60,
    )
    hosts = (host, *(allow_host or ()))
    options = ServiceOptions(limits, hosts, token, audit, audit_sentences, jobs_root)

    # listen first: a taken port is reported before the model is loaded
    with listen(host, port) as listener:
        share_threads(threads)
        app = create_app(Segmenter(path, device), options)
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listener.getsockname()[1]}/  Research use only. Stop with Ctrl-C.")
        with silenced():
            server_of(app, behind_proxy).run(sockets=[listener])


def _token(variable: str | None) -> str | None:
    """The token in an environment variable; other users can see the command line."""
    if variable is None:
        return None
    token = os.environ.get(variable, "")
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the environment variable {variable} does not contain a token of at least 16 printable characters. "
            f"Create one, for example: export {variable}=$(python -c "
            "'import secrets; print(secrets.token_urlsafe(32))')"
        )
    return token
