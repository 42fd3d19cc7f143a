"""Exports the embedder of a run as one file, with a model card."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

import dcjax
from dcjax.core.console import Console
from dcjax.core.errors import FileError
from dcjax.experiment import embedder, exported, same_run, versions
from dcjax.experiment.embedder import Embedder
from dcjax.runs import workdirs

FILE = "embedder.jax"

_CARD = "README.md"
_TITLE = "# Image embedder"
_TEMPLATE = """{title}

Maps images to vectors of {dim} numbers and length 1, in which images of one class lie near each
other. Trained and exported with dcjax {version} and JAX {jax}, for {platforms}.

Licence: to be filled in

## How to load it

With JAX alone, from `images`, uint8 [n, h, w, 3] in RGB, to float32 [n, {dim}]:

```python
{lines}
```

Images of {size} x {size} pixels are embedded as they are. Those of any other size are resized, the
shorter side to {resize} pixels, and cropped in the middle. With dcjax, from paths, PIL images or
arrays of different sizes: `dcjax.load("{file}")(images)`.

## Data

{data}

## Scores

{scores}

Of checkpoint {checkpoint}, {place}.

## Settings

{settings}
"""
_PRIVATE = {"dataset.root", "dataset.manifest", "dataset.cache_dir"}  # folders of this machine
_LINES = """from pathlib import Path
import jax
from jax import export
embed = jax.jit(export.deserialize(bytearray(Path("{file}").read_bytes())).call)
embeddings = embed(images)"""


def export(
    workdir: str, config: ConfigDict | None, *, output: str = "", trust_custom_code: bool = False
) -> None:
    """Writes the embedder of a run as one file, and its model card `README.md` beside it.

    Args:
      workdir: of the run, or one of its checkpoints.
      config: replaces the saved one, see `embedder.load`.
      output: the file; by default export/embedder.jax in the run's folder.
      trust_custom_code: whether to import a backbone that the run or the config names.

    Raises:
      FileError: if there is another README.md beside the file, or they cannot be written.
    """
    folder, _ = workdirs.locate(workdir)
    file = workdirs.as_path(output) if output else folder / "export" / FILE
    card = file.with_name(_CARD)
    if file.is_dir():
        raise FileError(f"--output must be a file, but {file} is a folder.")
    if card.exists() and not card.read_text().startswith(_TITLE):
        raise FileError(f"{card} is not a model card; give an --output in a folder of its own.")
    run = embedder.restore(workdir, config, trust_custom_code=trust_custom_code)
    content = run.export()
    workdirs.create(file.parent)
    workdirs.write(file, content)
    workdirs.write(card, describe(run, file.name))
    console = Console()
    console.print_line(f"wrote     {file} ({len(content) / 2**20:.1f} MiB)")
    console.print_line(f"wrote     {card}")


def describe(run: Embedder, file: str) -> str:
    """Returns the model card of an exported run."""
    config = run.config
    return _TEMPLATE.format(
        title=_TITLE,
        dim=config.model.embedding_dim,
        version=dcjax.__version__,
        jax=jax.__version__,
        platforms=", ".join(exported.PLATFORMS),
        lines=_LINES.format(file=file),
        file=file,
        size=config.dataset.crop,
        resize=config.dataset.resize,
        data=_data(config.dataset.name, run.data),
        scores=_scores(run.scores, run.validation_scores),
        checkpoint=run.checkpoint,
        place=run.place,
        settings=_settings(config),
    )


def _data(name: str, data: Any) -> str:
    rows = [
        f"* {what}: {data[key]['images']:,} images of {data[key]['classes']:,} classes"
        for key, what in same_run.SETS.items()
        if key in data
    ]
    return "\n".join([f"Data set `{name}`:", "", *rows])


def _scores(scores: Mapping[str, float], validation: Mapping[str, float]) -> str:
    if not scores:
        return "This checkpoint was not evaluated."
    tables = [_table("on classes not trained on", scores)]
    if validation:
        tables.append(_table("on validation classes, to choose by", validation))
    return "\n\n".join(tables)


def _table(title: str, scores: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    return "\n".join([f"| {title} | |", "| --- | --- |", *rows])


def _settings(config: ConfigDict) -> str:
    default = same_run.flatten(versions.default_settings())
    settings = same_run.flatten(config.to_dict())
    rows = [
        f"* `{key}={value!r}`"
        for key, value in settings.items()
        if default.get(key) != value
        if key not in _PRIVATE and not key.startswith("paper.")
    ]
    return "\n".join(["Those that differ from dcjax's defaults:", "", *rows])
