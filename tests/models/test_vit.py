"""The vision transformer equals timm's and transformers', block by block, and in its gradients."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published_vit
import pytest
from flax.traverse_util import flatten_dict
from published_vit import LAYOUTS, Layout

from dcjax.models import position_grids, pretrained, vit, vit_names, weight_names

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vit.npz")
GRIDS = (2, 3, 5)
NATIVE = 3
# Names in the file: names of the weights that the source's code uses.
SOURCES = {
    "timm/dino": dict,
    "timm/dinov2": dict,
    "timm/registers": dict,
    "timm/swiglu": dict,
    "ViTModel/dino": published_vit.vit_model_5,
    "Dinov2Model/dinov2": published_vit.dinov2_model_5,
    "Dinov2Model/swiglu": published_vit.dinov2_model_5,
    "Dinov2Model/registers": published_vit.dinov2_model_5,
}


def network(layout: Layout, **changes: Any) -> vit.ViT:
    options = {
        "width": layout.width,
        "depth": layout.depth,
        "num_heads": layout.num_heads,
        "patch_size": layout.patch_size,
        "registers": layout.registers,
        "layer_scale": layout.layer_scale,
        "mlp": layout.mlp,
    } | changes
    return vit.ViT(**options)


def layout_of(source: str) -> Layout:
    layout = LAYOUTS[source.split("/")[1]]
    of_timm = source.startswith("timm")
    return layout if of_timm else Layout(**(vars(layout) | {"position_of_class": True}))


def load(source: str, net: vit.ViT, images: np.ndarray, tmp_path: Path) -> Any:
    """Returns the parameters, read from a file in the names of a source."""
    weights = published_vit.draw(published_vit.shapes(layout_of(source)))
    np.savez(tmp_path / "weights.npz", **SOURCES[source](weights))
    params = shapes_of(net, images)
    return pretrained.load(str(tmp_path / "weights.npz"), params, {}, download=False)[0]


def shapes_of(net: vit.ViT, images: np.ndarray) -> Any:
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)["params"]


def tokens(net: vit.ViT, params: Any, images: np.ndarray) -> list[jax.Array]:
    """Returns the tokens after each block and after the final norm."""
    apply = functools.partial(net.apply, train=True, capture_intermediates=True)
    _, captured = jax.jit(functools.partial(apply, mutable="intermediates"))(
        {"params": params}, images
    )
    names = [*(f"blocks_{index}" for index in range(net.depth)), "norm"]
    return [captured["intermediates"][name]["__call__"][0] for name in names]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_block_agrees_with_pytorch(source: str, grid: int, tmp_path: Path) -> None:
    """Compares with the numbers of benchmarks/golden_vit.py for equal weights and images."""
    layout = layout_of(source)
    net, images = network(layout), published_vit.images(grid * layout.patch_size)
    params = load(source, net, images, tmp_path)
    for number, actual in enumerate(tokens(net, params, images), 1):
        expected = GOLDEN[f"{source}/{grid}/{number}"]
        np.testing.assert_allclose(actual[0], expected, rtol=1e-4, atol=1e-4)
    last = GOLDEN[f"{source}/{grid}/{layout.depth + 1}"]
    token, patches = jax.jit(functools.partial(net.apply, train=False))({"params": params}, images)
    np.testing.assert_allclose(token[0], last[0], rtol=1e-4, atol=1e-4)
    expected = last[1 + layout.registers :].reshape(grid, grid, -1)
    np.testing.assert_allclose(patches[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_gradients_agree_with_pytorch(source: str, tmp_path: Path) -> None:
    layout, grid = layout_of(source), GRIDS[-1]
    net = network(layout)
    images = published_vit.images(grid * layout.patch_size)
    params = load(source, net, images, tmp_path)

    def objective(params: Any) -> jax.Array:
        token, patches = net.apply({"params": params}, images, train=True)
        factors = published_vit.loss_weights(layout, grid)
        of_patches = patches.reshape(2, -1, layout.width) * factors[:, 1 + layout.registers :]
        return jnp.sum(token * factors[:, 0]) + jnp.sum(of_patches)

    gradients = flatten_dict({"params": jax.jit(jax.grad(objective))(params)})
    named = {vit_names.KIND.leaf_name(leaf): as_in_file(leaf, x) for leaf, x in gradients.items()}
    named["pos_embed"] = of_stored_positions(named["pos_embed"], source, grid)
    actual = SOURCES[source](named)
    expected = {
        key.removeprefix(f"{source}/gradients/"): GOLDEN[key]
        for key in GOLDEN.files
        if key.startswith(f"{source}/gradients/")
    }
    assert expected.keys() == actual.keys() - {"embeddings.mask_token"}
    for name, gradient in expected.items():
        size = max(1, np.abs(gradient).max())  # that of a key's bias is 0 but for rounding
        x = actual[name].reshape(gradient.shape)
        np.testing.assert_allclose(x, gradient, rtol=1e-4, atol=1e-5 * size, err_msg=name)


def as_in_file(leaf: tuple[str, ...], value: jax.Array) -> np.ndarray:
    return np.asarray(value).transpose(weight_names._file_axes(leaf, value.ndim))


def of_stored_positions(gradient: np.ndarray, source: str, grid: int) -> np.ndarray:
    """Returns the gradient by the embeddings before they are resized."""
    of_timm = source.startswith("timm") or "registers" in source
    method = position_grids.TIMM if of_timm else position_grids.HUGGING_FACE
    each = np.eye(NATIVE**2).reshape(NATIVE, NATIVE, -1)
    resized = position_grids.resize(each, grid, method).reshape(grid**2, -1)
    patches = resized.T @ gradient[1:]
    with_class = layout_of(source).position_of_class
    return np.concatenate([gradient[:1], patches]) if with_class else patches


@pytest.mark.parametrize("source", ["timm", "hugging_face", "dinov2"])
def test_position_embeddings_are_resized_as_the_source_does(source: str) -> None:
    methods = {
        "timm": position_grids.TIMM,
        "hugging_face": position_grids.HUGGING_FACE,
        "dinov2": position_grids.DINOV2,
    }
    golden = [key for key in GOLDEN.files if key.startswith(f"positions/{source}/")]
    assert len(golden) == 4
    for key in golden:
        old, new = map(int, key.split("/")[2:])
        actual = position_grids.resize(published_vit.grid(old), new, methods[source])
        np.testing.assert_allclose(actual, GOLDEN[key], rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("name", "size", "options", "published"),
    [
        ("vit_small", 224, {"patch_size": 16, "layer_scale": False}, 21_665_664),
        ("vit_small", 518, {}, 22_056_192),
        # timm's network has no position of the class token, ours has: 384 more.
        ("vit_small", 518, {"registers": 4}, 22_057_344 + 384),
        ("vit_base", 518, {}, 86_579_712),
        ("vit_large", 224, {"patch_size": 16, "layer_scale": False}, 303_301_632),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    name: str, size: int, options: dict[str, Any], published: int
) -> None:
    params = shapes_of(vit.create(name, **options), np.zeros((1, size, size, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == published


def random_params(net: vit.ViT, images: np.ndarray) -> Any:
    return jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), images)["params"]


def objective_of(net: vit.ViT, images: np.ndarray) -> Any:
    def objective(params: Any) -> jax.Array:
        token, patches = net.apply({"params": params}, images, train=True)
        return jnp.sum(token**2) + jnp.sum(patches[:, 0])

    return objective


def test_rematerialisation_keeps_less_for_the_gradient_and_changes_no_number() -> None:
    net, images = network(Layout(width=16, depth=4)), published_vit.images(14 * 8)
    params = random_params(net, images)
    values, kept = [], []
    for rematerialize in (False, True):
        objective = objective_of(net.clone(rematerialize=rematerialize), images)
        values.append(jax.jit(jax.value_and_grad(objective))(params))
        residuals = jax.eval_shape(lambda params, f=objective: jax.vjp(f, params)[1], params)
        kept.append(sum(x.size for x in jax.tree.leaves(residuals)))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, *values)
    assert kept[1] < kept[0] / 4


def test_bfloat16_activations_leave_parameters_and_gradients_in_float32() -> None:
    layout = LAYOUTS["registers"]
    exact = network(layout)
    rough, images = exact.clone(dtype=jnp.bfloat16), published_vit.images(42)
    params = random_params(rough, images)
    token, patches = jax.jit(functools.partial(rough.apply, train=False))(
        {"params": params}, images
    )
    assert token.dtype == patches.dtype == jnp.bfloat16
    (value, gradients), (expected, _) = (
        jax.jit(jax.value_and_grad(objective_of(net, images)))(params) for net in (rough, exact)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradients))} == {np.dtype("float32")}
    np.testing.assert_allclose(value, expected, rtol=0.05)
    assert float(value) != float(expected)


def test_float64_is_kept_throughout() -> None:
    """JAX's attention has its weights in float32 in any case; float64 has a path of its own."""
    net, images = network(LAYOUTS["registers"]), published_vit.images(42)
    params = jax.tree.map(lambda x: 5 * x, random_params(net, images))  # attention is not uniform
    expected, expected_gradients = jax.jit(jax.value_and_grad(objective_of(net, images)))(params)
    with jax.enable_x64(True):
        exact = net.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        objective = objective_of(exact, images.astype(np.float64))
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        value, gradients = jax.jit(jax.value_and_grad(objective))(params)
        text = str(jax.make_jaxpr(objective)(params))
    assert "f32" not in text
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(compare, gradients, expected_gradients)


