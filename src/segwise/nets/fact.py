"""MA-SAM's adaptation of SAM's image encoder to stacks of slices: factor tuning (FacT) and adapters along the slices.

Source: Chen et al., MA-SAM, Med Image Anal 2024 (arXiv 2309.08842), sections 3.2 and 3.3. q += s V q_n U x and
v += s V v_n U x with U and V shared by all blocks; before attention and before the MLP an adapter with a convolution
over neighbouring slices. Its files call the adapters `image_encoder.ImageEncoderViT.blocks.N.Block.adapter_*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.blocks import Site
from segwise.nets.lora import joined, parted
from segwise.nets.sam_vit import ImageEncoderViT, Shapes

HIDDEN = 384  # of the published adapters
_ADAPTER = ("linear_down", "conv", "linear_up", "norm")
_PLACES = {"": "before_attn", "_2": "before_mlp"}  # ending of a saved name -> module of a block


class QkvFact(nn.Module):
    """A joint projection to queries, keys and values with factor-tuned additions to the first and the last.

    Args:
        qkv: the projection, width -> 3 * out.
        down, up: shared by all blocks, width -> rank and rank -> out.
        rank: of the factors.
        scale: of the additions.
        heads: as in `lora.QkvLora`.
    """

    def __init__(
        self, qkv: nn.Module, *, down: nn.Linear, up: nn.Linear, rank: int, scale: float, heads: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.down, self.up, self.scale = qkv, down, up, scale
        self.q = nn.Linear(rank, rank, bias=False)
        self.v = nn.Linear(rank, rank, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., 3 * out]."""
        q, k, v = parted(self.qkv(x), self.heads)
        low = self.down(x)
        q_change, v_change = (self.scale * self.up(factor(low)) for factor in (self.q, self.v))
        return joined(q + q_change, k, v + v_change, self.heads)


