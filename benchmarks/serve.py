"""Overhead of the HTTP service over its model, and its behavior with many clients: `python benchmarks/serve.py`.

The service runs in a process of its own on this machine with the smallest model, so that what is measured is the
service. First the overhead: whole requests over one connection compared with the same requests to the segmenter. Then
the soak: many clients at once, each of which uploads, requests masks and deletes, with a short queue; every response
must be the expected one or 429, and the memory of the process must stay constant. At last the bundled model: a
prompt on an opened image compared with the bare model, and the throughput of eight clients compared with one.

    python benchmarks/serve.py --soak 60 --clients 200
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import Goals

from textmask.config import Recipe
from textmask.data.loaders import build_text, to_image
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.inference.predictor import Predictor
from textmask.methods.registry import get_method
from textmask.serve.segmenter import PromptRequest, Segmenter
from textmask.text.grammar import parse
from textmask.training.loop import train

REQUESTS, WARM_UP, QUEUE = 300, 50, 16
SENTENCE = "opacity in the lower left lung"
PAIRS, ROUNDS, SECONDS = 40, 5, 3.0  # of the comparison with the bundled model
SETTLED = 0.25  # share of the soak after which memory counts: caches and pools have filled by then
ALLOWED_MS, ALLOWED_GROWTH_MB = 5.0, 20.0
JSON = {"Content-Type": "application/json"}


def small_run(root: Path) -> Path:
    """A run that predicts in a millisecond or two: the mean mask of each statement."""
    manifest = read_manifest(
        write_phantoms(root / "data", {"train": 24, "valid": 4, "test": 4}, PhantomConfig())
    )
    recipe: Recipe = get_method("text_prior").recipe().smoke().override("threshold=0.1")
    train(recipe, manifest, root / "run", cache_dir=root / "cache", progress=False)
    return root / "run"


def multipart(png: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an upload."""
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + png + b"\r\n--xx--\r\n", {"Content-Type": "multipart/form-data; boundary=xx"}


def noise_png() -> bytes:
    """PNG of noise, 224 x 224."""
    pixels = np.random.default_rng(0).integers(0, 255, (224, 224), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> dict[str, object]:
    """One request over an open connection."""
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    found: dict[str, object] = json.loads(answer.read())
    if answer.status >= 300:
        raise SystemExit(f"{path}: {answer.status} {found}")
    return found


def overhead(port: int, pid: int, run: Path, goals: Goals) -> None:
    """Median of whole requests minus the median of the segmenter alone, in turn."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    name = ask(connection, "/v1/images", *multipart(noise_png()))["id"]
    engine = Segmenter(run)
    upload = engine.read(noise_png(), 0, 10**7)
    whole, alone, reported = [], [], []
    used = 0.0
    for i in range(WARM_UP + REQUESTS):
        question = json.dumps({"sentence": SENTENCE, "return": ["png"]}).encode()
        used = processor_seconds(pid) if i == WARM_UP else used
        begin = time.perf_counter()
        body = ask(connection, f"/v1/images/{name}/masks", question, JSON)
        middle = time.perf_counter()
        engine.segment(upload, PromptRequest(SENTENCE))
        end = time.perf_counter()
        if i >= WARM_UP:
            whole.append(middle - begin)
            alone.append(end - middle)
            reported.append(float(str(body["seconds"])))
    used = processor_seconds(pid) - used
    ms = {
        name: 1000 * statistics.median(v)
        for name, v in (("whole", whole), ("alone", alone), ("reported", reported))
    }
    print(
        f"medians: request {ms['whole']:.2f} ms, model in the service {ms['reported']:.2f} ms, "
        f"model alone {ms['alone']:.2f} ms"
    )
    print(
        f"processor time of the service, model included: {1000 * used / REQUESTS:.2f} ms per request"
    )
    extra = 1000 * statistics.median(w - s for w, s in zip(whole, reported, strict=True))
    print(f"overhead of the service: {extra:.2f} ms per request, median of {REQUESTS}")
    goals.at_least("serve_overhead_5ms_over_measured", ALLOWED_MS / extra, 1.0)


def against_decoder(port: int, goals: Goals) -> None:
    """A prompt on an opened image over HTTP, compared with the bare model of this process, in turn; then 8 clients."""
    torch.set_num_threads(1)
    predictor = Predictor("default", device="cpu")
    model, recipe = predictor.model, predictor.run.recipe
    image = to_image(np.zeros((1, 1, *recipe.image_size), np.uint8))
    text = build_text([SENTENCE], [parse(SENTENCE, predictor.grammar)])
    features = model.image_features(image)

    connection = http.client.HTTPConnection("127.0.0.1", port)
    name = ask(connection, "/v1/images", *multipart(noise_png()))["id"]
    question = json.dumps({"sentence": SENTENCE, "return": ["rle"]}).encode()
    whole, alone = [], []
    for i in range(PAIRS + 5):
        begin = time.perf_counter()
        ask(connection, f"/v1/images/{name}/masks", question, JSON)
        middle = time.perf_counter()
        with predictor.session.running():
            model.decode(features, image, text)
        if i >= 5:
            whole.append(middle - begin)
            alone.append(time.perf_counter() - middle)
    request_ms, model_ms = (1000 * statistics.median(found) for found in (whole, alone))
    print(f"bundled model: request {request_ms:.1f} ms, bare model {model_ms:.1f} ms")
    goals.at_least("serve_1.3_bare_decoder_over_request", 1.3 * model_ms / request_ms, 1.0)

    # in turn, so that what else runs on the machine is the same for both
    rates: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(ROUNDS):
        for clients, found in rates.items():
            found.append(throughput(port, str(name), question, clients))
    one, eight = (statistics.median(found) for found in rates.values())
    print(f"prompts per second: 1 client {one:.1f}, 8 clients {eight:.1f}")
    goals.at_least("serve_8_clients_over_1", eight / one, 1.6)


def throughput(port: int, name: str, question: bytes, clients: int) -> float:
    """Prompts per second of some clients that each ask again as soon as they are answered."""
    until = time.monotonic() + SECONDS

    def client() -> int:
        connection, answered = http.client.HTTPConnection("127.0.0.1", port), 0
        while time.monotonic() < until:
            ask(connection, f"/v1/images/{name}/masks", question, JSON)
            answered += 1
        return answered

    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answered = sum(future.result() for future in [pool.submit(client) for _ in range(clients)])
    return answered / (time.monotonic() - begin)


async def one_client(port: int, until: float, seen: Counter[str], gate: asyncio.Semaphore) -> None:
    """Upload, request masks for some prompts, delete, in a loop; wait a little after a refusal."""
    body, headers = multipart(noise_png())
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.monotonic() < until:
            status, found = await request(reader, writer, "POST", "/v1/images", body, headers)
            seen[f"upload {status}"] += 1
            if status != 201:
                await asyncio.sleep(0.2)
                continue
            path = f"/v1/images/{found['id']}"
            for sentence in (SENTENCE, "upper right lung", "what a day"):
                question = json.dumps({"sentence": sentence, "return": ["png", "rle"]}).encode()
                status, _ = await request(reader, writer, "POST", f"{path}/masks", question, JSON)
                seen[f"ask {status}"] += 1
                if status == 429:
                    await asyncio.sleep(0.2)
            status, _ = await request(reader, writer, "DELETE", path, b"", {})
            seen[f"forget {status}"] += 1
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        seen[f"broken {type(error).__name__}"] += 1
    finally:
        writer.close()


async def request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    body: bytes,
    more: dict[str, str],
) -> tuple[int, dict[str, object]]:
    """One request over an open connection, without a client library, which would use the processor that is measured."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in more.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"(?im)^content-length: (\d+)", head)
    data = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(" ", 2)[1]), json.loads(data) if data else {}


