"""The names of vision transformers in files.

The standard is timm's, which DINO's and DINOv2's files share but for a few; Hugging Face has two
others, up to version 4 of transformers and from 5 on.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dcjax.core.errors import InputError
from dcjax.models import position_grids, vit, weight_names
from dcjax.models.weight_names import AROUND, JOINED, Kind, Leaf, Shapes, Tensors

_HUGGING_FACE = AROUND + r"(?:(?:vit|dinov2|dinov2_with_registers)\.)?"
_EMBEDDINGS = re.compile(_HUGGING_FACE + r"embeddings\.(?P<rest>.*)")
_LAYER = re.compile(_HUGGING_FACE + r"(?:encoder\.)?layers?\.(?P<block>\d+)\.(?P<rest>.*)")
_AFTER_LAYERS = re.compile(_HUGGING_FACE + r"(?P<rest>(?:layernorm|pooler|classifier)\..*)")
# A block of DINOv2's training checkpoints is in a chunk, whose number comes first.
_BLOCK = re.compile(AROUND + r"blocks\.(?:\d+\.)?(?P<block>\d+)\.(?P<rest>.*)")
_TOP = re.compile(
    AROUND + r"(?P<rest>(?:cls_token|reg_token|register_tokens|mask_token|pos_embed)"
    r"|(?:patch_embed|norm|fc_norm|head|pre_logits)\..*)"
)
_STANDARD = {
    "patch_embeddings.projection": "patch_embed.proj",
    "position_embeddings": "pos_embed",
    "register_tokens": "reg_token",
    "layernorm": "norm",
}
_STANDARD_OF_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.attention.query": "attn.query",
    "attention.attention.key": "attn.key",
    "attention.attention.value": "attn.value",
    "attention.output.dense": "attn.proj",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "mlp.w12": "mlp.fc1",
    "mlp.w3": "mlp.fc2",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
# Tensors of Hugging Face that are one, stacked, in all others.
_PARTS = {
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "mlp.fc1": ("mlp.gate", "mlp.up"),
}
_TOKENS = ("cls_token", "reg_token", "pos_embed")
_IGNORED = ("head", "classifier", "pooler", "pre_logits", "mask_token")


def _split(name: str) -> tuple[str, str]:
    if match := _LAYER.fullmatch(name) or _BLOCK.fullmatch(name):
        rest = _rename(match["rest"], _STANDARD_OF_BLOCK)
        return match["around"], f"blocks.{match['block']}.{rest}"
    for pattern in (_EMBEDDINGS, _AFTER_LAYERS, _TOP):
        if match := pattern.fullmatch(name):
            return match["around"], _rename(match["rest"], _STANDARD)
    return "", name


def _rename(name: str, standard: Mapping[str, str]) -> str:
    """Returns the standard name of a module's tensor, or of a tensor of no module."""
    if name in standard:
        return standard[name]
    module, dot, last = name.rpartition(".")
    return f"{standard.get(module, module)}{dot}{last}"


def _leaf_name(leaf: Leaf) -> str:
    """Returns blocks.3.attn.qkv.weight for (params, blocks_3, attn, qkv, kernel)."""
    name = ".".join([*leaf[1:-1], weight_names.last_name(leaf)])
    return re.sub(r"^blocks_", "blocks.", name).replace("patch_embed.", "patch_embed.proj.")


def _is_ignored(name: str, wanted: Collection[str]) -> bool:
    """Returns whether it is of a classifier, or used in pre-training only."""
    del wanted
    return name.split(".")[0] in _IGNORED or weight_names.is_counter(name)


def _prepare(
    tensors: Tensors, split: Mapping[str, tuple[str, str]], wanted: Shapes
) -> tuple[Tensors, dict[str, tuple[str, str]]]:
    """Stacks what Hugging Face has apart, and resizes the position embeddings."""
    tensors, split = dict(tensors), dict(split)
    by_prefix: dict[str, dict[str, str]] = defaultdict(dict)
    for name, (around, new) in split.items():
        by_prefix[around][new] = name
    for around, names in by_prefix.items():
        for new in wanted:
            parts = [names[part] for part in _parts(new) if part in names]
            if parts and len(parts) == len(_parts(new)) and _can_be_stacked(tensors, parts):
                joined = JOINED.join(parts)
                tensors[joined] = np.concatenate([tensors.pop(part) for part in parts])
                split[joined] = (around, new)
        for name in (names[token] for token in _TOKENS if token in names):
            value = tensors[name]
            tensors[name] = value[0] if value.ndim == 3 and len(value) == 1 else value
        if "pos_embed" in names and "pos_embed" in wanted:
            name = names["pos_embed"]
            tensors[name] = _resize(tensors[name], wanted["pos_embed"], _method(names))
    return tensors, {name: split[name] for name in tensors}


