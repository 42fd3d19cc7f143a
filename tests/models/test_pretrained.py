"""Each published weight fills the right leaf exactly once; tensors that do not fit are named."""

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy
from torch_bytes import legacy_file, pickled, storage, tensor

from dcjax.core.errors import FileError
from dcjax.models import pretrained
from dcjax.models.resnet import BACKBONES, ResNet

REAL = Path(__file__).parents[3] / "shared" / "data" / "weights" / "resnet18_layer3.safetensors"

Tensors = dict[str, np.ndarray]


@functools.cache
def backbone(name: str = "resnet18", num_stages: int = 2, width: int = 4) -> tuple[Any, Any]:
    """Returns the shapes of parameters and running statistics of a truncated network."""
    block, stage_sizes, stem = BACKBONES[name]
    net = ResNet(
        block=block,
        stage_sizes=stage_sizes[:num_stages],
        stem=stem,
        width=width,
        frozen_statistics=True,
        convolution="auto",
    )
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    return shapes["params"], shapes["batch_stats"]


def tensors(name: str = "resnet18", num_stages: int = 2, **options: Any) -> Tensors:
    """Returns weights in which no value occurs twice."""
    options = {"width": 4, "counters": False, "head": False} | options
    shapes = published.shapes(name, num_stages=num_stages, **options)
    values = itertools.count()
    return {
        name: np.fromiter(values, np.float32, int(np.prod(shape))).reshape(shape)
        for name, shape in shapes.items()
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Writes tensors to a file and fills a backbone from it."""

    def load(weights: Tensors, say: Any = None, **options: Any) -> tuple[Any, Any]:
        np.savez(tmp_path / "weights", **weights)
        path = str(tmp_path / "weights.npz")
        return pretrained.load(path, *backbone(**options), download=False, say=say)

    return load


def all_values(tree: Any) -> list[float]:
    return sorted(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "torchvision and timm": lambda name: name,
    "parallel": lambda name: f"module.{name}",
    "hugging face": published.hugging_face_name,
    "hugging face's backbone": lambda name: published.hugging_face_name(name).removeprefix(
        "resnet."
    ),
}


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", published.BLOCKS)
def test_every_leaf_is_filled_once_in_every_spelling(
    name: str, spelling: str, counters: bool, head: bool, load
) -> None:
    weights = tensors(name, 4, counters=counters, head=head)
    renamed = {SPELLINGS[spelling](key): value for key, value in weights.items()}
    assert len(renamed) == len(weights)
    filled = load(renamed, name=name, num_stages=4)
    expected = [x for key, x in weights.items() if not re.search(r"^fc|num_batches", key)]
    assert all_values(filled) == all_values(expected)
    jax.tree.map(
        lambda x, leaf: np.testing.assert_equal((x.shape, x.dtype), (leaf.shape, leaf.dtype)),
        filled,
        backbone(name, 4),
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_leaves_are_in_the_right_place_and_kernels_transposed(spelling: str, load) -> None:
    weights = tensors()
    params, stats = load({SPELLINGS[spelling](key): value for key, value in weights.items()})
    shortcut = params["layer2_0"]["downsample_0"]["kernel"]
    kernel = params["layer2_0"]["conv1"]["kernel"]
    for out, into, i, j in [(0, 0, 0, 0), (7, 3, 2, 1), (5, 0, 0, 2)]:
        assert kernel[i, j, into, out] == weights["layer2.0.conv1.weight"][out, into, i, j]
    assert shortcut[0, 0, 3, 6] == weights["layer2.0.downsample.0.weight"][6, 3, 0, 0]
    for leaf, name in [
        (params["bn1"]["scale"], "bn1.weight"),
        (params["layer1_1"]["bn2"]["scale"], "layer1.1.bn2.weight"),
        (params["layer1_1"]["bn2"]["bias"], "layer1.1.bn2.bias"),
        (stats["layer2_1"]["bn1"]["mean"], "layer2.1.bn1.running_mean"),
        (stats["layer2_0"]["downsample_1"]["var"], "layer2.0.downsample.1.running_var"),
    ]:
        np.testing.assert_array_equal(leaf, weights[name])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_classifier_counters_and_later_stages_are_skipped(spelling: str, load) -> None:
    complete = tensors(num_stages=4, counters=True, head=True)
    renamed = {SPELLINGS[spelling](key): value for key, value in complete.items()}
    cut = {key: value for key, value in complete.items() if key in tensors()}
    jax.tree.map(np.testing.assert_array_equal, load(renamed), load(cut))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_converted_to_float32(dtype: str, load, tmp_path: Path) -> None:
    weights = {name: (x % 64).astype(jnp.dtype(dtype)) for name, x in tensors().items()}
    safetensors.numpy.save_file(weights, tmp_path / "half")
    params, _ = pretrained.load(str(tmp_path / "half"), *backbone(), download=False)
    kernel = params["layer1_0"]["conv1"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(
        kernel.transpose(3, 2, 0, 1), tensors()["layer1.0.conv1.weight"] % 64
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("_orig_mod.", []),
        ("backbone.", ["head.fc.weight", "head.last_layer.weight_g", "prototypes.weight"]),
        ("model.", ["criterion.proxies"]),
        ("encoder.", ["decoder.layer1.0.conv1.weight", "queue"]),
        ("module._orig_mod.backbone.", ["module._orig_mod.head.0.weight"]),
        ("model.backbone._orig_mod.", ["model.head.weight", "n_averaged"]),
        ("module.encoder_q.", ["module.queue"]),
    ],
)
def test_prefix_is_removed_and_reported(
    prefix: str, beside: list[str], spelling: str, load, tmp_path: Path
) -> None:
    weights = tensors(num_stages=3, counters=True, head=True)
    renamed = {prefix + SPELLINGS[spelling](key): value for key, value in weights.items()}
    renamed |= {name: np.ones(3, np.float32) for name in beside}
    messages: list[str] = []
    np.savez(tmp_path / "renamed", **renamed)
    safetensors.numpy.save_file(renamed, tmp_path / "renamed.safetensors")
    for file in ("renamed.npz", "renamed.safetensors"):
        filled = pretrained.load(
            str(tmp_path / file), *backbone(), download=False, say=messages.append
        )
        jax.tree.map(np.testing.assert_array_equal, filled, load(weights))
    assert messages[0] == messages[1] or set(beside) <= set(re.findall(r"[\w.]+", messages[1]))
    full = f"{prefix}module." if spelling == "parallel" else prefix
    rest = f"; left out: {', '.join(beside)}" if beside else ""
    assert messages[0] == f"weights   by their names without {full!r}{rest}"


def test_published_names_load_without_a_message(load, tmp_path: Path) -> None:
    load(tensors(), say=pytest.fail)
    load({published.hugging_face_name(key): x for key, x in tensors().items()}, say=pytest.fail)


def test_file_with_two_networks_is_refused(load) -> None:
    weights = {
        f"module.{network}.{name}": x
        for network in ("encoder_q", "encoder_k")
        for name, x in tensors().items()
    }
    with pytest.raises(
        ValueError, match=r"behind 'encoder_q\.' and 'encoder_k\.'; save the wanted"
    ):
        load(weights)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(value, dtype: str, tmp_path: Path) -> None:
    weights = {name: (x % 64).astype(jnp.dtype(dtype)) for name, x in tensors().items()}
    weights["layer1.0.bn2.bias"][[1, 3]] = value
    safetensors.numpy.save_file(weights, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"Not finite: layer1.0.bn2.bias \(2 of 4 values\)\.$"):
        pretrained.load(str(tmp_path / "weights"), *backbone(), download=False)


def test_values_beyond_float32_and_negative_variances_are_refused(load) -> None:
    weights = {name: x.astype(np.float64) for name, x in tensors().items()}
    weights["conv1.weight"][0, 0, 0, 0] = 1e300
    weights["bn1.running_var"][2] = -1e-3
    with pytest.raises(
        ValueError,
        match=r"Not finite: conv1.weight \(1 of 588 values\)\. Below 0: bn1.running_var\.$",
    ):
        load(weights)


def test_skipped_tensors_may_hold_any_values(load) -> None:
    weights = tensors(num_stages=4, head=True, counters=True)
    weights["fc.weight"][:] = np.nan
    weights["layer4.0.conv1.weight"][:] = np.inf
    load(weights)


def test_error_names_only_the_first_few_of_many(load) -> None:
    other = {f"blocks.{i}.norm.weight": np.ones(3, np.float32) for i in range(40)}
    with pytest.raises(ValueError, match=r"Missing: bn1.bias, .* more\. Nothing takes: ") as error:
        load(other)
    assert "and 32 more." in str(error.value)
    with pytest.raises(ValueError, match=r"Nothing takes: 'layer1\.0\.\\x1b\[2J'") as error:
        load(tensors() | {"layer1.0.\x1b[2J": np.ones(3)})
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 800


def test_pytorch_checkpoint_fills_the_same_leaves(load, tmp_path: Path) -> None:
    program, storages = {}, []
    for key, (name, value) in enumerate(tensors().items()):
        strides = tuple(stride // 4 for stride in value.strides)
        program[f"module.{name}"] = tensor(storage(str(key), value.size), 0, value.shape, strides)
        storages.append((str(key), value.size, value.tobytes()))
    (tmp_path / "weights.pth").write_bytes(legacy_file(pickled(program), storages))
    filled = pretrained.load(str(tmp_path / "weights.pth"), *backbone(), download=False)
    jax.tree.map(np.testing.assert_array_equal, filled, load(tensors()))


def test_one_error_names_missing_unused_duplicate_and_misshaped_tensors(load) -> None:
    weights = tensors()
    del weights["bn1.weight"], weights["layer2.1.bn2.running_var"]
    weights["layer1.2.conv1.weight"] = np.ones((4, 4, 3, 3), np.float32)  # of a deeper network
    weights["module.conv1.weight"] = weights["conv1.weight"]
    weights["layer1.0.conv2.weight"] = np.ones((8, 4, 3, 3), np.float32)
    weights["layer1.0.bn2.bias"] = np.ones(4, np.int8)  # quantised
    with pytest.raises(ValueError, match="do not fit the backbone") as error:
        load(weights)
    missing, left_over, twice, wrong = str(error.value).split("backbone. ")[1].split(". ")
    assert missing == "Missing: bn1.weight, layer2.1.bn2.running_var"
    assert left_over == "Nothing takes: layer1.2.conv1.weight"
    assert twice == "Twice: conv1.weight and module.conv1.weight"
    assert wrong == (
        "Wrong shape or type: layer1.0.bn2.bias (need float (4,), found int8 (4,)), "
        "layer1.0.conv2.weight (need float (4, 4, 3, 3), found float32 (8, 4, 3, 3))."
    )


@pytest.mark.parametrize(
    ("published_name", "message"),
    [("resnet34", "Nothing takes: layer1.2.bn1.bias"), ("resnet50", "Nothing takes: layer1.0.bn3")],
)
def test_weights_of_another_network_are_refused(published_name: str, message: str, load) -> None:
    with pytest.raises(ValueError, match=message):
        load(tensors(published_name))


def test_file_with_too_few_stages_is_refused(load) -> None:
    with pytest.raises(ValueError, match=r"Missing: layer2\.0\.bn1\.bias, "):
        load(tensors(num_stages=1))


def test_missing_and_damaged_files_are_named(tmp_path: Path, load) -> None:
    load(tensors())
    path = tmp_path / "weights.npz"
    for missing in ("/nowhere/w.safetensors", "resnet50", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=rf"model\.pretrained='{missing}'; give"):
            pretrained.load(missing, *backbone(), download=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"Cannot read {path}"):
        pretrained.load(str(path), *backbone(), download=False)


def test_hub_name_is_looked_up_unless_a_file_of_that_name_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.pretrained='some/net': .*download=true"):
        pretrained.load("some/net", *backbone(), download=False)
    folder = tmp_path / "models--some--net"
    for path, content in (
        (folder / "refs" / "main", b"1234"),
        (folder / "snapshots" / "1234" / "model.safetensors", safetensors.numpy.save(tensors())),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    filled = pretrained.load("some/net", *backbone(), download=False)
    jax.tree.map(np.testing.assert_array_equal, filled, load(tensors()))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "net").write_bytes(b"a file")
    with pytest.raises(ValueError, match="Cannot read some/net"):
        pretrained.load("some/net", *backbone(), download=False)


def test_inaccessible_path_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(FileError, match=r"Cannot read model\.pretrained='x+': File name too long"):
        pretrained.check("x" * 5000, download=False)


@pytest.mark.skipif(not REAL.is_file(), reason=f"needs the real weights {REAL}")
def test_real_weights_fill_resnet18_after_its_third_stage() -> None:
    params, stats = pretrained.load(str(REAL), *backbone(num_stages=3, width=64), download=False)
    published = safetensors.numpy.load_file(REAL)
    expected = [x for name, x in published.items() if not name.endswith("num_batches_tracked")]
    assert all_values((params, stats)) == all_values(expected)
    np.testing.assert_array_equal(
        params["layer3_1"]["conv2"]["kernel"][1, 2],
        published["layer3.1.conv2.weight"][:, :, 1, 2].T,
    )
