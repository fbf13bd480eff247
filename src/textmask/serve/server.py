"""Run the application with uvicorn."""

from __future__ import annotations

import socket

import uvicorn

from textmask.errors import ConfigError
from textmask.serve.guard import Guard

BACKLOG = 512  # connections that may wait to be accepted
STOP_SECONDS = 10  # for running requests when the service stops


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket for `server_of(...).run(sockets=[...])`.

    Args:
        host: address or name.
        port: 0 picks a free port.

    Raises:
        ConfigError: the address or the port is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    # with the protocol named, asyncio disables Nagle's algorithm, which would delay every response by 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}). Choose another."
        ) from error
    return listener


def server_of(app: Guard, behind_proxy: bool = False) -> uvicorn.Server:
    """A server for an application; its `run(sockets=[listening])` serves until interrupted.

    Args:
        app: the application of `create_app`.
        behind_proxy: take the client's address from X-Forwarded-For of a proxy on this machine.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would contain the prompts of links
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
