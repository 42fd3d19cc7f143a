"""Division and sampling at 10^6 to 10^8 images: time and memory of each step of the host.

Labels and clusters are drawn as a division makes them: a tenth of the images lies in any cluster,
not in that of their class. Features are drawn block by block, each from its own seed. Each step
runs in a process of its own; memory is the most that it had, the step's input and all but Python
and the libraries. K-means gets as many points as fit into `--gib`; if that is not all of them,
seconds and bytes are extrapolated in proportion.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

from dcjax.data import crops
from dcjax.division import division, grouping, host_kmeans, sampling
from dcjax.division.division import Division

Step = Callable[[], Iterator[str]]  # prepares, yields "", and then a name after each part

_AT_ONCE = 2**20
_AUGMENTATION = crops.Augmentation(
    "random_resized",
    size=224,
    resize=256,
    scale=(0.2, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=True,
    strategy="standard",
)


@dataclasses.dataclass(frozen=True)
class Size:
    """What is divided: numbers of images, of classes, of clusters, and of those in a feature."""

    images: int
    classes: int
    clusters: int
    width: int


def blocks(n: int, stream: int) -> Iterator[tuple[slice, np.random.Generator]]:
    """Yields slices that cover n rows, and the generator of each block's draws."""
    for start in range(0, n, _AT_ONCE):
        key = np.random.SeedSequence([0, stream, start])
        rng = np.random.Generator(np.random.Philox(key))
        yield slice(start, min(start + _AT_ONCE, n)), rng


def labels(size: Size) -> np.ndarray:
    """Returns classes int32 [N] in no order."""
    drawn = np.empty(size.images, np.int32)
    for part, rng in blocks(size.images, 0):
        drawn[part] = rng.integers(size.classes, size=part.stop - part.start)
    return drawn


def clusters(size: Size, classes: np.ndarray, num_clusters: int, stream: int) -> np.ndarray:
    """Returns clusters int32 [N]: mostly the class's own, for a tenth of the images any."""
    drawn = np.empty(size.images, np.int32)
    for part, rng in blocks(size.images, stream):
        n = part.stop - part.start
        astray = rng.random(n) < 0.1
        any_cluster = rng.integers(num_clusters, size=n)
        drawn[part] = np.where(astray, any_cluster, classes[part] % num_clusters)
    return drawn


def features(n: int, width: int) -> np.ndarray:
    """Returns float32 [n, width], points around 256 centres."""
    centres = np.random.default_rng(0).standard_normal((256, width), np.float32)
    drawn = np.empty((n, width), np.float32)
    for part, rng in blocks(n, 3):
        rng.standard_normal(dtype=np.float32, out=drawn[part])
        drawn[part] += centres[rng.integers(256, size=part.stop - part.start)]
    return drawn


def kmeans(n: int, size: Size, num_iterations: int) -> Iterator[str]:
    """K-means of the first n images, and what is before its first iteration."""
    points = features(n, size.width)
    start = points[np.random.default_rng(0).choice(n, size.clusters, replace=False)]
    yield ""
    host_kmeans.lloyd(points, start, num_iterations=num_iterations)
    yield f"K-means, {num_iterations} iterations"


def match(size: Size) -> Iterator[str]:
    """Matches clusters to those before."""
    classes = labels(size)
    current, previous = (clusters(size, classes, size.clusters, stream) for stream in (1, 2))
    yield ""
    division.match(current, previous, size.clusters, "iou")
    yield "matching"


def divide(size: Size) -> Iterator[str]:
    """Divides as `division.divide` does, but deals images out instead of clustering them."""
    classes, before = labels(size), size.clusters // 2
    parents = np.zeros(before, np.int32)
    previous = Division(clusters(size, classes, before, 1), parents, 0)
    yield ""
    division.divide(None, classes, previous, num_clusters=size.clusters, period=1, seed=0)
    yield "division without K-means (deal out, match, bisect, drop)"


