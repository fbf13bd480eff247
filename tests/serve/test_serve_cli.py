"""`textmask serve` as a command: what it refuses, and a start and stop."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.errors import ConfigError
from textmask.serve.server import listen


def refusal(*arguments, **env):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)], env=env)
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_token(run, host):
    assert "token" in refusal(run, "--host", host)


@pytest.mark.parametrize(
    "token", ["", "short", "has a space in it somewhere", "tööö-long-enough-but-odd"]
)
def test_a_weak_token_is_refused(run, token):
    message = refusal(run, "--host", "0.0.0.0", "--token-env", "MY_TOKEN", MY_TOKEN=token)
    assert "MY_TOKEN" in message
    assert not token or token not in message


def test_other_mistakes_are_named(run, tmp_path):
    assert "is not a directory" in refusal(run, "--jobs-root", tmp_path / "nowhere")
    assert "store" in refusal(run, "--max-pixels", 10**9)
    assert "audit log" in refusal(run, "--port", 0, "--audit", tmp_path / "no" / "audit.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refusal(run, "--port", taken.getsockname()[1])


def test_answers_are_sent_without_delay():
    """asyncio turns Nagle's algorithm off only for sockets that name their protocol."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_it_starts_answers_and_stops(run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "textmask",
        "serve",
        str(run),
        "--port",
        "0",
        "--audit",
        str(tmp_path / "a.jsonl"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
        address = line.split("/  ")[0]
        for _ in range(400):
            try:
                with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
                    assert answer.status == 200
                    break
            except ConnectionError:
                continue
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
