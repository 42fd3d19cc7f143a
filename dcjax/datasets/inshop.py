"""In-shop Clothes Retrieval (Liu et al. 2016): 3,997 items train; of 3,985 others query, gallery.

The list gives its number of rows, a header, then "path item train|query|gallery" per line.
"""

from pathlib import Path

import numpy as np

from dcjax.datasets.files import find_root, read_table, require_present
from dcjax.datasets.image_set import ImageSet, Splits, from_classes

_LIST = "list_eval_partition.txt"
_PARTS = ("train", "query", "gallery")


def load(root: str) -> Splits:
    """Loads In-shop; its list is in root/Eval or root, its images below root/Img or root."""
    folder = find_root(root, "inshop", marker=_LIST, folders=("Eval", ""))
    paths, items, parts = read_list(folder / _LIST)
    images = np.array(_locate(Path(root).expanduser(), paths), dtype=np.str_)
    require_present(images.tolist(), "inshop")
    is_train = parts == "train"

    def take(part: str) -> ImageSet:
        among = items[is_train == (part == "train")]
        return from_classes(images[parts == part], items[parts == part], among=among)

    return Splits(train=take("train"), query=take("query"), gallery=take("gallery"))


def read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns paths, item ids str[N] and parts str[N] (train, query or gallery)."""
    rows = read_table(path, 3, skip=2)
    announced = path.read_text(encoding="utf-8").split(maxsplit=1)[0]
    if announced != str(len(rows)):
        raise ValueError(
            f"{path}: the first line must be the number of rows, got {announced} and {len(rows)} "
            "rows; copy the list again, or correct that line."
        )
    for row in rows:
        if row[2] not in _PARTS:
            raise ValueError(f"{path}: {row[0]} must be in one of {_PARTS}, got {row[2]!r}.")
    return [r[0] for r in rows], np.array([r[1] for r in rows]), np.array([r[2] for r in rows])


def _locate(root: Path, paths: list[str]) -> list[str]:
    # Looks for the first image's folder, not for "Img": some file systems take "img" for "Img".
    below = [base for base in (root / "Img", root) if (base / paths[0]).parent.is_dir()]
    return [str((below or [root])[0] / path) for path in paths]
