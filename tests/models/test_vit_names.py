"""Each published weight of a vision transformer fills the right leaf once, in every spelling."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
import published_vit
import pytest
import safetensors.numpy
from published_vit import LAYOUTS, SPELLINGS, Layout, Tensors

from dcjax.models import position_grids, pretrained, resnet, vit

WITH_CLASS = {
    name: dataclasses.replace(layout, position_of_class=True) for name, layout in LAYOUTS.items()
}
# ViTModel has no LayerScale and no SwiGLU, DINOv2's code always has LayerScale.
CASES = [
    (spelling, name)
    for spelling, name in itertools.product(SPELLINGS, LAYOUTS)
    if spelling == "timm" or spelling.startswith("ViTModel") == (name == "dino")
]


@functools.cache
def shapes(layout: Layout, grid: int | None = None) -> Any:
    net = vit.ViT(
        width=layout.width,
        depth=layout.depth,
        num_heads=layout.num_heads,
        patch_size=layout.patch_size,
        registers=layout.registers,
        layer_scale=layout.layer_scale,
        mlp=layout.mlp,
    )
    side = (grid or layout.grid) * layout.patch_size
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]


@functools.cache
def shapes_of_resnet() -> Any:
    block, _, stem = resnet.BACKBONES["resnet18"]
    net = resnet.ResNet(block, (2, 2), stem, 4, frozen_statistics=True, convolution="auto")
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def tensors(layout: Layout) -> Tensors:
    """Returns weights in which no value occurs twice, in timm's names."""
    values = itertools.count()
    return {
        name: np.fromiter(values, np.float32, int(np.prod(shape))).reshape(shape)
        for name, shape in published_vit.shapes(layout).items()
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Writes tensors to a file and fills a network of a layout from it."""

    def load(weights: Tensors, layout: Layout, *, grid: int | None = None, say: Any = None) -> Any:
        np.savez(tmp_path / "weights", **weights)
        path = str(tmp_path / "weights.npz")
        return pretrained.load(path, shapes(layout, grid), {}, download=False, say=say)[0]

    return load


def all_values(values: Any) -> list[float]:
    return sorted(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)]).tolist())


@pytest.mark.parametrize(("spelling", "name"), CASES)
def test_every_leaf_is_filled_once_in_every_spelling(spelling: str, name: str, load) -> None:
    layout = (LAYOUTS if spelling == "timm" else WITH_CLASS)[name]
    weights = tensors(layout)
    filled = load(SPELLINGS[spelling](weights), layout, say=pytest.fail)
    # The position of the class token is 0 where timm has none.
    added = [] if layout.position_of_class else [0.0] * layout.width
    assert all_values(filled) == sorted(all_values(weights) + added)
    jax.tree.map(
        lambda x, leaf: np.testing.assert_equal((x.shape, x.dtype), (leaf.shape, leaf.dtype)),
        filled,
        shapes(layout),
    )
    np.testing.assert_array_equal(
        filled["blocks_1"]["attn"]["qkv"]["kernel"], weights["blocks.1.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(
        filled["patch_embed"]["kernel"][3, 5], weights["patch_embed.proj.weight"][:, :, 3, 5].T
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("module.", []),
        ("_orig_mod.", []),
        ("backbone.", ["dino_head.mlp.0.weight", "ibot_head.last_layer.weight_g"]),
        ("module.backbone.", ["module.head.last_layer.weight_v"]),
        ("model.backbone._orig_mod.", ["model.head.weight", "n_averaged"]),
    ],
)
def test_prefix_is_removed_and_reported(
    prefix: str, beside: list[str], spelling: str, load
) -> None:
    layout = WITH_CLASS["dino"]
    weights = tensors(layout)
    renamed = {prefix + key: x for key, x in SPELLINGS[spelling](weights).items()}
    renamed |= {name: np.ones(3, np.float32) for name in beside}
    messages: list[str] = []
    jax.tree.map(
        np.testing.assert_array_equal,
        load(renamed, layout, say=messages.append),
        load(weights, layout),
    )
    rest = f"; left out: {', '.join(beside)}" if beside else ""
    assert messages == [f"weights   by their names without {prefix!r}{rest}"]


@pytest.mark.parametrize(
    ("prefix", "spelling", "head"),
    [
        ("", "timm", ["head.weight", "head.bias"]),
        ("vit.", "ViTModel 4", ["classifier.weight"]),
        ("vit.", "ViTModel 5", ["vit.pooler.dense.weight", "classifier.bias"]),
        ("dinov2.", "Dinov2Model 4", ["classifier.weight"]),
        ("dinov2_with_registers.", "Dinov2Model 5", ["classifier.weight"]),
    ],
)
def test_classifier_is_skipped_and_published_prefixes_need_no_message(
    prefix: str, spelling: str, head: list[str], load
) -> None:
    layout = WITH_CLASS["dino"]
    weights = tensors(layout)
    renamed = {prefix + key: x for key, x in SPELLINGS[spelling](weights).items()}
    renamed |= {name: np.full(5, np.nan, np.float32) for name in head}
    filled = load(renamed, layout, say=pytest.fail)
    jax.tree.map(np.testing.assert_array_equal, filled, load(weights, layout))


@pytest.mark.parametrize(
    ("spelling", "name", "method"),
    [
        ("timm", "dino", position_grids.TIMM),
        ("timm", "dinov2", position_grids.TIMM),
        ("timm", "registers", position_grids.TIMM),
        ("facebook", "dinov2", position_grids.DINOV2),
        ("facebook's chunks", "dinov2", position_grids.DINOV2),
        ("facebook", "registers", position_grids.TIMM),
        ("ViTModel 4", "dino", position_grids.HUGGING_FACE),
        ("ViTModel 5", "dino", position_grids.HUGGING_FACE),
        ("Dinov2Model 4", "dinov2", position_grids.HUGGING_FACE),
        ("Dinov2Model 5", "registers", position_grids.TIMM),
    ],
)
def test_positions_are_resized_to_the_crop_as_the_source_does(
    spelling: str, name: str, method: position_grids.Method, load
) -> None:
    layout = (LAYOUTS if spelling == "timm" else WITH_CLASS)[name]
    weights = published_vit.draw(published_vit.shapes(layout))
    stored = weights["pos_embed"][0][-(layout.grid**2) :].reshape(layout.grid, layout.grid, -1)
    for grid in (2, 5):
        filled = load(SPELLINGS[spelling](weights), layout, grid=grid)["pos_embed"]
        expected = position_grids.resize(stored, grid, method).reshape(grid**2, -1)
        np.testing.assert_allclose(filled[1:], expected, rtol=1e-6, atol=1e-6)
        of_class = weights["pos_embed"][0, 0] if layout.position_of_class else 0
        np.testing.assert_array_equal(filled[0], np.broadcast_to(of_class, layout.width))


def test_one_error_names_missing_unused_duplicate_and_misshaped_tensors(load) -> None:
    layout = WITH_CLASS["dinov2"]
    weights = SPELLINGS["Dinov2Model 4"](tensors(layout))
    del weights["encoder.layer.0.attention.attention.key.weight"], weights["layernorm.bias"]
    weights["norm.weight"] = weights["layernorm.weight"]
    weights["encoder.layer.1.norm1.bias"] = np.ones(4, np.float32)
    weights["embeddings.dist_token"] = np.ones(4, np.float32)
    weights["embeddings.cls_token"][0, 0, 3] = np.nan
    with pytest.raises(ValueError, match="do not fit the backbone") as error:
        load(weights, layout)
    missing, left_over, twice, wrong, not_finite = (
        str(error.value).split("backbone. ")[1].split(". ")
    )
    assert missing == "Missing: blocks.0.attn.qkv.weight, norm.bias"
    assert left_over == (
        "Nothing takes: embeddings.dist_token, encoder.layer.0.attention.attention.query.weight, "
        "encoder.layer.0.attention.attention.value.weight"
    )
    assert twice == "Twice: layernorm.weight and norm.weight"
    assert wrong == (
        "Wrong shape or type: encoder.layer.1.norm1.bias (need float (12,), found float32 (4,))"
    )
    assert not_finite == "Not finite: cls_token (1 of 12 values)."


@pytest.mark.parametrize(("rows", "dtype"), [(8, "float32"), (11, "float32"), (5, "int8")])
def test_positions_of_no_square_or_no_floats_are_refused(rows: int, dtype: str, load) -> None:
    layout = WITH_CLASS["dino"]
    weights = tensors(layout) | {"pos_embed": np.ones((1, rows, 12), dtype)}
    shape = rf"pos_embed \(need float \(10, 12\), found {dtype} \({rows}, 12\)\)"
    with pytest.raises(ValueError, match=shape):
        load(weights, layout)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "dinov2",
            {"patch_size": 16},
            "model.vit.patch_size=14, but the settings are model.vit.patch_size=16; give "
            "--config.model.vit.patch_size=14, or other weights.",
        ),
        (
            "dino",
            {"patch_size": 14, "layer_scale": True},
            "model.vit.patch_size=16, model.vit.layer_scale=False, but the settings are "
            "model.vit.patch_size=14, model.vit.layer_scale=True; give "
            "--config.model.vit.patch_size=16 --config.model.vit.layer_scale=false, or other "
            "weights.",
        ),
        (
            "registers",
            {"registers": 0},
            "model.vit.registers=4, but the settings are model.vit.registers=0; give "
            "--config.model.vit.registers=4, or other weights.",
        ),
        (
            "swiglu",
            {"mlp": "gelu"},
            "model.vit.mlp=swiglu, but the settings are model.vit.mlp=gelu; give "
            "--config.model.vit.mlp=swiglu, or other weights.",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_other_settings_than_the_weights_have_are_named_with_the_flags_to_give(
    name: str, changes: dict[str, Any], message: str, prefix: str, load
) -> None:
    layout = WITH_CLASS[name]
    weights = {prefix + key: x for key, x in tensors(layout).items()}
    with pytest.raises(ValueError, match=f"npz has weights of {re.escape(message)}$"):
        load(weights, dataclasses.replace(layout, **changes))


def test_weights_of_another_size_are_named(load) -> None:
    deeper = dataclasses.replace(WITH_CLASS["dinov2"], depth=3)
    with pytest.raises(
        ValueError,
        match=r"of model.backbone=a vision transformer of 3 blocks and width 12, .* 2 blocks and "
        r"width 12; known are vit_small, vit_base, vit_large\.$",
    ):
        load(tensors(deeper), WITH_CLASS["dinov2"])
    small, base = (
        dataclasses.replace(WITH_CLASS["dinov2"], width=width, depth=12) for width in (384, 768)
    )
    weights = {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in published_vit.shapes(small).items()
    }
    with pytest.raises(ValueError, match=r"=vit_small, .*=vit_base; give .*backbone=vit_small, or"):
        load(weights, base)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_file_of_a_vision_transformer_for_a_resnet_is_refused_and_the_reverse(
    spelling: str, load, tmp_path: Path
) -> None:
    layout = WITH_CLASS["dino"]
    np.savez(tmp_path / "vit", **SPELLINGS[spelling](tensors(layout)))
    variables = shapes_of_resnet()
    with pytest.raises(
        ValueError,
        match=r"vit.npz has weights of a vision transformer of 2 blocks and width 12, but "
        r"the backbone is a ResNet; give",
    ):
        pretrained.load(
            str(tmp_path / "vit.npz"), variables["params"], variables["batch_stats"], download=False
        )
    of_resnet = published.draw(published.shapes("resnet18", width=4, num_stages=2))
    for weights in (of_resnet, {published.hugging_face_name(k): x for k, x in of_resnet.items()}):
        with pytest.raises(
            ValueError, match=r"npz has weights of a ResNet, but the backbone is a vision transf"
        ):
            load(weights, layout)


def test_half_precision_is_resized_and_converted(tmp_path: Path) -> None:
    layout = WITH_CLASS["dinov2"]
    weights = published_vit.draw(published_vit.shapes(layout))
    halves = {name: x.astype(jnp.bfloat16) for name, x in weights.items()}
    safetensors.numpy.save_file(SPELLINGS["facebook"](halves), tmp_path / "half")
    filled, _ = pretrained.load(str(tmp_path / "half"), shapes(layout, 5), {}, download=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(filled)} == {np.dtype("float32")}
    stored = halves["pos_embed"][0, 1:].astype(np.float64).reshape(3, 3, -1)
    expected = position_grids.resize(stored, 5, position_grids.DINOV2).reshape(25, -1)
    np.testing.assert_allclose(filled["pos_embed"][1:], expected, rtol=1e-6, atol=1e-6)
