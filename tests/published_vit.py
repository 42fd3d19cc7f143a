"""Names, shapes and values of published vision transformers, for tests and golden numbers.

All values follow rules and need NumPy only, so they are equal with and without PyTorch.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tiny network of the layout of a published one.

    Attributes:
      patch_size: pixels.
      registers: number of them.
      layer_scale: whether there is one.
      mlp: "gelu" or "swiglu".
      grid: rows of patches that the position embeddings are of.
      position_of_class: whether the class token has one.
      width: of the network.
      depth: blocks.
      num_heads: of the attention.
    """

    patch_size: int = 14
    registers: int = 0
    layer_scale: bool = True
    mlp: str = "gelu"
    grid: int = 3
    position_of_class: bool = True
    width: int = 12
    depth: int = 2
    num_heads: int = 2

    @property
    def hidden(self) -> int:
        """Outputs of the first layer of an MLP."""
        width = 4 * self.width
        return width if self.mlp == "gelu" else 2 * ((width * 2 // 3 + 7) // 8 * 8)


LAYOUTS = {
    "dino": Layout(patch_size=16, layer_scale=False),
    "dinov2": Layout(),
    "registers": Layout(registers=4, position_of_class=False),
    "swiglu": Layout(mlp="swiglu"),
}


def shapes(layout: Layout) -> Shapes:
    """Returns the state dict of timm's network: the shape of each tensor by its name."""
    width, size = layout.width, layout.patch_size
    hidden = layout.hidden
    state_dict: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, layout.grid**2 + layout.position_of_class, width),
        "patch_embed.proj.weight": (width, 3, size, size),
        "patch_embed.proj.bias": (width,),
    }
    if layout.registers:
        state_dict["reg_token"] = (1, layout.registers, width)
    for block in range(layout.depth):
        name = f"blocks.{block}"
        outs = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        outs |= {"mlp.fc1": (hidden, width)}
        outs |= {"mlp.fc2": (width, hidden // (1 if layout.mlp == "gelu" else 2))}
        for layer, shape in outs.items():
            state_dict |= {f"{name}.{layer}.weight": shape, f"{name}.{layer}.bias": shape[:1]}
        for number in (1, 2):
            state_dict |= dict.fromkeys(
                (f"{name}.norm{number}.weight", f"{name}.norm{number}.bias"), (width,)
            )
            if layout.layer_scale:
                state_dict[f"{name}.ls{number}.gamma"] = (width,)
    return state_dict | {"norm.weight": (width,), "norm.bias": (width,)}


def draw(shapes: Shapes) -> Tensors:
    """Draws float32 weights, each seeded by its name, with which all tokens matter."""
    return {name: _draw(name, shape) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # RandomState is the only stream of NumPy that is guaranteed never to change.
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if re.search(r"norm\d?\.weight|gamma", name):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    # Attention must be far from uniform: its logits are of order one.
    fan_in = np.prod(shape[1:]) if name.endswith("weight") else 1
    scale = 2 if "qkv.weight" in name else 1
    return (scale * rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def images(size: int) -> np.ndarray:
    """Returns two normalised images, float32 [2, size, size, 3]."""
    return np.random.RandomState(size).normal(size=(2, size, size, 3)).astype(np.float32)


def loss_weights(layout: Layout, grid: int) -> np.ndarray:
    """Returns the factors, [2, tokens, width], of the last tokens in the loss: 0 for registers."""
    shape = (2, 1 + layout.registers + grid**2, layout.width)
    factors = np.random.RandomState(grid).normal(size=shape).astype(np.float32)
    factors[:, 1 : 1 + layout.registers] = 0
    return factors


def _apart(weights: Tensors, name: str, parts: tuple[str, ...]) -> Tensors:
    """Returns a stacked tensor as its parts, named by the last components of their names."""
    module, last = name.rsplit(".", 2)[0], name.rsplit(".", 1)[1]
    pieces = np.split(weights[name], len(parts))
    return {f"{module}.{part}.{last}": x for part, x in zip(parts, pieces, strict=True)}


def _renamed(weights: Tensors, patterns: tuple[tuple[str, str], ...]) -> Tensors:
    renamed = {}
    for name, value in weights.items():
        for pattern, new in patterns:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return renamed


def _with_parts(weights: Tensors, *, gate: bool) -> Tensors:
    changed: Tensors = {}
    for name, value in weights.items():
        if ".qkv." in name:
            changed |= _apart(weights, name, ("query", "key", "value"))
        elif gate and ".fc1." in name:
            changed |= _apart(weights, name, ("gate_proj", "up_proj"))
        else:
            changed[name] = value
    return changed


_EMBEDDINGS = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)
_OLD_ATTENTION = (
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
)
_NEW_ATTENTION = (
    (r"\.attn\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
)


def facebook(weights: Tensors) -> Tensors:
    """Returns DINOv2's names; its networks have a mask token, and name the parts of SwiGLU."""
    patterns = [("reg_token", "register_tokens")]
    if is_swiglu(weights):
        patterns += [(r"\.fc1\.", ".w12."), (r"\.fc2\.", ".w3.")]
    width = weights["norm.weight"].size
    return _renamed(weights, tuple(patterns)) | {"mask_token": np.zeros((1, width), np.float32)}


def facebook_in_chunks(weights: Tensors) -> Tensors:
    """Returns the names of DINOv2's training checkpoints, with a block in each chunk."""
    return _renamed(facebook(weights), ((r"^blocks\.(\d+)", r"blocks.\1.\1"),))


def vit_model(weights: Tensors) -> Tensors:
    """Returns the names of transformers' `ViTModel` up to version 4, which its files have."""
    layers = (
        (r"^blocks\.", "encoder.layer."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    )
    parts = _with_parts(weights, gate=False)
    return _renamed(parts, (*_EMBEDDINGS, *_OLD_ATTENTION, *layers))


def vit_model_5(weights: Tensors) -> Tensors:
    """Returns the names of transformers' `ViTModel` from version 5 on."""
    layers = (
        (r"^blocks\.", "layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
    )
    parts = _with_parts(weights, gate=False)
    return _renamed(parts, (*_EMBEDDINGS, *_NEW_ATTENTION, *layers))


def dinov2_model(weights: Tensors) -> Tensors:
    """Returns the names of transformers' `Dinov2Model` up to version 4, which its files have."""
    patterns = [*_EMBEDDINGS, *_OLD_ATTENTION, (r"^blocks\.", "encoder.layer.")]
    if is_swiglu(weights):
        patterns += [(r"\.fc1\.", ".weights_in."), (r"\.fc2\.", ".weights_out.")]
    return _renamed(_with_parts(_with_mask(weights), gate=False), tuple(patterns))


def dinov2_model_5(weights: Tensors) -> Tensors:
    """Returns the names of transformers' `Dinov2Model` from version 5 on."""
    swiglu = is_swiglu(weights)
    patterns = [*_EMBEDDINGS, *_NEW_ATTENTION, (r"^blocks\.", "encoder.layer.")]
    patterns += [(r"\.fc2\.", ".down_proj.")] if swiglu else []
    return _renamed(_with_parts(_with_mask(weights), gate=swiglu), tuple(patterns))


def _with_mask(weights: Tensors) -> Tensors:
    width = weights["norm.weight"].size
    return weights | {"mask_token": np.zeros((1, width), np.float32)}


def is_swiglu(weights: Tensors) -> bool:
    """Returns whether MLPs have two halves."""
    fc1, fc2 = (weights[f"blocks.0.mlp.{layer}.weight"] for layer in ("fc1", "fc2"))
    return len(fc1) == 2 * fc2.shape[1]


# Those that have each layout; files of DINO have timm's names.
SPELLINGS: dict[str, Callable[[Tensors], Tensors]] = {
    "timm": lambda weights: dict(weights),
    "facebook": facebook,
    "facebook's chunks": facebook_in_chunks,
    "ViTModel 4": vit_model,
    "ViTModel 5": vit_model_5,
    "Dinov2Model 4": dinov2_model,
    "Dinov2Model 5": dinov2_model_5,
}


def grid(rows: int) -> np.ndarray:
    """Returns position embeddings of patches, float32 [rows, rows, 2]."""
    return np.random.RandomState(rows).normal(size=(rows, rows, 2)).astype(np.float32)
