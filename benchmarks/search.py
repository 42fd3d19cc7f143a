"""The time of a search after embedding, and the search page under load.

Without arguments: one query in 60,000 embeddings of 512 numbers and in a million of 128, beside the
plain product of the gallery and the query: about two minutes on two cores, and 5 GB. With
`--workdir=DIR` of a run: the search page of that run, asked by 20 clients at once for a minute:
answers by status, their time, and the memory of the server before and after; Linux alone.
"""

import argparse
import collections
import functools
import io
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from compare import Job, compare

from dcjax.experiment.search import Images, Search

_SIZES = ((60_000, 512), (1_000_000, 128))
_NUM_CLUSTERS = 4
_NUM_CLASSES = 12_000
_NUM_QUERIES = 20


def create(size: int, dim: int) -> tuple[Search, np.ndarray]:
    """Returns the search of random embeddings, and queries [20, D]."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((size, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:_NUM_QUERIES] + 0.1 * rng.standard_normal((_NUM_QUERIES, dim), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    masks = rng.uniform(0.1, 1, (_NUM_CLUSTERS, dim)).astype(np.float32)
    labels = rng.integers(_NUM_CLASSES, size=size)
    classes = tuple(f"class {number}" for number in range(_NUM_CLASSES))
    names = [f"image {number}" for number in range(size)]
    images = Images("random", vectors, labels, classes, names, None)
    return Search(images, np.stack, masks, "sum"), queries


def plain(size: int, dim: int) -> Job:
    """Prepares products of the gallery and a query, and nothing else."""
    search, queries = create(size, dim)
    gallery = jax.device_put(search.images.vectors)

    @jax.jit
    def product(gallery: jax.Array, query: jax.Array) -> jax.Array:
        return jnp.dot(gallery, query, precision=jax.lax.Precision.HIGHEST)

    def job() -> None:
        for query in queries:
            product(gallery, query).block_until_ready()

    return job


def searches(size: int, dim: int, **options: Any) -> Job:
    """Prepares searches among all images, or among some of them; the first one prepares them."""
    search, queries = create(size, dim)
    start = time.perf_counter()
    search(queries[0], 24, **options)
    first = {"the first, s": time.perf_counter() - start}

    def job() -> dict[str, float]:
        for query in queries:
            search(query, 24, **options)
        return first

    return job


def measure_latency(rounds: int) -> None:
    """Times a query."""
    for size, dim in _SIZES:
        contestants = {
            "dcjax": functools.partial(searches, size, dim),
            "the plain product alone": functools.partial(plain, size, dim),
            "dcjax, images of one class": functools.partial(
                searches, size, dim, class_name="class 7"
            ),
            "dcjax, in a subspace": functools.partial(searches, size, dim, cluster=0),
        }
        subject = f"a query in {size:,} x {dim}"
        compare(subject, contestants, rounds=rounds, repeats=_NUM_QUERIES)


def resident_mib(pid: int) -> float:
    """Returns the memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def measure_load(workdir: str, num_clients: int, seconds: float) -> None:
    """Prints what many clients get from the search page of a run."""
    command = [sys.executable, "launch.py", "--mode=search", f"--workdir={workdir}", "--port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = _address(server)
        picture = _picture()
        _ask(f"{address}search?k=24", picture)
        time.sleep(1)
        before = resident_mib(server.pid)
        times: dict[int, list[float]] = collections.defaultdict(list)
        end = time.monotonic() + seconds

        def ask() -> None:
            while time.monotonic() < end:
                start = time.perf_counter()
                status = _ask(f"{address}search?k=24", picture)
                times[status].append(time.perf_counter() - start)
                if status == 503:
                    time.sleep(1)  # as Retry-After says

        clients = [threading.Thread(target=ask) for _ in range(num_clients)]
        for client in clients:
            client.start()
        peak = before
        while any(client.is_alive() for client in clients):
            peak = max(peak, resident_mib(server.pid))
            time.sleep(0.5)
        time.sleep(1)
        for status, taken in sorted(times.items()):
            middle = statistics.median(taken)
            print(
                f"status {status}   {len(taken):>6,} answers   median {middle:.3f} s   "
                f"slowest {max(taken):.3f} s"
            )
        after = resident_mib(server.pid)
        print(f"memory {before:.0f} MiB before, {peak:.0f} at most, {after:.0f} after")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(10)


def _address(server: subprocess.Popen) -> str:
    for line in server.stdout or ():
        if match := re.search(r"http://\S+", line):
            return match[0]
    raise SystemExit("The server has ended.")


def _picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _ask(url: str, body: bytes) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workdir", default="")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    if arguments.workdir:
        measure_load(arguments.workdir, arguments.clients, arguments.seconds)
    else:
        measure_latency(arguments.rounds)


if __name__ == "__main__":
    main()
