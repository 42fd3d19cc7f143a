"""Images listed in a table, CSV or Parquet: path, label, split; super_class, camera if wanted."""

from pathlib import Path

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data.datasets import tables
from dcjax.data.datasets.image_set import (
    JUNK,
    ImageSet,
    Splits,
    from_classes,
    no_images,
    require_unseen,
)
from dcjax.data.datasets.request import Request

_ABOVE, _CAMERA = "super_class", "camera"


def load(request: Request, *, manifest: str) -> Splits:
    """Loads the images of a table.

    Its rows are in one split each: train and test, or train, query and gallery, and if wanted
    validation; no class is in two of train, validation and those to test. If there is a column
    camera, each row has one, and rows of the label "-1" are junk, as in the names of Market-1501's
    files: they are left out. Further columns are passed over.

    Args:
      request: Its root is the folder that relative paths start from; "": that of the table.
      manifest: Path of the table: .csv or .tsv with a header line, or .parquet.
    """
    if not manifest:
        raise InputError(
            "Dataset 'manifest' needs a table, got an empty dataset.manifest; set "
            "--config.dataset.manifest=/path/to/table.csv (or .tsv, .parquet)."
        )
    path = Path(naming.expand(manifest))
    folder = Path(request.root) if request.root else path.parent
    columns = ("path", "label", "split")
    remedy = "correct dataset.manifest"
    optional = [_ABOVE, _CAMERA]
    table = tables.read(path, columns, optional=optional, folder=folder, remedy=remedy)
    if _CAMERA in table:
        is_kept = table["label"] != JUNK
        table = {name: values[is_kept] for name, values in table.items()}
    images = np.array([str(folder / image) for image in table["path"]], np.str_)
    used = set(table["split"].tolist())
    tested = used - {"train", "validation"}
    lacks_train = request.with_train and "train" not in used
    if lacks_train or tested not in ({"test"}, {"query", "gallery"}):
        raise InputError(
            f"{path}: require the splits train and test, or train, query and gallery, got "
            f"{', '.join(sorted(used)) or 'no rows'}; validation may be beside them."
        )
    above = _super_classes(table, path) if _ABOVE in table else None

    def take(split: str) -> ImageSet:
        rows = table["split"] == split
        alike = np.isin(table["split"], list(tested)) if split in tested else rows
        return from_classes(
            images[rows],
            table["label"][rows],
            among=table["label"][alike],
            super_classes=above,
            cameras=table[_CAMERA][rows] if _CAMERA in table else None,
        )

    sets = {"query" if split == "test" else split: take(split) for split in sorted(tested)}
    if not request.with_train:
        return Splits(no_images(), **sets)
    if "validation" in used:
        sets["validation"] = take("validation")
    return require_unseen(Splits(take("train"), **sets), path)


def _super_classes(table: dict[str, np.ndarray], path: Path) -> dict[str, str]:
    above = dict(zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True))
    for label, name in zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True):
        if above[label] != name:
            raise InputError(
                f"{path}: all rows of a label must have the same {_ABOVE}, got {name!r} and "
                f"{above[label]!r} for {label!r}."
            )
    return above