def _parts(name: str) -> list[str]:
    """Returns the names of the parts of a tensor that may be apart, else none."""
    module, _, last = name.rpartition(".")
    return [
        f"{module.removesuffix(whole)}{part}.{last}"
        for whole, parts in _PARTS.items()
        if module.endswith(whole)
        for part in parts
    ]


def _can_be_stacked(tensors: Tensors, names: Collection[str]) -> bool:
    shapes = {tensors[name].shape for name in names}
    return len(shapes) == 1 and () not in shapes


def _method(names: Mapping[str, str]) -> position_grids.Method:
    """Returns how the code of a file's source resizes position embeddings.

    Sources share names: of DINOv2, mask_token tells that a file is not timm's. DINO's own code has
    DINOv2's offset, but its files name tensors as timm's do.

    Args:
      names: those in the file by standard name.
    """
    if "reg_token" in names:
        return position_grids.TIMM  # which all of them do
    if names["pos_embed"].endswith("position_embeddings"):
        return position_grids.HUGGING_FACE
    return position_grids.DINOV2 if "mask_token" in names else position_grids.TIMM


def _resize(
    embeddings: np.ndarray, shape: tuple[int, ...], method: position_grids.Method
) -> np.ndarray:
    """Returns the embeddings of class token and patches for another number of patches.

    All but floats [1 + patches, width] and [patches, width] are returned as they are.
    """
    is_number = jnp.issubdtype(embeddings.dtype, jnp.floating)
    if not is_number or embeddings.ndim != 2 or embeddings.shape[1] != shape[1]:
        return embeddings
    rows, new_rows = (math.isqrt(max(n, 0)) for n in (len(embeddings) - 1, shape[0] - 1))
    with_class = rows**2 == len(embeddings) - 1 and rows > 0
    if not with_class:
        rows = math.isqrt(len(embeddings))
        if rows**2 != len(embeddings) or new_rows**2 != shape[0] - 1:
            return embeddings
        # timm's networks with registers add no position to the class token.
        embeddings = np.concatenate([np.zeros_like(embeddings[:1]), embeddings])
    if rows == new_rows:
        return embeddings
    grid = embeddings[1:].reshape(rows, rows, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported
        resized = position_grids.resize(grid, new_rows, method)
    return np.concatenate([embeddings[:1], resized.reshape(new_rows**2, -1)])


def _layout(shapes: Shapes) -> dict[str, Any]:
    """Returns the settings of the network of these shapes; {} if they are not of a complete one."""
    wanted = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    first, fc1, fc2 = (shapes.get(name, ()) for name in wanted)
    if len(first) != 4 or len(fc1) != 2 or len(fc2) != 2:
        return {}
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    known = {(width, blocks): name for name, (width, blocks, _) in vit.SIZES.items()}
    other = f"a vision transformer of {depth} blocks and width {first[0]}"
    return {
        "backbone": known.get((first[0], depth), other),
        "vit.patch_size": first[3],
        "vit.registers": shapes.get("reg_token", (0,))[0],
        "vit.layer_scale": "blocks.0.ls1.gamma" in shapes,
        "vit.mlp": "swiglu" if fc1[0] == 2 * fc2[1] else "gelu",
    }


def _describe(shapes: Shapes) -> str:
    layout = _layout(shapes)
    return layout.get("backbone", "a vision transformer")


def _check(path: str, shapes: Shapes, wanted: Shapes) -> None:
    """Checks that the settings of the network are those of a file, naming those to change."""
    found, required = _layout(shapes), _layout(wanted)
    different = [key for key, value in found.items() if required.get(key) != value]
    if not found or not required or not different:
        return
    if "backbone" in different and found["backbone"] not in vit.SIZES:
        advice = f"known are {', '.join(vit.SIZES)}"
    else:
        flags = (f"--config.model.{key}={str(found[key]).lower()}" for key in different)
        advice = f"give {' '.join(flags)}, or other weights"
    held, settings = (
        ", ".join(f"model.{key}={layout[key]}" for key in different) for layout in (found, required)
    )
    raise InputError(f"{path} has weights of {held}, but the settings are {settings}; {advice}.")


KIND = Kind(
    first="patch_embed.proj.weight",
    split=_split,
    leaf_name=_leaf_name,
    is_ignored=_is_ignored,
    prepare=_prepare,
    describe=_describe,
    check=_check,
)
