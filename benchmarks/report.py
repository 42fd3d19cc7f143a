"""Times the parts of a report at the size of Stanford Online Products' test set, but embedding.

60,502 embeddings of 512 numbers, of 11,316 classes, and 32 masks: seconds of each part, and the
peak of the memory until then, beyond the embeddings; about three minutes on two cores. NMI is left
out: a report takes the recorded one.

    PYTHONPATH=. python benchmarks/report.py [--size=60502] [--dim=512] [--classes=11316]
"""

import argparse
import resource
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import records
import tables
from clustering import embeddings
from records import Timing

from configs import sop
from dcjax.core.console import Console
from dcjax.data.datasets import ImageSet
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment.report import divisions, embedding_map, failures
from dcjax.experiment.report.retrieval import Retrieval
from dcjax.pages import content, report
from dcjax.retrieval import evaluation, metrics

_NUM_CLUSTERS = 32


class Parts:
    """Runs parts and keeps their timings by name, with the peak of the memory until then."""

    def __init__(self) -> None:
        self.timings: dict[str, Timing] = {}
        self._base = _peak_mib()

    def run(self, name: str, part: Callable[[], Any]) -> Any:
        """Returns the result of a part."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = part()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.timings[name] = Timing([wall], [cpu], _peak_mib() - self._base)
        return result


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _images(labels: np.ndarray, num_classes: int) -> ImageSet:
    """Returns images of noise; all are the same one, so that they take no memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    every = np.broadcast_to(pixels, (len(labels), *pixels.shape[1:]))
    return ImageSet(every, labels.astype(np.int32), tuple(map(str, range(num_classes))))


def main() -> None:
    """Prints the seconds of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=60_502)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=11_316)
    options = parser.parse_args()
    config, console = sop.get_config(), Console(quiet=True)
    points, labels = embeddings(options.size, options.dim, options.classes)
    images = _images(labels, options.classes)
    sharding = devices.rows_sharding(devices.create_mesh())
    parts, since = Parts(), records.now()
    by_query = parts.run(
        "scores of all queries",
        lambda: evaluation.score_queries(
            [jax.device_put(points, sharding)], [images.labels], ks=config.eval.ks
        ),
    )
    found = Retrieval(images, images, True, points, points, metrics.mean(by_query), by_query)
    where, *pictures = parts.run(
        "nearest images, lists of failures", lambda: failures.collect(found, config, console)
    )
    generator = np.random.default_rng(1)
    masks = np.maximum(generator.normal(size=(_NUM_CLUSTERS, options.dim)), 0).astype(np.float32)
    run: Any = types.SimpleNamespace(masks=masks, config=config)
    cluster = generator.integers(_NUM_CLUSTERS, size=options.size).astype(np.int32)
    division = Division(cluster, np.arange(_NUM_CLUSTERS, dtype=np.int32), 5)
    parts.run("masks", lambda: divisions._masks(run, found))
    parts.run("dimensions of 32 subspaces", lambda: divisions._dimensions(run, division, found))
    parts.run(
        "queries in subspaces",
        lambda: divisions._subspaces(run, division, found, (pictures[0], pictures[1])),
    )
    shown = parts.run("map", lambda: embedding_map.collect(found, config, console))
    page = parts.run(
        "page",
        lambda: report.render(
            content.Report(
                title="benchmark",
                state="finished",
                summary=content.Summary([], {"run": found.scores}, "recall_at_1", [], []),
                failures=where,
                divisions="",
                training="",
                map=shown,
            )
        ),
    )
    subject = f"report of {options.size:,} x {options.dim}, {options.classes:,} classes"
    record = records.save(subject, parts.timings, since=since, same_job=False)
    print(f"\n{tables.details([record])}\n\nThe page has {len(page.encode()) / 2**20:.1f} MiB.")


if __name__ == "__main__":
    main()
