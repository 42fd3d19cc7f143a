"""Published weights land in the right place, each exactly once; what does not fit is named."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dcjax import pretrained
from dcjax.resnet import BasicBlock, ResNet

REAL = Path(__file__).parents[2] / "shared" / "data" / "weights" / "resnet18_layer3.safetensors"

Tensors = dict[str, np.ndarray]


def backbone(num_stages: int = 2, width: int = 4) -> tuple[Any, Any]:
    """Returns a fresh ResNet-18, cut after a stage: parameters and running statistics."""
    net = ResNet(
        block=BasicBlock,
        stage_sizes=(2,) * num_stages,
        stem="imagenet",
        width=width,
        frozen_statistics=True,
        convolution="auto",
    )
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    return shapes["params"], shapes["batch_stats"]


def torchvision_shapes(num_stages: int) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of torchvision's ResNet-18, of width 4."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        shapes[f"{conv}.weight"] = shape
        names = ("weight", "bias", "running_mean", "running_var")
        shapes.update({f"{norm}.{name}": shape[:1] for name in names})

    add("conv1", "bn1", 4, 3, 7, 7)
    for stage, block in itertools.product(range(num_stages), range(2)):
        name, width = f"layer{stage + 1}.{block}", 4 * 2**stage
        into = width // 2 if stage and not block else width
        add(f"{name}.conv1", f"{name}.bn1", width, into, 3, 3)
        add(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
        if into < width:
            add(f"{name}.downsample.0", f"{name}.downsample.1", width, into, 1, 1)
    return shapes


def tensors(num_stages: int = 2) -> Tensors:
    """Returns weights in which no value occurs twice."""
    shapes = torchvision_shapes(num_stages)
    values = itertools.count()
    return {
        name: np.array(list(itertools.islice(values, int(np.prod(shape)))), np.float32).reshape(
            shape
        )
        for name, shape in shapes.items()
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Writes tensors to a file and fills a backbone from it."""

    def load(weights: Tensors, **options: int) -> tuple[Any, Any]:
        safetensors.numpy.save_file(weights, tmp_path / "weights.safetensors")
        return pretrained.load(str(tmp_path / "weights.safetensors"), *backbone(**options))

    return load


def all_values(tree: Any) -> list[float]:
    return sorted(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist())


def test_every_leaf_is_filled_once_and_keeps_its_shape_and_type(load) -> None:
    filled = load(tensors())
    assert all_values(filled) == all_values(tensors())
    for found, expected in zip(filled, backbone(), strict=True):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
            lambda x: (x.shape, x.dtype), expected
        )


def test_leaves_are_in_their_place_and_kernels_transposed(load) -> None:
    weights = tensors()
    params, stats = load(weights)
    shortcut = params["layer2_0"]["downsample_0"]["kernel"]
    kernel = params["layer2_0"]["conv1"]["kernel"]
    for out, into, i, j in [(0, 0, 0, 0), (7, 3, 2, 1), (5, 0, 0, 2)]:
        assert kernel[i, j, into, out] == weights["layer2.0.conv1.weight"][out, into, i, j]
    assert shortcut[0, 0, 3, 6] == weights["layer2.0.downsample.0.weight"][6, 3, 0, 0]
    for found, name in [
        (params["bn1"]["scale"], "bn1.weight"),
        (params["layer1_1"]["bn2"]["scale"], "layer1.1.bn2.weight"),
        (params["layer1_1"]["bn2"]["bias"], "layer1.1.bn2.bias"),
        (stats["layer2_1"]["bn1"]["mean"], "layer2.1.bn1.running_mean"),
        (stats["layer2_0"]["downsample_1"]["var"], "layer2.0.downsample.1.running_var"),
    ]:
        np.testing.assert_array_equal(found, weights[name])


def test_classifier_counters_and_later_stages_are_passed_over(load) -> None:
    whole = tensors(num_stages=4) | {
        "fc.weight": np.ones((10, 32), np.float32),
        "fc.bias": np.ones(10, np.float32),
        "bn1.num_batches_tracked": np.array(7),
        "layer2.0.downsample.1.num_batches_tracked": np.array(7),
    }
    found, expected = load(whole), load(tensors())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_one_error_names_all_that_is_missing_left_over_and_misshaped(load) -> None:
    weights = tensors()
    del weights["bn1.weight"], weights["layer2.1.bn2.running_var"]
    weights["layer1.2.conv1.weight"] = np.ones((4, 4, 3, 3), np.float32)  # of a deeper network
    weights["module.conv1.weight"] = weights["conv1.weight"]
    weights["layer1.0.conv2.weight"] = np.ones((8, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="do not fit the backbone") as error:
        load(weights)
    missing, left_over, wrong = str(error.value).split("backbone. ")[1].split(". ")
    assert missing == "Missing: bn1.weight, layer2.1.bn2.running_var"
    assert left_over == "Nothing takes: layer1.2.conv1.weight, module.conv1.weight"
    assert wrong.startswith("Wrong shape: layer1.0.conv2.weight (need (4, 4, 3, 3), found")


def test_a_file_that_is_cut_short_of_the_networks_stages_is_refused(load) -> None:
    with pytest.raises(ValueError, match=r"Missing: layer2\.0\.bn1\.bias, "):
        load(tensors(num_stages=1))


def test_a_missing_file_and_a_damaged_one_are_named(tmp_path: Path, load) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model\.pretrained='/nowhere/w\.safetensors'"):
        pretrained.load("/nowhere/w.safetensors", *backbone())
    load(tensors())
    whole = path.read_bytes()
    for damaged in (b"", b"not weights at all", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"Cannot read {path}"):
            pretrained.load(str(path), *backbone())


@pytest.mark.skipif(not REAL.is_file(), reason=f"needs the real weights {REAL}")
def test_real_weights_fill_resnet18_after_its_third_stage() -> None:
    params, stats = pretrained.load(str(REAL), *backbone(num_stages=3, width=64))
    published = safetensors.numpy.load_file(REAL)
    expected = [x for name, x in published.items() if not name.endswith("num_batches_tracked")]
    assert all_values((params, stats)) == all_values(expected)
    np.testing.assert_array_equal(
        params["layer3_1"]["conv2"]["kernel"][1, 2],
        published["layer3.1.conv2.weight"][:, :, 1, 2].T,
    )
