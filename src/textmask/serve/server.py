"""Listens with uvicorn."""

from __future__ import annotations

import socket

import uvicorn

from textmask.errors import ConfigError
from textmask.serve.guard import Guard

BACKLOG = 512  # connections that may wait to be accepted
STOP_SECONDS = 10  # for requests that run when the service is asked to stop


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, given to `server_of(...).run(sockets=[...])`; port 0 takes a free one.

    Raises:
        ConfigError: the address or port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP: only then asyncio turns Nagle's algorithm off, which holds every answer back for 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}). Take another."
        ) from error
    return listener


def server_of(app: Guard, behind_proxy: bool = False) -> uvicorn.Server:
    """A server that answers when its `run(sockets=[listening])` is called, until interrupted.

    Args:
        app: what `create_app` made.
        behind_proxy: take the client's address from X-Forwarded-For of a proxy on this machine.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would keep the sentences of links
            server_header=False,
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=16 * 1024,
            ws="none",
            lifespan="on",
        )
    )
