"""The command `textmask serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import RunPath, say
from textmask.errors import ConfigError

MEBI = 1024 * 1024


def serve(
    run: RunPath = Path("default"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the bearer token clients must send."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name that clients may call the service by; repeatable."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="File for the audit log, one JSON object a line.")
    ] = None,
    audit_sentences: Annotated[
        bool,
        typer.Option(
            "--audit-sentences", help="Record sentences as they are, not only their hash."
        ),
    ] = False,
    max_bytes: Annotated[int, typer.Option(help="Of one upload.", min=1024)] = 64 * MEBI,
    max_pixels: Annotated[int, typer.Option(help="Of one picture.", min=1)] = 25_000_000,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more get 429.", min=0)] = 16,
    workers: Annotated[int, typer.Option(help="Threads that decode and segment.", min=1)] = 1,
    keep_minutes: Annotated[
        float, typer.Option(help="After which an unused picture is forgotten.", min=0.1)
    ] = 30.0,
    jobs_root: Annotated[
        Path | None, typer.Option(help="Folder that jobs read from and write to; else none.")
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="Take client addresses from a proxy on this machine."),
    ] = False,
) -> None:
    """Serve a run: an HTTP interface and a web page to try sentences on, on this machine unless told otherwise.

    Example: textmask serve runs/biclip --port 8000
    """
    try:
        from textmask.serve.access import is_loopback
        from textmask.serve.app import create_app
        from textmask.serve.limits import Limits
        from textmask.serve.segmenter import Segmenter
        from textmask.serve.server import listen, server_of
        from textmask.serve.service import ServiceOptions
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"textmask serve needs {error.name}: pip install 'textmask[serve]'."
        ) from error

    token = _token(token_env)
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, so a token is needed: put one into an environment "
            "variable and name it with --token-env."
        )
    if jobs_root is not None and not jobs_root.is_dir():
        raise ConfigError(f"--jobs-root {jobs_root} is no folder.")
    limits = Limits(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        queue=queue,
        workers=workers,
        keep_seconds=keep_minutes * 60,
    )
    hosts = (host, *(allow_host or ()))
    options = ServiceOptions(limits, hosts, token, audit, audit_sentences, jobs_root)
    with listen(host, port) as listener:
        app = create_app(Segmenter(run), options)
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listener.getsockname()[1]}/  Research use only. Stop with Ctrl-C.")
        server_of(app, behind_proxy).run(sockets=[listener])


def _token(variable: str | None) -> str | None:
    """The token in an environment variable, never on the command line, where other users see it."""
    if variable is None:
        return None
    token = os.environ.get(variable, "")
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the environment variable {variable} holds no token of at least 16 printable characters. Make one, e.g. "
            f"with: export {variable}=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
        )
    return token
