"""Custom loss, miner and backbone, taken verbatim from the guide, train."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from forks import launch
from ml_collections import ConfigDict

import dcjax
from dcjax import losses
from dcjax.core import plugins
from dcjax.division import masks
from dcjax.experiment import versions
from dcjax.losses import mining
from dcjax.models import masked_embedder

_ROOT = Path(__file__).parents[2]
_GUIDE = (_ROOT / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the files of the guide and a finished run of them."""
    folder = tmp_path_factory.mktemp("guide")
    parts, config, _ = re.findall(r"```python\n(.*?)```", _GUIDE, re.S)
    (command,) = re.findall(r"```\n(python .*?)\n```", _GUIDE)
    (folder / "my_parts.py").write_text(parts)
    (folder / "my_config.py").write_text(config)
    _, program, *flags = command.split()
    assert program == "launch.py"
    flags += ["--config.train.num_epochs=3", "--config.loss.memory_size=128", "--workdir=run"]
    flags += ["--config.train.report=False"]
    flags += ["--config.dataset.download=true"]
    done = launch(*flags, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_parts_of_the_guide_train(trained):
    lines = (trained / "run" / "metrics.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines if "train/boundary" in line]
    # Both the parameter of the loss and the network are trained: chance is 0.2.
    assert abs(curve[-1]["train/boundary"] - 0.5) > 0.01
    scores = json.loads((trained / "run" / "scores.json").read_text())
    assert scores["last"]["recall_at_1"] > 0.8


def _config_of(run):
    path = run / "config.json"
    return ConfigDict(versions.parse(json.loads(path.read_text()), str(path)))


def test_code_named_by_a_saved_run_is_imported_only_with_consent(trained, monkeypatch):
    monkeypatch.syspath_prepend(trained)
    workdir, config = str(trained / "run"), _config_of(trained / "run")
    checkpoint = next((trained / "run" / "checkpoints").iterdir())
    for path in (workdir, str(checkpoint)):
        with pytest.raises(ValueError, match="'my_parts:two_convolutions': importing it runs it"):
            dcjax.load(path)
    config.model.backbone = "my_config:get_config"  # code named by the caller, but other code
    with pytest.raises(ValueError, match="holds a run of another config"):
        dcjax.load(workdir, config)
    assert not {"my_parts", "my_config"} & sys.modules.keys()

    image = np.zeros((1, 8, 8, 3), np.uint8)
    trusting = dcjax.load(workdir, trust_custom_code=True)(image)
    with_config = dcjax.load(workdir, _config_of(trained / "run"))(image)
    np.testing.assert_array_equal(trusting, with_config)


@pytest.mark.parametrize(("flags", "code"), [([], 1), (["--trust_custom_code"], 0)])
def test_evaluation_imports_code_of_a_run_only_with_consent(trained, flags, code):
    parts = (trained / "my_parts.py").read_text()
    marker = trained / f"imported{code}"
    folder = trained / f"again{code}"
    folder.mkdir()
    (folder / "my_parts.py").write_text(f"{parts}\nopen({str(marker)!r}, 'w').close()\n")
    # The settings of a single run come from its config.json, so they need consent too.
    done = launch("--mode=evaluate", f"--workdir={trained / 'run'}", *flags, folder=folder)
    assert done.returncode == code, done.stderr
    assert marker.exists() is (code == 0)
    assert code == 0 or "--trust_custom_code" in done.stderr


def test_loaded_run_downloads_only_if_the_caller_allows_it(trained, monkeypatch):
    monkeypatch.syspath_prepend(trained)
    workdir, config = str(trained / "run"), _config_of(trained / "run")
    assert not dcjax.load(workdir, trust_custom_code=True).config.dataset.download
    assert dcjax.load(workdir, config).config.dataset.download  # allowed by the caller


@pytest.mark.parametrize(
    "name",
    [
        "numpy:memmap",  # empties the file that its options name
        "numpy.lib.format:open_memmap",  # also accepts dtype
        "os:system",
        "os:makedirs",  # of a module that is frozen into Python
        "builtins:exec",
        "builtins:open",
        "shutil:rmtree",
        "subprocess:Popen",
        "subprocess:run",
        "runpy:run_path",
        "pickle:loads",
        "importlib:import_module",
        "functools:partial",
        "jax.numpy:save",
        "my_others:system",  # imported into a custom file from elsewhere
        "my_others:rmtree",
        "my_others:remove_all",
        "my_others:cached",
        "installed:unannotated",
        "installed:annotated_otherwise",
    ],
)
@pytest.mark.parametrize("returns", [nn.Module, losses.Loss, Callable])
def test_functions_not_written_as_parts_are_not_called(name, returns, tmp_path, monkeypatch):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "installed.py").write_text(
        "def unannotated(**options): pass\ndef annotated_otherwise(**options) -> int: pass\n"
    )
    (tmp_path / "my_others.py").write_text(
        "import functools\nfrom os import system\nfrom shutil import rmtree\n"
        "remove_all = functools.partial(rmtree, ignore_errors=True)\n"
        "cached = functools.cache(rmtree)\n"
    )
    for folder in (tmp_path, tmp_path / "site-packages"):
        monkeypatch.syspath_prepend(folder)
    for module in ("installed", "my_others"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ValueError, match=f"{name} is not called: require a function in a file of"):
        plugins.load(name, returns)


def test_installed_parts_must_annotate_what_they_return(tmp_path, monkeypatch):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "my_package.py").write_text(
        "from __future__ import annotations\nimport functools\nfrom flax import linen as nn\n"
        "from dcjax.losses import Loss\nfrom dcjax.losses.mining import Miner, create\n"
        "class Net(nn.Module): pass\n"
        "@functools.cache\ndef net(**options) -> Net: return Net()\n"
        "def loss(**options) -> Loss: return Loss(dict, dict)\n"
        "def miner(**options) -> Miner: return create('all')\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    for name, returns in (
        ("net", nn.Module),
        ("Net", nn.Module),
        ("loss", losses.Loss),
        ("miner", Callable),
    ):
        assert isinstance(plugins.load(f"my_package:{name}", returns)(), returns)


