"""Listens with uvicorn."""

from __future__ import annotations

import uvicorn

from textmask.serve.guard import Guard

STOP_SECONDS = 10  # for requests that run when the service is asked to stop


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
