"""Scores files of embeddings, those of other frameworks too."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import FileError, InputError, file_errors
from dcjax.data.datasets import embedding_files
from dcjax.data.datasets.embedding_files import Embeddings
from dcjax.data.datasets.image_set import JUNK
from dcjax.distributed import devices, sharded_rows
from dcjax.experiment import cameras, checks, scoring, settings
from dcjax.experiment.reporter import describe_protocol, show_scores
from dcjax.runs import workdirs
from dcjax.runs.progress import Scores

_FILE = "scores.json"


def score(
    files: Sequence[str],
    config: ConfigDict,
    *,
    with_nmi: bool = False,
    normalize: bool = False,
    output: str | None = None,
) -> Scores:
    """Scores embeddings as an evaluation does; prints a table and writes `scores.json`.

    Args:
      files: one, see `embedding_files.read`, whose column split may hold queries and a gallery; or
        one of queries and one of a gallery.
      config: its settings `eval` say how.
      with_nmi: whether to cluster the embeddings for NMI.
      normalize: whether to scale the embeddings to length 1.
      output: the folder of `scores.json`; None: that of the first file.

    Returns:
      Score by name.

    Raises:
      InputError: if the embeddings are not as required.
      FileError: if a file cannot be read or written.
    """
    settings.check(config)
    console, options = Console(), config.eval
    paths = [Path(naming.expand(file)) for file in files]
    for path in paths:
        embedding_files.check_name(path)
    target = (paths[0].parent if output is None else Path(naming.expand(output))) / _FILE
    _check_free(target)
    found = [embedding_files.read(path, normalize=normalize) for path in paths]
    for path, embeddings in zip(paths, found, strict=True):
        if not embeddings.are_unit_vectors:
            console.print_line(
                f"lengths   {embeddings.shortest:.4g} to {embeddings.longest:.4g} in {path}, not "
                "1: scores are by Euclidean distance; --normalize scales to 1"
            )
    networks = {str(of.metadata["weights"]) for of in found if "weights" in of.metadata}
    if len(networks) > 1:
        console.print_line(
            f"networks  {paths[0]} and {paths[1]} are of two networks, whose embeddings cannot be "
            "compared; embed both with one checkpoint"
        )
    sets = _split(paths, found)
    del found, embeddings
    if len(sets) > 1 and options.protocol == "cross_camera":
        sets[1] = _without_junk(sets[1], console)
    draws_gallery = options.protocol == "gallery"
    if draws_gallery and len(sets) > 1:
        raise InputError(
            "eval.protocol=gallery draws a gallery from the images, but there is one of its own; "
            "take eval.protocol=all_vs_all, with which queries search that gallery."
        )
    labels = [embeddings.labels for embeddings in sets]
    known = [embeddings.cameras for embeddings in sets]
    compared = cameras.compared(known, options)
    checks.check_retrieval(
        *labels,
        ks=options.ks,
        draws_gallery=draws_gallery,
        compared_cameras=compared,
        name="--ks",
    )
    checks.check_scores_on_host(options, labels, compared)
    for note in cameras.notes(labels, known, options):
        console.print_line(note)
    sizes = dict(zip(("images", "gallery"), map(len, labels), strict=False))
    scores = scoring.score(_place(sets), labels, options, with_nmi=with_nmi, cameras=compared)
    rows = {" and ".join(map(str, paths)): scores}
    show_scores(console, f"Embeddings{describe_protocol(options)}", rows, options.best_by)
    _write(target, {"embeddings": list(map(str, paths)), **sizes, "scores": scores})
    console.print_line(f"wrote     {target}")
    return scores


def _split(paths: Sequence[Path], found: Sequence[Embeddings]) -> list[Embeddings]:
    """Returns the images, or the queries and the gallery, with the same numbers of classes."""
    has_both = [
        embeddings.splits is not None and {"query", "gallery"} <= set(embeddings.splits.tolist())
        for embeddings in found
    ]
    if len(found) == 2:
        if any(has_both):
            raise InputError(
                f"{paths[has_both.index(True)]} has queries and a gallery, by its column split; "
                "give it alone, or take the column out."
            )
        return _unite_classes(*found)
    (embeddings,) = found
    if embeddings.splits is None:
        return [embeddings]
    names = set(embeddings.splits.tolist())
    if len(names) == 1:
        return [embeddings]
    if names != {"query", "gallery"}:
        raise InputError(
            f"{paths[0]}: require query and gallery in the column split, or the same in all rows, "
            f"got {', '.join(sorted(names))}; take the column out, or leave the other rows out."
        )
    return [embeddings.select(embeddings.splits == name) for name in ("query", "gallery")]


def _unite_classes(query: Embeddings, gallery: Embeddings) -> list[Embeddings]:
    """Returns two sets whose classes of the same name have the same number."""
    names = dict.fromkeys([*query.classes, *gallery.classes])
    numbers = {name: number for number, name in enumerate(names)}
    united = []
    for embeddings in (query, gallery):
        places = np.array([numbers[name] for name in embeddings.classes], np.int64)
        united.append(
            dataclasses.replace(embeddings, classes=tuple(names), labels=places[embeddings.labels])
        )
    return united


def _without_junk(gallery: Embeddings, console: Console) -> Embeddings:
    """Returns a gallery without the images whose label says that they are no fair answer."""
    names = np.array([*gallery.classes, ""])
    is_junk = (names == JUNK)[gallery.labels]
    if is_junk.any():
        console.print_line(
            f"left out  {is_junk.sum():,} images of the label {JUNK}, which are junk"
        )
    return gallery.select(~is_junk) if is_junk.any() else gallery


def _place(sets: list[Embeddings]) -> list[jax.Array]:
    """Returns the vectors on the devices; empties the list, so that the host keeps none."""
    mesh = devices.create_mesh()
    placed = []
    while sets:
        placed.append(sharded_rows.shard(sets.pop(0).vectors, mesh))
    return placed


def _check_free(target: Path) -> None:
    """Raises FileError if there is a file of scores that this mode has not written."""
    try:
        known = json.loads(target.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or "embeddings" not in known:
        raise FileError(f"{target} holds other scores, as of a run; give another --output.")


def _write(target: Path, content: dict[str, Any]) -> None:
    with file_errors(f"Cannot write {target}", advice="give another --output"):
        target.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write(epath.Path(target), json.dumps(content, indent=1) + "\n")