class _Device:
    def __init__(self, platform: str, capability: str | None) -> None:
        self.platform = platform
        if capability:
            self.compute_capability = capability


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "chosen"),
    [
        ("gpu", "9.0", jnp.bfloat16, "cudnn"),
        ("gpu", "12.0", jnp.float16, "cudnn"),
        ("gpu", "9.0", jnp.float32, "xla"),
        ("gpu", "7.5", jnp.bfloat16, "xla"),
        ("gpu", "gfx942", jnp.bfloat16, "xla"),  # of AMD
        ("cpu", None, jnp.bfloat16, "xla"),
        ("tpu", None, jnp.bfloat16, "xla"),
    ],
)
def test_flash_attention_is_chosen_where_the_device_has_it(
    platform: str, capability: str, dtype: Any, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(platform, capability)])
    assert vit.choose_attention("auto", dtype) == chosen
    assert vit.choose_attention("xla", dtype) == "xla"


def test_crop_that_patches_do_not_divide_is_an_error_with_the_nearest() -> None:
    net = network(LAYOUTS["dinov2"])
    with pytest.raises(ValueError, match=r"14 x 14 .* multiple of 14, got 227; .*: 224 or 238\."):
        net.init(jax.random.key(0), np.zeros((1, 224, 227, 3)), train=False)
    with pytest.raises(ValueError, match=r"dataset.crop .* got 9; the nearest: 14\.$"):
        vit.check_size("dataset.crop", 9, 14)
    vit.check_size("dataset.crop", 28, 14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_giant"}, "'vit_giant'; known are vit_base, vit_large, vit_small"),
        ({"mlp": "relu"}, "model.vit.mlp 'relu'; known are gelu, swiglu"),
        ({"attention": "triton"}, "model.vit.attention 'triton'; known are auto, xla, cudnn"),
        ({"patch_size": 0}, "model.vit.patch_size, a whole number of at least 1, got 0"),
        ({"registers": -1}, "model.vit.registers, a whole number of at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vit.create(**{"name": "vit_small"} | options)
