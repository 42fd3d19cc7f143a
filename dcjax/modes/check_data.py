"""Checks all images of an experiment, and reports what is wrong with them."""

import csv
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError, file_errors
from dcjax.data import decoding, headers, inspection
from dcjax.data.datasets import ImageSet, Splits, duplicates
from dcjax.data.inspection import Inspection
from dcjax.experiment import checks, inputs
from dcjax.runs import workdirs

_SHOWN = 20  # images of a kind that are printed; the file lists all
_FILE = "check_data.csv"


class Kind(NamedTuple):
    """A kind of problem: what it is, what to do about it, and whether images or classes have it."""

    what: str
    remedy: str
    of_classes: bool = False


class Problem(NamedTuple):
    """A problem of one image, or of a class, with an empty `image`; `detail` may be empty."""

    kind: Kind
    split: str
    label: str
    image: str
    detail: str


_UNREADABLE = Kind(
    "cannot be read", "replace or remove them, or leave them out by dataset.skip_unreadable=True"
)
_SAME_FILE = Kind(
    "the same file is in two splits, in two classes or twice in a test",
    "take all but one out: a test image finds itself, or was trained on",
)
_SIMILAR_CLASS = Kind(
    "the name is that of another class but for spaces, letter case or Unicode form",
    "rename one of them, if they are one class",
    of_classes=True,
)
_IN_TWO_SPLITS = Kind(
    "the same picture is in two splits", "take it out of one: it makes the scores too good"
)
_IN_TWO_CLASSES = Kind("the same picture has two classes", "take it out of one of them")
_TWICE = Kind(
    "the same picture is there twice", "take one out: in a test, a copy is found without fail"
)
_ALONE = Kind(
    "the only image of its class", "add another one, or remove the class; it has nothing to find"
)
_UNANSWERED = Kind(
    "a query without an image of its class in the gallery", "add one; it counts as missed"
)
_DEEP = Kind("more than 8 bits a channel", "nothing, if 8 of them will do: these are read")
_MISNAMED = Kind("the name says another format", "rename it, for the sake of other programs")
_SMALL = Kind(
    "a side is shorter than dataset.crop", "nothing, if enlarging it will do; or a smaller crop"
)


def check_data(config: ConfigDict, workdir: str) -> bool:
    """Reads every image of an experiment, and prints statistics and problems.

    Args:
      config: the experiment.
      workdir: the folder for the list of all problems, `check_data.csv`.

    Returns:
      Whether training could begin.

    Raises:
      InputError: for settings with which no data could be trained on.
      MissingFileError: if the data set is not there.
    """
    console = Console()
    checks.check_training(config)
    workdirs.check(workdir)
    splits = inputs.load_index(config.dataset)
    sets = {name: images for name, images in vars(splits).items() if images is not None}
    total, start_time = sum(map(len, sets.values())), time.monotonic()
    with console.progress("looking", total=total, done=0) as move:
        moved = functools.partial(move, "images")
        found = {
            name: inspection.inspect(images, moved, max_pixels=config.dataset.max_pixels)
            for name, images in sets.items()
        }
    seconds = time.monotonic() - start_time
    console.print_line(
        f"looked    at {total:,} images in {seconds:.0f} s, {total / seconds:.0f} a second"
    )
    console.print_table(
        config.dataset.name, {name: _facts(sets[name], found[name]) for name in sets}
    )
    problems = list(_problems(splits, sets, found, config.dataset.crop))
    fatal = {_SAME_FILE} if config.dataset.skip_unreadable else {_SAME_FILE, _UNREADABLE}
    for kind, alike in itertools.groupby(problems, key=lambda problem: problem.kind):
        _print_problems(console, kind, list(alike), _severity(kind, fatal))
    if reason := _refusal(config, sets, found):
        console.print_line(f"error     {reason}")
    if weights := checks.missing_weights(config.model, download=config.dataset.download):
        console.print_line(f"missing   {weights}")
    console.print_line(f"wrote     {_write(problems, fatal, workdir)}")
    fails = bool(reason) or any(problem.kind in fatal for problem in problems)
    needed = ", once the weights are there" if weights else ""
    well = "" if problems or reason or weights else "; all is well"
    console.print_line(
        f"result    training {'would fail' if fails else f'can begin{needed}'}{well}"
    )
    return not fails


def _facts(images: ImageSet, found: Inspection) -> dict[str, str]:
    """Returns the row of a split in the table."""
    counts = np.bincount(images.labels, minlength=images.num_classes)
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
    return facts