class SliceAdapter(nn.Module):
    """A bottleneck with a convolution over three neighbouring slices, added to its input; a fresh one adds nothing.

    Args:
        width: of a token.
        hidden: of the bottleneck, 384 in MA-SAM.
        slices: of a stack; the slices of the stacks follow each other along the batch.
    """

    def __init__(self, width: int, *, hidden: int, slices: int) -> None:
        super().__init__()
        self.slices = slices
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear_down = nn.Linear(width, hidden, bias=False)
        self.conv = nn.Conv3d(hidden, hidden, (3, 1, 1), padding=(1, 0, 0))
        self.linear_up = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.linear_up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B * slices, h, w, width] -> the same shape."""
        low = self.linear_down(self.norm(x))
        stacks = low.view(-1, self.slices, *low.shape[1:]).permute(0, 4, 1, 2, 3)  # [B, hidden, slices, h, w]
        mixed = F.gelu(self.conv(stacks)).permute(0, 2, 3, 4, 1).reshape(low.shape)
        return x + self.linear_up(mixed)  # type: ignore[no-any-return]


def adapted(encoder: ImageEncoderViT, *, rank: int, scale: float = 1.0, hidden: int = HIDDEN, slices: int = 5) -> None:
    """Wrap the projections of all blocks and put adapters before their attention and MLP (in place)."""
    width = encoder.pos_embed.shape[-1]
    down, up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
    nn.init.zeros_(up.weight)
    blocks: list[Any] = list(encoder.blocks)
    for block in blocks:
        block.attn.qkv = QkvFact(block.attn.qkv, down=down, up=up, rank=rank, scale=scale)
        block.before_attn = SliceAdapter(width, hidden=hidden, slices=slices)
        block.before_mlp = SliceAdapter(width, hidden=hidden, slices=slices)


def placed(sites: Sequence[Site], *, rank: int, scale: float, hidden: int, slices: int) -> None:
    """Wrap and adapt blocks of any make (in place); blocks of the same widths share their outer factors.

    Args:
        sites: the blocks.
        rank, scale: of the factors.
        hidden: of the adapters; 0: half of a token's width, at most 384.
        slices: of a stack.
    """
    shared: dict[tuple[int, int], tuple[nn.Linear, nn.Linear]] = {}
    for site in sites:
        if (site.width, site.out) not in shared:
            down, up = nn.Linear(site.width, rank, bias=False), nn.Linear(rank, site.out, bias=False)
            nn.init.zeros_(up.weight)
            shared[site.width, site.out] = down, up
        down, up = shared[site.width, site.out]
        block = site.block
        block.attn.qkv = QkvFact(block.attn.qkv, down=down, up=up, rank=rank, scale=scale, heads=site.heads)
        first, second = (
            SliceAdapter(width, hidden=hidden or min(HIDDEN, width // 2), slices=slices)
            for width in (site.width, site.out)
        )
        block.before_attn, block.before_mlp = first, second


def rank_of(shapes: Shapes) -> int:
    """The rank in a file of MA-SAM; 0 if it is none."""
    return int(shapes["q_FacTs_000"][0]) if "q_FacTs_000" in shapes else 0


def hidden_of(shapes: Shapes) -> int:
    """Width of the adapters in a file of MA-SAM; 384 without any."""
    key = "image_encoder.ImageEncoderViT.blocks.0.Block.adapter_linear_down.weight"
    return int(shapes[key][0]) if key in shapes else HIDDEN


def named(base: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM's image encoder and a file of MA-SAM by our net's keys; the file's decoder and prompt encoder count."""
    encoder = {key: value for key, value in base.items() if key.startswith("image_encoder.")}
    out = {re.sub(r"\.attn\.qkv\.(weight|bias)$", r".attn.qkv.qkv.\1", key): value for key, value in encoder.items()}
    blocks = sum(bool(re.fullmatch(r"q_FacTs_\d+", key)) for key in own)
    for key, value in own.items():
        for name in _ours(key, blocks):
            out[name] = value
    return out


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our net's state dict as MA-SAM saves it: without the frozen image encoder."""
    out = {}
    for key, value in tensors.items():
        name = _theirs(key)
        if name:
            out[name] = value
    return out


def _ours(key: str, blocks: int) -> list[str]:
    """Our names of a saved tensor: one, or one a block for the shared factors."""
    found = re.fullmatch(r"([qv])_FacTs_(\d+)", key)
    if found is not None:
        return [f"image_encoder.blocks.{int(found[2])}.attn.qkv.{found[1]}.weight"]
    found = re.fullmatch(r"image_encoder\.FacT([uv])\.weight", key)
    if found is not None:
        part = {"u": "down", "v": "up"}[found[1]]
        return [f"image_encoder.blocks.{i}.attn.qkv.{part}.weight" for i in range(blocks)]
    found = re.fullmatch(
        r"image_encoder\.ImageEncoderViT\.blocks\.(\d+)\.Block\.adapter_([a-z_]+?)(_2)?\.(weight|bias)", key
    )
    if found is not None and found[2] in _ADAPTER:
        return [f"image_encoder.blocks.{found[1]}.{_PLACES[found[3] or '']}.{found[2]}.{found[4]}"]
    return [key]


def _theirs(key: str) -> str:
    """The saved name of one of our tensors; "" for the frozen encoder."""
    if not key.startswith("image_encoder."):
        return key
    found = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.qkv\.(q|v|down|up)\.weight", key)
    if found is not None:
        shared = {"down": "image_encoder.FacTu.weight", "up": "image_encoder.FacTv.weight"}
        return shared.get(found[2], f"{found[2]}_FacTs_{int(found[1]):03d}")
    found = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.(before_attn|before_mlp)\.(\w+)\.(weight|bias)", key)
    if found is None:
        return ""
    ending = next(end for end, place in _PLACES.items() if place == found[2])
    return f"image_encoder.ImageEncoderViT.blocks.{found[1]}.Block.adapter_{found[3]}{ending}.{found[4]}"
