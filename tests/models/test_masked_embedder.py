"""The embedder applies masks before the normalisation and keeps frozen statistics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from slow_resnet import random_variables, slow_conv, slow_resnet

from dcjax.models import masked_embedder, pixel_statistics, vit


def embedder(name: str = "resnet_small", **changes: Any) -> masked_embedder.MaskedEmbedder:
    options: dict[str, Any] = {
        "num_stages": 1,
        "width": 4,
        "batch_norm": "frozen",
        "convolution": "auto",
        "custom": {},
        "embedding_dim": 6,
        "max_clusters": 4,
        "pooling": "average",
        "dropout": 0.0,
        "test_masks": "sum",
    }
    return masked_embedder.create(name, **options | changes)


def apply(
    model: masked_embedder.MaskedEmbedder, variables: Any, *inputs: Any, **options: Any
) -> Any:
    return jax.jit(functools.partial(model.apply, **options))(variables, *inputs)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)


def filled(model: masked_embedder.MaskedEmbedder, size: int = 8) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_variables(shapes))


def normalized(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_pooled(
    model: masked_embedder.MaskedEmbedder, variables: Any, pixels: np.ndarray
) -> np.ndarray:
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    backbone = {name: variables[name]["backbone"] for name in ("params", "batch_stats")}
    *_, features = slow_resnet(x.reshape(-1, *x.shape[-3:]), model.backbone, backbone)
    return features.mean(axis=(1, 2)).reshape(*x.shape[:-3], -1)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
    ],
)
def test_backbones_have_the_published_number_of_parameters(name: str, published: int) -> None:
    net = embedder(name, num_stages=4, width=64).backbone
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == published


@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_truncated_network_has_the_stages_before_the_cut(num_stages: int) -> None:
    model = embedder("resnet18", num_stages=num_stages)
    variables = filled(model, 32)
    stages = {name.split("_")[0] for name in variables["params"]["backbone"] if "layer" in name}
    assert stages == {f"layer{stage + 1}" for stage in range(num_stages)}
    assert variables["params"]["embedding"]["kernel"].shape == (4 * 2 ** (num_stages - 1), 6)


def test_frozen_statistics_are_used_in_training_and_never_change() -> None:
    model = embedder()
    variables, pixels = filled(model), images(5, 8, 8)

    def objective(params: Any) -> tuple[jax.Array, Any]:
        outputs, updated = model.apply(
            variables | {"params": params}, pixels, train=True, mutable=["batch_stats"]
        )
        return outputs["embedding"].sum(), (outputs, updated)

    gradient = jax.jit(jax.grad(objective, has_aux=True))
    gradients, (outputs, updated) = gradient(variables["params"])
    expected = apply(model, variables, pixels)
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    for name, gradient in flatten_dict(gradients).items():
        assert np.all(np.any(gradient != 0, axis=-1)), name  # including gamma and beta


def test_train_uses_batch_statistics_and_updates_running_ones_by_a_tenth() -> None:
    model = embedder(batch_norm="train")
    variables, pixels = filled(model), images(5, 8, 8)
    before = variables["batch_stats"]["backbone"]["bn1"]

    def trained(stats: Any) -> tuple[Any, Any]:
        changed = variables | {"batch_stats": stats}
        return apply(model, changed, pixels, train=True, mutable=["batch_stats"])

    outputs, updated = trained(variables["batch_stats"])
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    y = slow_conv(x, variables["params"]["backbone"]["conv1"]["kernel"], 1)
    after = updated["batch_stats"]["backbone"]["bn1"]
    for name, of_batch in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        expected = 0.9 * before[name] + 0.1 * of_batch
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6)
    others, _ = trained(jax.tree.map(lambda s: s + 1.0, variables["batch_stats"]))
    np.testing.assert_array_equal(outputs["embedding"], others["embedding"])


def test_train_statistics_are_only_read_at_test_time() -> None:
    frozen, train = embedder(), embedder(batch_norm="train")
    variables, pixels = filled(frozen), images(2, 8, 8)
    actual, expected = apply(train, variables, pixels), apply(frozen, variables, pixels)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("full_embedding", [False, True])
def test_batch_is_masked_by_its_cluster_and_then_normalised(full_embedding: bool) -> None:
    model = embedder()
    variables, pixels = filled(model), images(2, 3, 8, 8)
    masks = np.maximum(variables["masks"]["masks"], 0)
    pooled = slow_pooled(model, variables, pixels)
    embedding = pooled @ variables["params"]["embedding"]["kernel"]
    embedding = embedding + variables["params"]["embedding"]["bias"]
    chosen = masks.sum(0) if full_embedding else masks[[2, 1], None]
    outputs = apply(model, variables, pixels, jnp.array([2, 1]), full_embedding)
    np.testing.assert_allclose(outputs["backbone"], normalized(pooled), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outputs["embedding"], normalized(embedding * chosen), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("test_masks", ["sum", "sum_l1", "none"])
def test_masks_are_combined_at_test_time(test_masks: str) -> None:
    model = embedder(test_masks=test_masks)
    variables, pixels = filled(model), images(2, 8, 8)
    masks = np.maximum(variables["masks"]["masks"], 0)
    combined = {"sum": masks.sum(0), "sum_l1": (masks.T / masks.sum(1)).sum(1), "none": np.ones(6)}
    embedding = slow_pooled(model, variables, pixels) @ variables["params"]["embedding"]["kernel"]
    embedding = embedding + variables["params"]["embedding"]["bias"]
    actual = apply(model, variables, pixels)["embedding"]
    np.testing.assert_allclose(actual, normalized(embedding * combined[test_masks]), 1e-4, 1e-5)


def test_only_the_mask_of_the_cluster_gets_a_gradient() -> None:
    model = embedder()
    variables, pixels = filled(model), images(1, 3, 8, 8)

    def objective(masks: jax.Array) -> jax.Array:
        changed = variables | {"masks": {"masks": masks}}
        return model.apply(changed, pixels, jnp.array([2]))["embedding"].sum()

    gradient = np.asarray(jax.jit(jax.grad(objective))(jnp.ones((4, 6))))
    assert gradient[2].any()
    assert not gradient[[0, 1, 3]].any()


def test_dropout_applies_to_the_pooled_features_in_training_only() -> None:
    model = embedder(dropout=0.5, embedding_dim=16, width=16)
    variables, pixels = filled(model), images(4, 8, 8)
    variables["params"]["embedding"] = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    variables["masks"]["masks"] = jnp.eye(4)[:, :1] * jnp.ones(16)
    pooled = slow_pooled(model, variables, pixels)
    at_test = apply(model, variables, pixels)
    np.testing.assert_allclose(at_test["embedding"], normalized(pooled), rtol=1e-4)
    for seed in (0, 1):
        rngs = {"dropout": jax.random.key(seed)}
        trained = apply(model, variables, pixels, train=True, rngs=rngs)
        kept = trained["embedding"] != 0
        assert 16 < kept.sum() < 48  # of 64
        np.testing.assert_allclose(trained["embedding"], normalized(pooled * kept), rtol=1e-4)
        np.testing.assert_allclose(trained["backbone"], at_test["backbone"], rtol=1e-5)


def test_max_pooling_takes_the_largest_value_of_the_feature_map() -> None:
    model = embedder(pooling="max")
    variables, pixels = filled(model), images(2, 8, 8)
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    backbone = {name: variables[name]["backbone"] for name in ("params", "batch_stats")}
    *_, features = slow_resnet(x, model.backbone, backbone)
    actual = apply(model, variables, pixels)["backbone"]
    np.testing.assert_allclose(actual, normalized(features.max(axis=(1, 2))), 1e-4, 1e-5)


def test_initial_model_has_pytorchs_linear_init_and_one_mask() -> None:
    model = embedder(width=16, embedding_dim=512)
    fresh = jax.jit(model.init)(jax.random.key(0), images(1, 8, 8))
    for values in fresh["params"]["embedding"].values():  # within 1 / sqrt(16)
        assert 0.24 < values.max() <= 0.25
        assert -0.25 <= values.min() < -0.24
        np.testing.assert_allclose(values.std(), 0.25 / 3**0.5, rtol=0.1)
    assert set(fresh["params"]) == {"backbone", "embedding"}  # masks are not parameters
    np.testing.assert_array_equal(fresh["masks"]["masks"], np.eye(4)[:, :1] * np.ones(512))


def test_orthogonal_embedding_begins_with_the_cosines_of_the_pooled_features() -> None:
    pixels = images(5, 8, 8)
    model = embedder(width=16, embedding_dim=24, embedding_init="orthogonal")
    outputs = apply(model, jax.jit(model.init)(jax.random.key(0), pixels), pixels)
    pooled, embedding = np.asarray(outputs["backbone"]), np.asarray(outputs["embedding"])
    assert np.ptp(pooled @ pooled.T) > 1e-3  # the images differ
    np.testing.assert_allclose(embedding @ embedding.T, pooled @ pooled.T, atol=1e-6)
    narrow = embedder(width=16, embedding_init="orthogonal")
    fresh = jax.jit(narrow.init)(jax.random.key(0), pixels)["params"]["embedding"]
    np.testing.assert_allclose(fresh["kernel"].T @ fresh["kernel"], np.eye(6), atol=1e-6)
    assert not fresh["bias"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vgg"}, r"'vgg'; known are .*resnet101, resnet18.*resnet_small"),
        ({"num_stages": 4}, r"must be 1 to 3 for resnet_small, got 4"),
        ({"num_stages": 0}, r"must be 1 to 3 for resnet_small, got 0"),
        ({"batch_norm": "sync"}, r"'sync'; known are frozen, train"),
        ({"pooling": "gem"}, r"'gem'; known are average, class, class_and_average, max"),
        ({"embedding_init": "pca"}, r"model\.embedding_init 'pca'; known are orthogonal, torch"),
    ],
)
def test_errors_name_the_value_and_the_alternatives(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedder(**changes)


@pytest.fixture
def small_vit(monkeypatch: pytest.MonkeyPatch) -> str:
    """Adds a network that is small enough for a test."""
    monkeypatch.setitem(vit.SIZES, "vit_small", (8, 1, 2))
    return "vit_small"


def embedder_of_vit(name: str, **changes: Any) -> masked_embedder.MaskedEmbedder:
    options = {"num_stages": 4, "width": 64, "vit": {"patch_size": 4, "registers": 2}}
    return embedder(name, **options | changes)


def test_vision_transformers_are_pooled_by_class_token_patches_or_both(small_vit: str) -> None:
    pixels = images(3, 8, 12)
    variables = jax.jit(embedder_of_vit(small_vit).init)(jax.random.key(0), pixels)
    backbone = embedder_of_vit(small_vit).backbone
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    forward = jax.jit(functools.partial(backbone.apply, train=False))
    token, patches = forward({"params": variables["params"]["backbone"]}, x)
    assert patches.shape == (3, 2, 3, 8)
    expected = {
        "class": token,
        "average": patches.mean(axis=(1, 2)),
        "max": patches.max(axis=(1, 2)),
        "class_and_average": np.concatenate([token, patches.mean(axis=(1, 2))], axis=-1),
    }
    for pooling, features in expected.items():
        model = embedder_of_vit(small_vit, pooling=pooling)
        variables = jax.jit(model.init)(jax.random.key(0), pixels)
        actual = apply(model, variables, pixels)["backbone"]
        np.testing.assert_allclose(actual, normalized(features), 1e-4, 1e-5, err_msg=pooling)
        assert len(variables["params"]["embedding"]["kernel"]) == features.shape[1]


@pytest.mark.parametrize("pooling", ["class", "class_and_average"])
def test_pooling_that_needs_a_class_token_is_refused_without_one(pooling: str) -> None:
    message = f"model.pooling={pooling} needs a class token, but {{}} has none; give average or max"
    with pytest.raises(ValueError, match=message.format("resnet_small")):
        embedder(pooling=pooling)
    model = embedder().clone(pooling=pooling)
    with pytest.raises(ValueError, match=message.format("the backbone, which returns a .*,")):
        model.init(jax.random.key(0), images(1, 8, 8))


def test_pixels_get_the_mean_and_deviation_of_the_setting(small_vit: str) -> None:
    pixels = images(2, 8, 8)
    without = {"vit": {"patch_size": 4, "layer_scale": False}}
    model = embedder_of_vit(small_vit, pixels="half", **without)
    variables = jax.jit(model.init)(jax.random.key(0), pixels)
    params = {"params": variables["params"]["backbone"]}
    forward = jax.jit(functools.partial(model.backbone.apply, train=False))
    _, patches = forward(params, (pixels / 255 - 0.5) / 0.5)
    actual = apply(model, variables, pixels)["backbone"]
    np.testing.assert_allclose(actual, normalized(patches.mean(axis=(1, 2))), 1e-4, 1e-5)
    with pytest.raises(
        ValueError, match=r"vit_small without LayerScale .*=imagenet .*=half .* auto"
    ):
        embedder_of_vit(small_vit, **without)
    imagenet = pixel_statistics.KNOWN["imagenet"]
    assert embedder().statistics == embedder_of_vit(small_vit).statistics == imagenet


@pytest.mark.parametrize(
    "changes", [{"num_stages": 3}, {"width": 32}, {"num_stages": 3, "width": 32}]
)
def test_settings_of_resnets_are_refused_for_vision_transformers(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"are of ResNets: require 4 and 64 for vit_base, got \d"):
        embedder_of_vit("vit_base", **changes)


def test_rematerialised_resnet_has_the_same_variables_and_gradients() -> None:
    variables, pixels = filled(embedder(num_stages=2)), images(2, 8, 8)
    gradients, residuals = [], []
    for rematerialize in (False, True):
        model = embedder(num_stages=2, rematerialize=rematerialize)

        def objective(params: Any, model: masked_embedder.MaskedEmbedder = model) -> jax.Array:
            outputs, _ = model.apply(
                {**variables, "params": params}, pixels, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(outputs["embedding"] * jnp.arange(6))

        gradients.append(jax.jit(jax.grad(objective))(variables["params"]))
        kept = jax.eval_shape(lambda p, f=objective: jax.vjp(f, p)[1], variables["params"])
        residuals.append(sum(x.size for x in jax.tree.leaves(kept)))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, *gradients)
    assert residuals[1] < residuals[0]


@pytest.mark.parametrize("convolution", ["xla", "matmul"])
def test_bfloat16_is_used_in_the_backbone_only(convolution: str):
    pixels, clusters = images(2, 4, 16, 16), np.zeros(2, np.int32)
    outputs, gradients = {}, {}
    variables = filled(embedder(num_stages=3), size=16)
    for precision in masked_embedder.PRECISIONS:
        model = embedder(num_stages=3, precision=precision, convolution=convolution)

        def objective(params: Any, model: masked_embedder.MaskedEmbedder = model) -> Any:
            outputs = model.apply({**variables, "params": params}, pixels, clusters, train=True)
            return jnp.sum(outputs["embedding"] * jnp.arange(6)), outputs

        gradients[precision], outputs[precision] = jax.jit(jax.grad(objective, has_aux=True))(
            variables["params"]
        )
        text = str(jax.make_jaxpr(functools.partial(model.apply, variables))(pixels[0]))
        assert ("bf16[" in text) == (precision == "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, gradients))} == {np.dtype("float32")}
    exact, rough = outputs["float32"]["embedding"], outputs["bfloat16"]["embedding"]
    assert 1e-5 < np.abs(exact - rough).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(rough, axis=-1), 1, atol=1e-6)  # not bfloat16's 4e-3
    steps = jax.tree.map(lambda a, b: np.sum(a * b) / np.sum(a * a), *gradients.values())
    np.testing.assert_allclose(jax.tree.leaves(steps["backbone"]["conv1"]), 1, atol=0.1)