def _problems(
    splits: Splits, sets: Mapping[str, ImageSet], found: Mapping[str, Inspection], crop: int
) -> Iterator[Problem]:
    """Yields problems of single images, by kind."""

    def find(
        kind: Kind, rows: Callable[[str], Iterable[int]], detail: Callable[[str, int], str]
    ) -> Iterator[Problem]:
        for name in sets:
            for row in rows(name):
                yield _problem(kind, name, sets[name], row, detail(name, row))

    yield from find(_UNREADABLE, lambda name: found[name].reasons, lambda n, i: found[n].reasons[i])
    repeated = dict(duplicates.repeated_files(splits))
    for place, first in repeated.items():
        yield _problem(_SAME_FILE, *_locate(sets, place), _describe_original(sets, first))
    for again, first in duplicates.similar_classes(splits):
        both = duplicates.describe_similar(splits, again, first)
        yield Problem(_SIMILAR_CLASS, again.split, duplicates.class_name(splits, again), "", both)
    copies = list(_copies(sets, found, repeated))
    for kind in (_IN_TWO_SPLITS, _IN_TWO_CLASSES, _TWICE):
        yield from (problem for problem in copies if problem.kind is kind)
    alone = {"train": splits.train, "query": splits.query if splits.gallery is None else None}
    yield from find(_ALONE, lambda name: _find_singletons(alone.get(name)), lambda n, i: "")
    if splits.gallery is not None:
        missed = ~np.isin(splits.query.labels, splits.gallery.labels)
        for row in np.flatnonzero(missed).tolist():
            yield _problem(_UNANSWERED, "query", splits.query, row, "")
    yield from find(
        _DEEP,
        lambda name: np.flatnonzero(found[name].bits > 8),
        lambda name, row: f"{found[name].bits[row]} bits",
    )
    yield from find(
        _MISNAMED,
        lambda name: _find_misnamed(sets[name], found[name]),
        lambda name, row: f"it is {found[name].formats[row]}",
    )
    yield from find(
        _SMALL,
        lambda name: np.flatnonzero(found[name].is_read & (found[name].sizes.min(axis=1) < crop)),
        lambda name, row: "{} x {}".format(*found[name].sizes[row][::-1]),
    )


def _copies(
    sets: Mapping[str, ImageSet],
    found: Mapping[str, Inspection],
    repeated: Collection[duplicates.Place],
) -> Iterator[Problem]:
    """Yields images with the pixels of an earlier image, but for repeated files."""
    places = [duplicates.Place(name, row) for name in sets for row in range(len(sets[name]))]
    prints = np.concatenate([found[name].fingerprints for name in sets])
    is_read = np.concatenate([found[name].is_read for name in sets])
    _, which, counts = np.unique(prints, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero((counts[which] > 1) & is_read)
    candidates = candidates[np.argsort(which[candidates], kind="stable")]
    for _, alike in itertools.groupby(candidates.tolist(), key=lambda place: which[place]):
        first = places[next(alike)]
        name, row = first
        label = _label(sets[name], row)
        pixels = inspection.pixels(sets[name], row)
        for again in (places[place] for place in alike):
            other, i = again
            if again in repeated or not np.array_equal(pixels, inspection.pixels(sets[other], i)):
                continue
            same_class = label == _label(sets[other], i)
            kind = _IN_TWO_SPLITS if name != other else _TWICE if same_class else _IN_TWO_CLASSES
            yield _problem(kind, other, sets[other], i, _describe_original(sets, first))


def _find_singletons(images: ImageSet | None) -> list[int]:
    if images is None:
        return []
    counts = np.bincount(images.labels, minlength=images.num_classes)
    return np.flatnonzero(counts[images.labels] == 1).tolist()


def _find_misnamed(images: ImageSet, found: Inspection) -> list[int]:
    if images.in_memory or images.images.dtype.names is not None:
        return []
    suffixes = (os.path.splitext(path)[1].lower() for path in images.images)
    named = np.array([headers.FORMATS.get(suffix, "") for suffix in suffixes])
    return np.flatnonzero((named != found.formats) & (named != "") & (found.formats != "")).tolist()


def _problem(kind: Kind, split: str, images: ImageSet, row: int, detail: str) -> Problem:
    return Problem(kind, split, _label(images, row), _name(images, row), detail)


def _locate(sets: Mapping[str, ImageSet], place: duplicates.Place) -> tuple[str, ImageSet, int]:
    return place.split, sets[place.split], place.number


def _describe_original(sets: Mapping[str, ImageSet], place: duplicates.Place) -> str:
    split, images, row = _locate(sets, place)
    return f"like {_name(images, row)} ({split}, {_label(images, row)})"


def _label(images: ImageSet, row: int) -> str:
    return images.class_names[images.labels[row]]


def _name(images: ImageSet, row: int) -> str:
    return f"image {row}" if images.in_memory else images.name(row)


def _refusal(
    config: ConfigDict, sets: Mapping[str, ImageSet], found: Mapping[str, Inspection]
) -> str:
    """Returns why training would refuse the images that can be read, "" if it would not."""
    try:
        kept = {
            name: decoding.drop_images(images, list(found[name].reasons))
            for name, images in sets.items()
        }
        checks.check_data(config, Splits(**kept))
    except DcjaxError as error:
        return str(error)
    return ""


def _severity(kind: Kind, fatal: set[Kind]) -> str:
    return "error" if kind in fatal else "warning"


def _print_problems(console: Console, kind: Kind, problems: list[Problem], severity: str) -> None:
    one, many = ("class", "classes") if kind.of_classes else ("image", "images")
    number = f"{len(problems):,} {one if len(problems) == 1 else many}"
    console.print_line(f"{severity:9} {number}: {kind.what}; {kind.remedy}")
    for problem in problems[:_SHOWN]:
        place = f"{problem.image} ({problem.split}, {problem.label})" if problem.image else ""
        line = ": ".join(text for text in (place, problem.detail) if text)
        console.print_line(f"          {naming.escape(line)}")
    if len(problems) > _SHOWN:
        console.print_line(f"          ... and {len(problems) - _SHOWN:,} more")


def _write(problems: list[Problem], fatal: set[Kind], workdir: str) -> pathlib.Path:
    path = workdirs.on_disk(workdir) / _FILE
    with file_errors(f"Cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names that are not valid UTF-8 are written as the bytes that they are.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "split", "class", "severity", "problem", "detail"])
            for problem in problems:
                kind, severity = problem.kind, _severity(problem.kind, fatal)
                place = problem.image, problem.split, problem.label
                writer.writerow([*place, severity, kind.what, problem.detail])
    return path
