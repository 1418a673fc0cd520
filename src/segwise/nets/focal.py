"""FocalNet as a backbone of four maps: transformers' blocks, with the norms and key names of X-Decoder and its heirs.

Source: Yang et al., Focal modulation networks, NeurIPS 2022 (arXiv 2203.11926). The maps are those before each stage's
downsampling, each with a LayerNorm of its own; transformers' own feature maps are those after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from transformers import FocalNetConfig
from transformers.models.focalnet.modeling_focalnet import FocalNetEmbeddings, FocalNetEncoder

_NAMES = (  # official -> ours, in this order
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
    (r"^layers\.(\d+)\.downsample\.proj\.", r"encoder.stages.\1.downsample.projection."),
    (r"^layers\.(\d+)\.downsample\.norm\.", r"encoder.stages.\1.downsample.norm."),
    (r"\.modulation\.f\.", ".modulation.projection_in."),
    (r"\.modulation\.h\.", ".modulation.projection_context."),
    (r"\.modulation\.proj\.", ".modulation.projection_out."),
    (r"\.modulation\.ln\.", ".modulation.layernorm."),
)
_BACK = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"layers.\1.blocks.\2."),
    (r"^encoder\.stages\.(\d+)\.downsample\.projection\.", r"layers.\1.downsample.proj."),
    (r"^encoder\.stages\.(\d+)\.downsample\.norm\.", r"layers.\1.downsample.norm."),
    (r"\.modulation\.projection_in\.", ".modulation.f."),
    (r"\.modulation\.projection_context\.", ".modulation.h."),
    (r"\.modulation\.projection_out\.", ".modulation.proj."),
    (r"\.modulation\.layernorm\.", ".modulation.ln."),
)


class FocalBackbone(nn.Module):
    """Maps at strides 4, 8, 16 and 32.

    Args:
        config: of transformers' FocalNet.
    """

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.embeddings = FocalNetEmbeddings(config)
        self.encoder = FocalNetEncoder(config, self.embeddings.patch_grid)
        for i in range(len(config.depths)):
            self.add_module(f"norm{i}", nn.LayerNorm(config.embed_dim * 2**i))

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps [B, C·2^i, H / 2^(2+i), W / 2^(2+i)], the finest first."""
        x, (height, width) = self.embeddings(image)
        maps = []
        for i, stage in enumerate(self.encoder.stages):
            x, before, size = stage(x, (height, width))
            own = self.get_submodule(f"norm{i}")(before)  # [B, h·w, C]
            maps.append(own.transpose(1, 2).unflatten(2, (height, width)).contiguous())
            height, width = size[-2:]
        return maps


def focal_of(shapes: Mapping[str, Sequence[int]], flags: Mapping[str, bool] | None = None) -> FocalBackbone:
    """A backbone, untrained, of the sizes that official keys show.

    Args:
        shapes: official key (without "backbone.") -> shape.
        flags: what no shape tells, as the official configuration names it: SCALING_MODULATOR, USE_POSTLN; both true if
            they are not there, as published.
    """
    flags = flags or {}
    stages = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("layers."))
    depths, levels, windows = [], [], []
    for s in range(stages):
        depths.append(len({key.split(".")[3] for key in shapes if key.startswith(f"layers.{s}.blocks.")}))
        kernels = {
            key.split(".")[6]: shape[-1]
            for key, shape in shapes.items()
            if key.startswith(f"layers.{s}.blocks.0.modulation.focal_layers.")
        }
        levels.append(len(kernels))
        windows.append(kernels["0"])
    width = shapes["patch_embed.proj.weight"][0]
    stem = shapes["patch_embed.proj.weight"][-1]
    return FocalBackbone(
        FocalNetConfig(
            patch_size=4,
            embed_dim=width,
            use_conv_embed=stem == 7,
            depths=depths,
            hidden_sizes=[width * 2**s for s in range(stages)],
            focal_levels=levels,
            focal_windows=windows,
            mlp_ratio=shapes["layers.0.blocks.0.mlp.fc1.weight"][0] / width + 1e-6,  # the class cuts the product
            hidden_dropout_prob=0.0,
            drop_path_rate=0.0,
            use_layerscale="layers.0.blocks.0.gamma_1" in shapes,
            use_post_layernorm=flags.get("USE_POSTLN", True),
            use_post_layernorm_in_modulation="layers.0.blocks.0.modulation.ln.weight" in shapes,
            normalize_modulator=flags.get("SCALING_MODULATOR", True),
        )
    )


def ours(key: str) -> str:
    """Our name of an official key (without "backbone.")."""
    return _renamed(key, _NAMES)


def official(key: str) -> str:
    """The official name of one of our keys."""
    return _renamed(key, _BACK)


def _renamed(key: str, names: Sequence[tuple[str, str]]) -> str:
    for pattern, name in names:
        key = re.sub(pattern, name, key)
    return key
