"""Writes what tests compare with timm and transformers: outputs of vision transformers.

Needs torch, timm, transformers and numpy, and is run only to make the file anew:

    PYTHONPATH=tests python benchmarks/golden_vit.py

tests/golden/vit.npz, of tiny networks, in float64: the tokens before the first block, after each
block and after the final norm, for crops of several sizes; the gradients of one loss; and position
embeddings that each source's code resizes. The weights and images are not there; tests draw the
same ones (`published_vit.draw`, `published_vit.images`). The names of all weights are checked.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import published_vit
import timm.layers
import torch
import transformers
from published_vit import LAYOUTS, Layout, Tensors
from safetensors.numpy import load_file
from timm.models import vision_transformer
from torch import nn
from torch.nn import functional

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "vit.npz"
GRIDS = (2, 3, 5)  # rows of patches of a crop; the networks are made for 3
RESIZED = ((3, 2), (3, 5), (37, 16), (14, 24))  # old and new rows of position embeddings


def create_timm(layout: Layout) -> nn.Module:
    """Returns timm's network, which resizes its position embeddings to each crop."""
    options: dict[str, Any] = {}
    if layout.mlp == "swiglu":
        options = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    return vision_transformer.VisionTransformer(
        img_size=layout.grid * layout.patch_size,
        patch_size=layout.patch_size,
        embed_dim=layout.width,
        depth=layout.depth,
        num_heads=layout.num_heads,
        mlp_ratio=layout.hidden / layout.width,
        init_values=1.0 if layout.layer_scale else None,
        reg_tokens=layout.registers,
        no_embed_class=not layout.position_of_class,
        num_classes=0,
        dynamic_img_size=True,
        **options,
    )


def _options_of_transformers(layout: Layout) -> dict[str, Any]:
    return {
        "image_size": layout.grid * layout.patch_size,
        "patch_size": layout.patch_size,
        "hidden_size": layout.width,
        "num_hidden_layers": layout.depth,
        "num_attention_heads": layout.num_heads,
        "layer_norm_eps": 1e-6,  # that of the code which made the weights
    }


def create_vit_model(layout: Layout) -> nn.Module:
    """Returns transformers' `ViTModel`."""
    options = _options_of_transformers(layout) | {"intermediate_size": layout.hidden}
    return transformers.ViTModel(transformers.ViTConfig(**options), add_pooling_layer=False)


def create_dinov2_model(layout: Layout) -> nn.Module:
    """Returns transformers' `Dinov2Model`, or that with registers."""
    options = _options_of_transformers(layout) | {"use_swiglu_ffn": layout.mlp == "swiglu"}
    if layout.registers:
        options["num_register_tokens"] = layout.registers
        config = transformers.Dinov2WithRegistersConfig(**options)
        return transformers.Dinov2WithRegistersModel(config)
    return transformers.Dinov2Model(transformers.Dinov2Config(**options))


# Name in the file: network, layout, names of its weights, names of its saved weights.
Case = tuple[
    Callable[[Layout], nn.Module],
    Layout,
    Callable[[Tensors], Tensors],
    Callable[[Tensors], Tensors],
]
_WITH_REGISTERS = dataclasses.replace(LAYOUTS["registers"], position_of_class=True)
_DINOV2 = (published_vit.dinov2_model_5, published_vit.dinov2_model)
CASES: dict[str, Case] = {
    f"timm/{name}": (create_timm, layout, dict, dict) for name, layout in LAYOUTS.items()
} | {
    "ViTModel/dino": (
        create_vit_model,
        LAYOUTS["dino"],
        published_vit.vit_model_5,
        published_vit.vit_model,
    ),
    "Dinov2Model/dinov2": (create_dinov2_model, LAYOUTS["dinov2"], *_DINOV2),
    "Dinov2Model/swiglu": (create_dinov2_model, LAYOUTS["swiglu"], *_DINOV2),
    "Dinov2Model/registers": (create_dinov2_model, _WITH_REGISTERS, *_DINOV2),
}


def tokens(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Returns the tokens before the first block, after each block and after the final norm."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: Any, output: Any) -> None:
        if not found:
            found.append(inputs[0])
        found.append(output[0] if isinstance(output, tuple) else output)

    named = dict(net.named_modules())
    lists = [named[x] for x in ("blocks", "layers", "encoder.layer") if x in named]
    norm = named["norm" if "norm" in named else "layernorm"]
    hooks = [module.register_forward_hook(keep) for module in (*lists[0], norm)]
    is_vit_model = isinstance(net, transformers.ViTModel)
    net(images, **({"interpolate_pos_encoding": True} if is_vit_model else {}))
    for hook in hooks:
        hook.remove()
    return found


def load(net: nn.Module, weights: Tensors, saved: Tensors) -> None:
    """Loads weights, after checking all names: in the network, and in the files that it saves."""
    net.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()}, strict=True)
    if isinstance(net, transformers.PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:
            net.save_pretrained(folder)
            written = load_file(f"{folder}/model.safetensors")
        if written.keys() != saved.keys():
            raise ValueError(f"Names differ: {sorted(written.keys() ^ saved.keys())}.")
        for name, x in written.items():
            np.testing.assert_array_equal(x, saved[name])


def outputs() -> Tensors:
    """Returns, by case/rows/number, tokens; and by case/gradients/name, gradients."""
    found = {}
    for case, (create, layout, names, saved_names) in CASES.items():
        net = create(layout).eval()
        weights = published_vit.draw(published_vit.shapes(layout))
        load(net, names(weights), saved_names(weights))
        net = net.double()
        for grid in GRIDS:
            images = torch.from_numpy(published_vit.images(grid * layout.patch_size)).double()
            kept = tokens(net, images.permute(0, 3, 1, 2))
            for number, x in enumerate(kept):
                found[f"{case}/{grid}/{number}"] = x[0].detach().numpy().astype(np.float32)
            print(case, grid, "std", [round(x.std().item(), 3) for x in kept])
        factors = published_vit.loss_weights(layout, GRIDS[-1])
        (kept[-1] * torch.from_numpy(factors)).sum().backward()
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:  # of the mask token
                found[f"{case}/gradients/{name}"] = parameter.grad.numpy().astype(np.float32)
    return found


def positions() -> Tensors:
    """Returns, by source/old/new, grids [new, new, 2] that a source's code resizes."""
    found = {}
    for old, new in RESIZED:
        grid = torch.from_numpy(published_vit.grid(old)).permute(2, 0, 1)[None].double()
        resize: dict[str, dict[str, Any]] = {
            "timm": {"size": (new, new), "antialias": True},
            "hugging_face": {"size": (new, new)},
            # DINOv2's interpolate_offset; the code keeps the scale, not the size.
            "dinov2": {"scale_factor": ((new + 0.1) / old,) * 2},
        }
        for source, options in resize.items():
            x = functional.interpolate(grid, mode="bicubic", **options)
            found[f"positions/{source}/{old}/{new}"] = (
                x[0].permute(1, 2, 0).numpy().astype(np.float32)
            )
        flat = torch.cat([grid.new_zeros(1, 1, 2), grid[0].flatten(1).T[None]], dim=1)
        of_timm = timm.layers.resample_abs_pos_embed(flat, [new, new])[0, 1:]
        np.testing.assert_allclose(
            of_timm.reshape(new, new, 2), found[f"positions/timm/{old}/{new}"], atol=1e-5
        )
    return found


def main() -> None:
    """Writes the file."""
    np.savez_compressed(GOLDEN, allow_pickle=False, **outputs(), **positions())


if __name__ == "__main__":
    main()