def test_proxies_of_the_guide_use_the_mask(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    *_, proxies = re.findall(r"```python\n(.*?)```", _GUIDE, re.S)
    (tmp_path / "my_proxies.py").write_text(proxies)
    custom = losses.create("my_proxies:proxies", num_classes=5, embedding_dim=8, scale=20.0)
    builtin = losses.create("normalized_softmax", num_classes=5, embedding_dim=8, temperature=0.05)
    key, mask = jax.random.key(0), jnp.arange(8.0)
    x = masks.apply(jax.random.normal(key, (6, 8)), mask)
    params, labels = custom.init(key), jnp.arange(6) % 5
    for given in (mask, None):
        actual, expected = (
            loss.apply(params, x, labels, key, mask=given) for loss in (custom, builtin)
        )
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)


def test_unknown_module_or_function_and_wrong_return_type_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "others.py").write_text("def one(**options):\n    return 1\n")
    for name in ("nowhere:part", "nowhere.at_all:part", ":part", "..above:part"):
        with pytest.raises(ValueError, match=f"can be imported, got '{name}'"):
            losses.create(name, num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="Require a function 'nothing' in others"):
        losses.create("others:nothing", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="others:one must return a Loss, got a int"):
        losses.create("others:one", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="others:one must return a Callable, got a int"):
        mining.create("others:one")
    with pytest.raises(ValueError, match="others:one must return a Module, got a int"):
        masked_embedder.create(
            "others:one",
            num_stages=0,
            width=0,
            batch_norm="",
            convolution="",
            custom={},
            pooling="average",
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_package", ModuleNotFoundError),
        ("import math; math.nothing", AttributeError),
        ("def part(**_): return len(0)", TypeError),
    ],
)
def test_error_inside_custom_code_is_raised_unchanged(text, error, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"has_{error.__name__}.py").write_text(text)
    with pytest.raises(error):
        mining.create(f"has_{error.__name__}:part")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("e", r"must return a scalar and a dict of scalars, got the shapes \(4, 2\)"),
        ("(e.sum(1), {})", r"got the shapes \(\(4,\), \{\}\)"),
        ("(e.sum(), {'norm': e})", r"\{'norm': \(4, 2\)\}"),
        ("(e.sum(), {'loss': e.sum()})", "must not call a scalar 'loss'"),
    ],
)
def test_custom_loss_must_return_a_scalar_and_scalar_metrics(
    output, message, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"returns_{abs(hash(output))}"
    text = f"def loss(**_):\n    return Loss(lambda k: {{}}, lambda p, e, y, k: {output})\n"
    (tmp_path / f"{name}.py").write_text(f"from dcjax.losses import Loss\n{text}")
    loss = losses.create(f"{name}:loss", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match=message):
        loss.apply({}, jnp.ones((4, 2)), jnp.zeros(4, int), jax.random.key(0))


def test_custom_loss_may_only_request_known_inputs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "from dcjax.losses import Loss\ndef loss(**_):\n    return Loss(dict, dict, ('masks',))\n"
    )
    (tmp_path / "takes_too_much.py").write_text(text)
    with pytest.raises(ValueError, match=r"may take mask and memory besides, got \('masks',\)"):
        losses.create("takes_too_much:loss", num_classes=2, embedding_dim=2)


def test_options_that_do_not_match_the_signature_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "part_of_mine.py").write_text("def miner(*, cutoff):\n    return max\n")
    with pytest.raises(ValueError, match=r"gets the options cut: missing .*'cutoff'"):
        mining.create("part_of_mine:miner", cut=1.0)
    assert mining.create("part_of_mine:miner", cutoff=1.0)
    assert plugins.is_custom("a:b")
    assert not plugins.is_custom("margin")
