"""Images listed in a table, CSV or Parquet: path, label, split and, if wanted, super_class."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from dcjax import regular_files
from dcjax.datasets.image_set import ImageSet, Splits, from_classes, require_unseen
from dcjax.errors import InputError, MissingFileError

_COLUMNS = ("path", "label", "split")
_ABOVE = "super_class"
_SPLITS = ("train", "test", "query", "gallery")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def load(root: str, *, manifest: str) -> Splits:
    """Loads the images of a table.

    Its rows are in one split each: train and test, or train, query and gallery; classes to test
    are not in train. Further columns are passed over.

    Args:
      root: Folder that relative paths start from; "": that of the table.
      manifest: Path of the table: .csv or .tsv with a header line, or .parquet.
    """
    if not manifest:
        raise InputError(
            "Dataset 'manifest' needs a table, got an empty dataset.manifest; set "
            "--config.dataset.manifest=/path/to/table.csv (or .tsv, .parquet)."
        )
    path = Path(manifest).expanduser()
    table = _read(path)
    folder = Path(root).expanduser() if root else path.parent
    images = np.array([str(folder / image) for image in table["path"]], np.str_)
    used = set(table["split"].tolist())
    tested = used - {"train"}
    if "train" not in used or tested not in ({"test"}, {"query", "gallery"}):
        raise InputError(
            f"{path}: require the splits train and test, or train, query and gallery, got "
            f"{', '.join(sorted(used)) or 'no rows'}."
        )
    is_train = table["split"] == "train"
    above = _super_classes(table, path) if _ABOVE in table else None

    def take(split: str) -> ImageSet:
        rows = table["split"] == split
        among = table["label"][is_train == (split == "train")]
        return from_classes(images[rows], table["label"][rows], among=among, super_classes=above)

    sets = {"query" if split == "test" else split: take(split) for split in sorted(used)}
    return require_unseen(Splits(**sets), path)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns that count, str[N] each, without an empty value."""
    regular_files.require(path)
    if not path.is_file():
        raise MissingFileError(f"There is no table {path}; correct dataset.manifest.")
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".parquet"):
        raise InputError(f"{path}: require a table .csv, .tsv or .parquet, got {path.suffix!r}.")
    try:
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            parsing = pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[suffix])
            kinds = dict.fromkeys((*_COLUMNS, _ABOVE), pyarrow.string())
            converting = pyarrow.csv.ConvertOptions(column_types=kinds)
            table = pyarrow.csv.read_csv(path, None, parsing, converting)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"Cannot read the table {path}: {str(error).splitlines()[0]}") from None
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise InputError(
            f"{path}: require the columns {', '.join(_COLUMNS)}, got "
            f"{', '.join(table.column_names)}; there is no {' and no '.join(missing)}."
        )
    columns = {}
    for name in (*_COLUMNS, *({_ABOVE} & set(table.column_names))):
        if (count := table.column_names.count(name)) > 1:
            raise InputError(f"{path}: require one column {name}, got {count}.")
        values = _texts(path, name, table[name])
        for row, value in enumerate(values, start=1):
            if not value or (name == "split" and value not in _SPLITS):
                known = f" ({', '.join(_SPLITS)})" if name == "split" else ""
                raise InputError(
                    f"{path}, image {row}: require a {name}{known}, got {value or ''!r}."
                )
        columns[name] = np.array(values, np.str_)
    return columns


def _texts(path: Path, name: str, column: pyarrow.ChunkedArray) -> list[str | None]:
    if pyarrow.types.is_floating(column.type):
        raise InputError(f"{path}: require text or whole numbers as {name}, got {column.type}.")
    try:
        return column.cast(pyarrow.string()).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read {name} as text: {error}") from None


def _super_classes(table: dict[str, np.ndarray], path: Path) -> dict[str, str]:
    above = dict(zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True))
    for label, name in zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True):
        if above[label] != name:
            raise InputError(
                f"{path}: all rows of a label must have the same {_ABOVE}, got {name!r} and "
                f"{above[label]!r} for {label!r}."
            )
    return above
