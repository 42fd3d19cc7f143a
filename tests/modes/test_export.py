"""A run is exported as one file, which JAX alone runs and `dcjax.load` reads."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import small_runs
from forks import launch

import dcjax
from configs import digits
from dcjax.core.errors import FileError, InputError
from dcjax.distributed import devices
from dcjax.experiment import exported, parts
from dcjax.experiment.network import Network
from dcjax.modes import export
from dcjax.modes.train import train

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was exported, with its file and card in the folder `export`."""
    workdir = tmp_path_factory.mktemp("run")
    config = digits.get_config()
    changes = {"train.num_epochs": 1, "model.num_stages": 2, "paper": {"recall_at_1": 75.0}}
    config.update_from_flattened_dict(small_runs.TINY | changes)
    train(config, str(workdir))
    export.export(str(workdir), None)
    return workdir


def _images(number: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, side, side, 3), np.uint8)


def test_an_exported_file_embeds_as_the_run_does(run: Path) -> None:
    embedder, loaded = dcjax.load(str(run)), dcjax.load(str(run / "export/embedder.jax"))
    function = jax.export.deserialize(bytearray((run / "export/embedder.jax").read_bytes()))
    assert function.platforms == ("cpu", "cuda", "tpu")
    for number in (1, 3, 128):
        images = _images(number)
        expected = embedder(images)
        found = function.call(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(loaded(list(images)), expected, atol=1e-5)
    for images in ([_images(1, side)[0] for side in (5, 8, 20)], []):
        np.testing.assert_allclose(loaded(images), embedder(images), atol=1e-5)


def test_a_file_has_the_size_of_its_parameters() -> None:
    network = Network(digits.get_config(), devices.create_mesh())
    variables = jax.jit(network.model.init)(jax.random.key(0), _images(1))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert parameters < len(exported.serialize(network, variables)) < 1.25 * parameters


def test_the_file_has_the_convolutions_of_cpus_and_those_of_other_platforms(run: Path) -> None:
    embedder = dcjax.load(str(run))

    def count(method: str) -> int:
        model = parts.create_model(embedder.config, convolution=method)
        jaxpr = jax.make_jaxpr(model.apply)(embedder._variables, _images(1))
        return str(jaxpr).count("conv_general_dilated[")

    assert count("matmul") < count("xla")
    blob = bytearray((run / "export/embedder.jax").read_bytes())
    module = str(jax.export.deserialize(blob).mlir_module())
    found = module.count("= stablehlo.convolution(")  # JAX may repeat both for each platform
    assert found > 0
    assert found % (count("matmul") + count("xla")) == 0


_ALONE = """
import sys
for name in ("flax", "orbax", "tensorflow", "dcjax", "ml_collections"):
    sys.modules[name] = None
import numpy as np
images = np.load("images.npy")
{lines}
np.save("embeddings.npy", embeddings)
"""


@pytest.mark.parametrize("document", ["card", "docs/serving.md"])
def test_the_lines_of_the_documents_need_jax_alone(
    document: str, run: Path, tmp_path: Path
) -> None:
    text = (run / "export/README.md" if document == "card" else _ROOT / document).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (lines,) = (block for block in blocks if "export.deserialize" in block)
    assert len(lines.split("\n")) - lines.count("\n\n") - 1 <= 5
    (tmp_path / "embedder.jax").symlink_to(run / "export/embedder.jax")
    np.save(tmp_path / "images.npy", _images(3))
    done = subprocess.run(
        [sys.executable, "-c", _ALONE.format(lines=lines)],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = dcjax.load(str(run))(_images(3))
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, atol=1e-5)


def test_the_card_says_what_was_exported(run: Path) -> None:
    card = (run / "export/README.md").read_text()
    scores = dcjax.load(str(run)).scores
    for words in (
        "Licence: to be filled in",
        "Data set `digits`",
        "training: 901 images of 5 classes",
        "test: 896 images of 5 classes",
        f"| recall_at_1 | {scores['recall_at_1']:.4f} |",
        "Of checkpoint 14, after epoch 1.",
        "`model.width=4`",
        f"dcjax {dcjax.__version__} and JAX {jax.__version__}",
    ):
        assert words in card
    assert "optimizer.name" not in card
    assert "dataset.root" not in card
    assert "paper." not in card  # what a paper has is no setting


def test_the_card_of_a_run_stopped_in_an_epoch_has_no_scores(run: Path, tmp_path: Path) -> None:
    copy = str(tmp_path / "run")
    shutil.copytree(run, copy)
    small_runs.save_within_epoch(copy, after_steps=3)
    stopped = dcjax.load(copy)
    assert (stopped.epoch, stopped.epoch_step, stopped.scores) == (1, 3, {})
    card = export.describe(stopped, "embedder.jax")
    assert "This checkpoint was not evaluated." in card
    assert "in epoch 2, after 3 steps." in card


def test_the_command_writes_where_it_is_told_and_refuses_what_is_wrong(
    run: Path, tmp_path: Path
) -> None:
    given = ["--mode=export", f"--workdir={run}"]
    done = launch(*given, f"--output={tmp_path}/new/birds.jax")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["README.md", "birds.jax"]
    assert 'Path("birds.jax")' in (tmp_path / "new/README.md").read_text()

    (tmp_path / "README.md").write_text("# My project\n")
    refused = launch(*given, f"--output={tmp_path}/birds.jax")
    assert refused.returncode == 1
    assert f"{tmp_path}/README.md is not a model card" in refused.stderr
    assert not (tmp_path / "birds.jax").exists()
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_a_failed_write_leaves_the_file_before(run: Path, monkeypatch: Any) -> None:
    before = (run / "export/embedder.jax").read_bytes()

    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etils.epath.Path.write_bytes", fail, raising=False)
    monkeypatch.setattr("etils.epath.gpath.PosixGPath.write_bytes", fail, raising=False)
    with pytest.raises(FileError, match="No space left"):
        export.export(str(run), None)
    assert (run / "export/embedder.jax").read_bytes() == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jax"
    wrong.write_bytes(b"not a function")
    with pytest.raises(InputError, match=r"wrong.jax must be a file that --mode=export wrote"):
        dcjax.load(str(wrong))
    other = jax.export.export(jax.jit(jax.numpy.negative))(np.ones(3))
    wrong.write_bytes(other.serialize())
    with pytest.raises(InputError, match="got the function 'negative'"):
        dcjax.load(str(wrong))
