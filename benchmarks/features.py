"""Seconds of an epoch on features of images: a linear embedding, with its divisions.

The features are drawn: each class around its own mean, which is around that of one of 16 groups.
The run is one of `configs/features.py`, with a division at the start of every epoch. K is 1, 2 and
4 in the first three epochs, then 4. About two minutes on two cores.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import records
import tables
from records import Timing

from configs import features
from dcjax.modes.train import train

_GROUPS = 16
_PER_CLASS = 10
_TEST_CLASSES = 100


def write(file: pathlib.Path, num_images: int, num_features: int) -> None:
    """Writes features, .npy, with classes and splits in a .csv; a few more are for the test."""
    rng = np.random.default_rng(0)
    num_classes = num_images // _PER_CLASS + _TEST_CLASSES
    means = rng.normal(size=(_GROUPS, num_features))[np.arange(num_classes) % _GROUPS]
    means += rng.normal(size=means.shape)
    vectors = np.repeat(means, _PER_CLASS, axis=0)
    vectors += rng.normal(size=vectors.shape)
    np.save(file, vectors.astype(np.float32))
    labels = np.arange(len(vectors)) // _PER_CLASS
    splits = np.where(labels < _TEST_CLASSES, "test", "train")
    rows = [f"{label},{split}" for label, split in zip(labels, splits, strict=True)]
    file.with_suffix(".csv").write_text("\n".join(["label,split", *rows]))


def seconds(workdir: pathlib.Path) -> tuple[list[float], list[float]]:
    """Returns those of each division that was waited for, and of the steps of each epoch."""
    records = map(json.loads, (workdir / "times.jsonl").read_text().splitlines())
    found: dict[str, list[float]] = {"division": [], "training steps": []}
    for record in records:
        if record["kind"] == "activity" and record["activity"] in found:
            found[record["activity"]].append(record["seconds"])
    # An epoch waits twice: while its features are embedded, and for K-means.
    waits = found["division"]
    pairs = zip(waits[::2], waits[1::2], strict=True)
    return [sum(pair) for pair in pairs], found["training steps"]


def main() -> None:
    """Trains, and times each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--width", type=int, default=768, help="numbers of a feature")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        write(top / "features.npy", arguments.images, arguments.width)
        config = features.get_config()
        config.dataset.features = str(top / "features.npy")
        config.division.every_epochs = 1
        config.train.num_epochs = arguments.epochs
        config.train.report = False
        config.eval.every_epochs = 0
        config.eval.at_start = False
        config.eval.nmi = "never"
        config.checkpoint.every_epochs = 0
        since = records.now()
        train(config, str(top / "run"))
        timings = {}
        for epoch, (division, steps) in enumerate(zip(*seconds(top / "run"), strict=True)):
            timings[f"epoch {epoch}, division"] = Timing([division])
            timings[f"epoch {epoch}, steps"] = Timing([steps])
    subject = f"training on {arguments.images:,} features of {arguments.width:,} numbers"
    record = records.save(subject, timings, since=since, same_job=False)
    print(f"\n{tables.details([record])}")


if __name__ == "__main__":
    main()
