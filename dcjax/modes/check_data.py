"""Checks all images of an experiment, and reports what is wrong with them."""

import csv
import functools
import itertools
import pathlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError, SettingError, file_errors
from dcjax.data import decoding, findings, inspection
from dcjax.data.datasets import ImageSet, Splits, folder
from dcjax.data.findings import Finding, Harm, Kind
from dcjax.data.inspection import Inspection
from dcjax.experiment import checks, inputs
from dcjax.runs import workdirs

_SHOWN = 5  # examples of a kind that are printed; the file has all
_FILE = "check_data.csv"
_SEVERITY = {Harm.TRAINING: "error", Harm.SCORES: "warning", Harm.IMAGES: "warning"}
_PLURAL = {"image": "images", "class": "classes", "file": "files"}


def check_data(config: ConfigDict, workdir: str) -> bool:
    """Reads every image of an experiment, and prints statistics and findings.

    Args:
      config: the experiment.
      workdir: the folder for the list of all findings, `check_data.csv`.

    Returns:
      Whether training could begin.

    Raises:
      InputError: for settings with which no data could be trained on.
      MissingFileError: if the data set is not there.
    """
    console = Console()
    checks.check_training(config)
    if config.dataset.name == "features":
        raise SettingError(
            "--mode=check_data looks at images, and dataset.name=features has none; training "
            "checks the file of features when it begins."
        )
    workdirs.check(workdir)
    splits = inputs.load_index(config.dataset)
    sets = splits.sets
    ignored = _ignored_files(config.dataset, splits)
    total, start_time = sum(map(len, sets.values())), time.monotonic()
    with console.progress("looking", total=total, done=0) as move:
        moved = functools.partial(move, "images")
        inspected = {
            name: inspection.inspect(images, moved, max_pixels=config.dataset.max_pixels)
            for name, images in sets.items()
        }
    seconds = time.monotonic() - start_time
    console.print_line(
        f"looked    at {total:,} images in {seconds:.0f} s, {total / seconds:.0f} a second"
    )
    console.print_table(
        config.dataset.name, {name: _facts(sets[name], inspected[name]) for name in sets}
    )
    found = findings.find(
        splits,
        inspected,
        crop=config.dataset.crop,
        skips_unreadable=config.dataset.skip_unreadable,
        ignored=ignored,
        across_cameras=config.eval.protocol == "cross_camera",
    )
    if reason := _refusal(config, splits, inspected):
        found.insert(0, Finding(Kind(Harm.TRAINING, "", reason, ""), "", "", "", ""))
    for kind, alike in itertools.groupby(found, key=lambda finding: finding.kind):
        _print_findings(console, kind, list(alike))
    if weights := checks.missing_weights(config.model, download=config.dataset.download):
        console.print_line(f"missing   {weights}")
    console.print_line(f"wrote     {_write(found, workdir)}")
    worst = min((finding.kind.harm for finding in found), default=Harm.NONE)
    fails = worst is Harm.TRAINING
    needed = ", once the weights are there" if weights else ""
    well = "; all is well" if worst is Harm.NONE and not weights else ""
    console.print_line(
        f"result    training {'would fail' if fails else f'can begin{needed}'}{well}"
    )
    return not fails


def _facts(images: ImageSet, found: Inspection) -> dict[str, str]:
    """Returns the row of a split in the table."""
    counts = images.class_sizes
    counts = counts[counts > 0]
    short, long = (side(found.sizes[found.is_read], axis=1) for side in (np.min, np.max))
    channels = np.unique(found.channels[found.is_read]).tolist()
    facts = {
        "images": f"{len(images):,}",
        "unreadable": f"{len(found.reasons):,}",
        "classes": f"{len(counts):,}",
        "per class, least": str(counts.min()),
        "median": f"{np.median(counts):g}",
        "most": str(counts.max()),
        "sides": f"{short.min()}-{long.max()}" if found.is_read.any() else "",
        "channels": ", ".join(str(n or "?") for n in channels),
    }
    if images.super_classes is not None:
        facts["super-classes"] = str(len(set(images.super_classes)))
    if images.cameras is not None:
        facts["cameras"] = str(len(set(images.cameras.tolist())))
    return facts


def _ignored_files(dataset: ConfigDict, splits: Splits) -> list[str]:
    """Returns the files beside the images; data sets other than a folder list their images."""
    if dataset.name != "folder":
        return []
    with file_errors(f"Cannot read the folders of dataset.root={dataset.root}"):
        return folder.ignored_files(dataset.root, splits)


def _refusal(config: ConfigDict, splits: Splits, inspected: Mapping[str, Inspection]) -> str:
    """Returns why training would refuse the images that can be read, "" if it would not."""
    try:
        kept = {
            name: decoding.drop_images(images, list(inspected[name].reasons))
            for name, images in splits.sets.items()
        }
        checks.check_data(config, splits.with_sets(kept))
    except DcjaxError as error:
        return str(error)
    return ""


def _severity(kind: Kind) -> str:
    return _SEVERITY.get(kind.harm, "note")


def _print_findings(console: Console, kind: Kind, found: Sequence[Finding]) -> None:
    """Prints how many findings of a kind there are, what to do, and the first ones."""
    if not kind.unit:
        console.print_line(f"{_severity(kind):9} {kind.what}")
        return
    unit = kind.unit if len(found) == 1 else _PLURAL[kind.unit]
    counts = f" ({_count_details(found)})" if kind.counts_details else ""
    number = f"{len(found):,} {unit}{counts}"
    console.print_line(f"{_severity(kind):9} {number}: {kind.what}; {kind.remedy}")
    for finding in found[:_SHOWN]:
        place = f" ({finding.split}, {finding.label})" if finding.split else ""
        image = f"{finding.image}{place}" if finding.image else ""
        detail = "" if kind.counts_details else finding.detail
        line = ": ".join(text for text in (image, detail) if text)
        console.print_line(f"          {naming.escape(line)}")
    if len(found) > _SHOWN:
        console.print_line(f"          ... and {len(found) - _SHOWN:,} more in {_FILE}")


def _count_details(found: Sequence[Finding]) -> str:
    """Returns the most frequent details with their counts."""
    counts = Counter(finding.detail for finding in found).most_common()
    shown = [f"{naming.escape(detail)}: {count:,}" for detail, count in counts[:_SHOWN]]
    others = [f"others: {sum(count for _, count in counts[_SHOWN:]):,}"]
    return ", ".join(shown + others * (len(counts) > _SHOWN))


def _write(found: Sequence[Finding], workdir: str) -> pathlib.Path:
    path = workdirs.on_disk(workdir) / _FILE
    with file_errors(f"Cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names that are not valid UTF-8 are written as the bytes that they are.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "split", "class", "severity", "problem", "detail"])
            for kind, split, label, image, detail in found:
                writer.writerow([image, split, label, _severity(kind), kind.what, detail])
    return path