def processor_seconds(pid: int) -> float:
    """CPU seconds of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory of a process that is in use."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


async def soak(port: int, pid: int, seconds: float, clients: int, goals: Goals) -> None:
    """All clients at once; counts by status and memory over time."""
    seen: Counter[str] = Counter()
    begin, memory = time.monotonic(), []
    gate = asyncio.Semaphore(50)
    tasks = [
        asyncio.create_task(one_client(port, begin + seconds, seen, gate)) for _ in range(clients)
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.5)
        memory.append((time.monotonic() - begin, resident_mb(pid)))
    await asyncio.gather(*tasks)
    print(
        f"{clients} clients, {seconds:g} s: "
        + ", ".join(f"{name}: {n}" for name, n in sorted(seen.items()))
    )
    kept = [mb for at, mb in memory if SETTLED * seconds <= at <= seconds]
    third = max(1, len(kept) // 3)
    growth = statistics.median(kept[-third:]) - statistics.median(kept[:third])
    print(
        f"memory: {kept[0]:.0f} MB settled, {max(kept):.0f} MB at most, last third {growth:+.1f} MB over the first"
    )
    fine = sum(n for name, n in seen.items() if name.split()[1] in ("200", "201", "204", "429"))
    answered = sum(n for name, n in seen.items() if name == "ask 200")
    print(f"answered {answered / seconds:.0f} prompts per second")
    goals.at_least("serve_soak_share_without_error", fine / max(1, sum(seen.values())), 1.0)
    goals.at_least("serve_soak_memory_20MB_over_growth", ALLOWED_GROWTH_MB / max(growth, 0.1), 1.0)


@contextmanager
def service(run: str, threads: int) -> Iterator[tuple[int, int]]:
    """A service in a process of its own: its port and the id of the process."""
    command = [sys.executable, "-m", "textmask", "serve", run, "--port", "0", "--queue", str(QUEUE)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            found = re.search(r":(\d+)/", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise SystemExit("the service did not start")
            yield int(found[1]), process.pid
        finally:
            process.terminate()


def main() -> int:
    """Print the figures and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=float, default=60.0, help="seconds; 0 leaves it out")
    parser.add_argument("--clients", type=int, default=200)
    options = parser.parse_args()
    goals = Goals()
    with tempfile.TemporaryDirectory() as folder:
        run = small_run(Path(folder))
        with service(str(run), 1) as (port, pid):
            overhead(port, pid, run, goals)
            if options.soak:
                asyncio.run(soak(port, pid, options.soak, options.clients, goals))
    with service("default", 2) as (port, _):
        against_decoder(port, goals)
    return goals.finish()


if __name__ == "__main__":
    sys.exit(main())