def drop(size: Size) -> Iterator[str]:
    """Leaves out the images that are alone of their class in their cluster."""
    classes = labels(size)
    cluster = clusters(size, classes, size.clusters, 1)
    yield ""
    grouping.drop_singletons(cluster, classes)
    yield "dropping singletons"


def check(size: Size) -> Iterator[str]:
    """Checks settings against the classes, as the start of a run does."""
    classes = labels(size)
    yield ""
    division.check(classes, max_clusters=size.clusters, hierarchy="direct")
    sampling.check(classes, batch_size=80, images_per_class=4, sampler="balanced")
    yield "checks"


def plan(size: Size, sampler: str) -> Iterator[str]:
    """Plans an epoch, block by block."""
    classes = labels(size)
    cluster = clusters(size, classes, size.clusters, 1)
    found = Division(cluster, np.zeros(size.clusters, np.int32), 0)
    yield ""
    steps = sampling.plan_epoch(
        found, classes, batch_size=80, images_per_class=4, seed=0, epoch=0, sampler=sampler
    ).blocks()
    next(steps)
    yield f"plan of an epoch, {sampler}: first block"
    for _ in steps:
        pass
    yield f"plan of an epoch, {sampler}: the rest"


def draw_crops(n: int) -> Iterator[str]:
    """Draws the crops of an epoch of n images, those of a block of its plan at once."""
    yield ""
    for block, start in enumerate(range(0, n, _AT_ONCE)):
        crops.draw(_AUGMENTATION, (min(n - start, _AT_ONCE),), seed=0, epoch=0, block=block)
    yield "crops of an epoch"


def measured(step: Step) -> tuple[list[tuple[str, float, float]], float]:
    """Runs a step in its own process; returns parts' seconds and CPU seconds, and peak MiB."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, step))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError("A step ended before its answer: out of memory, or see above.") from None
    finally:
        process.join()


def _run(connection: Connection, step: Step) -> None:
    base, parts, seconds = _peak_mib(), step(), []
    next(parts)
    started, cpu = time.perf_counter(), time.process_time()
    for name in parts:
        seconds.append((name, time.perf_counter() - started, time.process_time() - cpu))
        started, cpu = time.perf_counter(), time.process_time()
    connection.send((seconds, _peak_mib() - base))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(step: Step, times: float = 1.0) -> None:
    """Runs a step and prints its lines, for so many times as many images as it has."""
    seconds, peak = measured(step)
    how = "measured" if times == 1 else f"extrapolated from 1/{times:g}"
    for name, wall, cpu in seconds:
        numbers = f"{wall * times:,.1f} | {cpu * times:,.1f} | {peak * times:,.0f}"
        print(f"| {name} | {numbers} | {how} |", flush=True)


def main() -> None:
    """Runs all steps and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_images", type=int, default=10**6)
    parser.add_argument("--num_classes", type=int, help="a tenth of the images, if not said")
    parser.add_argument("--num_clusters", type=int, default=32)
    parser.add_argument("--width", type=int, default=64, help="numbers per feature")
    parser.add_argument("--iterations", type=int, default=10, help="of K-means")
    parser.add_argument("--gib", type=float, default=6, help="memory for K-means, at most")
    options = parser.parse_args()
    n = options.num_images
    size = Size(n, options.num_classes or n // 10, options.num_clusters, options.width)
    print(f"{size}\n\n| step | s | CPU s | peak MiB | how |\n| --- | --- | --- | --- | --- |")
    # The points twice, and some numbers of each.
    fitting = min(n, int(options.gib * 2**30 / (8 * size.width + 128)))
    for step in (
        partial(check, size),
        partial(match, size),
        partial(drop, size),
        partial(divide, size),
        partial(plan, size, "uniform"),
        partial(plan, size, "balanced"),
    ):
        show(step)
    show(partial(kmeans, fitting, size, options.iterations), n / fitting)
    show(partial(draw_crops, n))


if __name__ == "__main__":
    main()
