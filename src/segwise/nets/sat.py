"""SAT's network: a plain U-Net, a query decoder that looks from words at the image, and masks as dot products.

Source: Zhao et al., SAT, arXiv 2312.17183, section 4. The U-Net is nnU-Net's (`nets.nnunet`), without its heads. All
its encoder's maps, averaged to the coarsest grid and joined, are the image tokens; each query looks at them in pre-norm
layers of cross-attention (queries do not see each other), and its product with the finest decoder map is its mask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, PromptNet, Tree
from segwise.nets.nnunet import Architecture, Decoder, Encoder, unshared
from segwise.nets.sat_text import TextTower

HEADS = 8
CHANNELS = 3  # the grey image, repeated
SIZES = {  # variant -> channels of each stage, convolutions of each stage, first width of the image tokens' map
    "nano": ((64, 64, 128, 256, 512, 768), 2, 768),
    "pro": ((128, 128, 256, 512, 1024, 1536), 3, 1536),
}
WIDTH, FEED_FORWARD, LAYERS = 768, 2048, 6
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
LOOK = "layers.0.multihead_attn.in_proj_weight"
UNUSED = {  # pattern of a key -> why nothing is lost with it
    r"\.seg_layers\.": "nnU-Net's own heads; masks are dot products",
    r"\.layers\.\d+\.(self_attn|norm1)\.": "self-attention, which the released model does not run",
    r"\.inv_freq$": "of the fixed position code, computed anew",
}


class Layer(nn.Module):
    """Cross-attention and two linear maps, each behind its norm (names after DETR's layers)."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor, place: Tensor) -> Tensor:
        """[1, Q, A], image tokens [1, N, A] and their position code [1, N, A] -> [1, Q, A]."""
        seen, _ = self.multihead_attn(self.norm2(queries), tokens + place, tokens, need_weights=False)
        queries = queries + seen
        return torch.as_tensor(queries + self.linear2(F.relu(self.linear1(self.norm3(queries)))))


class QueryDecoder(nn.Module):
    """The layers and a last norm."""

    def __init__(self, width: int, *, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, heads, inner) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor, place: Tensor) -> Tensor:
        """As `Layer`."""
        for layer in self.layers:
            queries = layer(queries, tokens, place)
        return torch.as_tensor(self.norm(queries))


class SatNet(PromptNet):
    """SAT on one window.

    Args:
        plan: of the U-Net.
        text: the text tower.
        channels: of the U-Net's input; a grey image is repeated.
        width: of queries and image tokens.
        inner: between the two maps of the image tokens.
        mask_inner: between the two maps of the mask embedding.
        layers, heads, feed_forward: of the query decoder.
    """

    def __init__(
        self,
        plan: Architecture,
        text: TextTower,
        *,
        channels: int,
        width: int,
        inner: int,
        mask_inner: int,
        layers: int,
        heads: int,
        feed_forward: int,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.multiple = tuple(math.prod(stride[axis] for stride in plan.strides) for axis in range(3))
        self.text = text
        encoder = Encoder(plan, channels)
        self.backbone = nn.ModuleDict({"encoder": encoder, "decoder": Decoder(plan, encoder, 1)})
        del self.backbone["decoder"].seg_layers
        joined = sum(plan.features)
        self.see = nn.Sequential(nn.Linear(joined, inner), nn.GELU(), nn.Linear(inner, width), nn.GELU())
        self.query_decoder = QueryDecoder(width, layers=layers, heads=heads, inner=feed_forward)
        first = plan.features[0]
        self.mask = nn.Sequential(nn.Linear(width, mask_inner), nn.GELU(), nn.Linear(mask_inner, first), nn.GELU())

    @property
    def encoding(self) -> nn.Module:
        """What the stored features of `encode` depend on."""
        return nn.ModuleList([self.backbone, self.see])

    def encode(self, image: Tensor) -> Tree:
        """Grey [B, 1, D, H, W] -> image tokens [B, N, A], their places [N, A], the finest map [B, F, D, H, W]."""
        tokens, place, maps = self.pyramid(image)
        return {"tokens": tokens, "place": place.expand(len(tokens), -1, -1), "full": maps[-1]}

    def pyramid(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Image tokens [B, N, A], their places [N, A], and all maps of the U-Net's decoder, the finest last."""
        maps = self.backbone["encoder"](image.expand(-1, self.channels, -1, -1, -1))
        coarse = maps[-1].shape[2:]
        pooled = torch.cat([F.adaptive_avg_pool3d(one, coarse) for one in maps], dim=1)
        tokens = self.see(pooled.flatten(2).transpose(1, 2))
        decoder: Any = self.backbone["decoder"]
        rising = [maps[-1]]
        for rise, stage, skip in zip(decoder.transpconvs, decoder.stages, reversed(maps[:-1]), strict=True):
            rising.append(stage(torch.cat((rise(rising[-1]), skip), dim=1)))
        return tokens, positions(coarse, tokens.shape[-1]).to(tokens), rising[1:]

    def words(self, tokens: Tree) -> Tensor:
        """{"ids", "mask": int64 [Q, L], "modality": int64 [Q]} -> queries [Q, A].

        One text by itself and without its padding, so that its bits do not depend on the company.
        """
        n = tokens["mask"].sum(1).clamp(min=1).tolist()
        rows = [(ids[None, :k], kind[None]) for ids, kind, k in zip(tokens["ids"], tokens["modality"], n, strict=True)]
        return torch.cat([self.text(ids, None, kind) for ids, kind in rows])

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of B windows and Q queries -> logits [Q, 1, D, H, W]."""
        answers = []
        for image, query in zip(marks.image.tolist(), marks.tokens, strict=True):
            own = (features[name][image][None] for name in ("tokens", "place"))
            found = self.mask(self.query_decoder(query[None, None], *own))[0, 0]
            full = features["full"][image]
            answers.append((found @ full.flatten(1)).view(full.shape[1:]))
        return Decoded(torch.stack(answers)[:, None])


def positions(shape: Sequence[int], width: int) -> Tensor:
    """The fixed code of places on a grid: sine and cosine by turns, a third of the numbers for each axis.

    Args:
        shape: (D, H, W) of the grid.
        width: numbers of a code; each axis has the least even share of it that suffices, what is over is cut off.

    Returns:
        [D H W, width].

    Source: Vaswani et al., arXiv 1706.03762, section 3.5, on three axes, as the package positional-encodings (MIT), on
    which SAT's requirements stand.
    """
    share = 2 * math.ceil(width / 6)
    rates = 10000 ** -(torch.arange(0, share, 2, dtype=torch.float32) / share)
    codes = []
    for axis, n in enumerate(shape):
        angles = torch.arange(n, dtype=torch.float32)[:, None] * rates
        code = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # [n, share]
        view = [1, 1, 1, share]
        view[axis] = n
        codes.append(code.view(view).expand(*shape, share))
    return torch.cat(codes, dim=-1)[..., :width].flatten(0, 2)


def official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a vision file under the names of `SatNet`; what fits nowhere keeps its name.

    The U-Net and the query decoder are found by their inner names, wherever they hang; the other linear maps by their
    widths. Tensors that the U-Net's own files hold twice are made from one of them.

    Raises:
        KeyError: the U-Net, the query decoder or one of the maps is missing.
    """
    kept = {key: value for key, value in tensors.items() if not any(re.search(p, f".{key}") for p in UNUSED)}
    unet, look = _before(kept, FIRST), _before(kept, LOOK)
    own = {key: value for key, value in kept.items() if key.startswith((f"{unet}encoder.", f"{unet}decoder."))}
    seen = {key.removeprefix(unet): value for key, value in own.items()}
    found = {f"backbone.{key}": seen[key] for key in unshared(list(seen))}
    maps: dict[str, dict[str, Any]] = {}
    for key, value in kept.items():
        if key in own:
            continue
        match = re.fullmatch(r"(.+)\.(\d+)\.(weight|bias)", key)
        if key.startswith((f"{look}layers.", f"{look}norm.")):
            found[f"query_decoder.{key.removeprefix(look)}"] = value
        elif match:
            maps.setdefault(match[1], {})[f"{match[2]}.{match[3]}"] = value
        else:
            found[key] = value
    joined = sum(int(w.shape[0]) for w in _stages(found))
    for name, group in maps.items():
        wide = group.get("0.weight")
        role = "see" if wide is not None and wide.shape[1] == joined else "mask"
        role = role if f"{role}.0.weight" not in found else name
        found |= {f"{role}.{key}": value for key, value in group.items()}
    return found | _doubled(found)


def _before(tensors: Mapping[str, Any], name: str) -> str:
    """What stands before a name among the keys (the U-Net's decoder holds its encoder again)."""
    for key in tensors:
        if key.endswith(name) and not key.endswith(f"decoder.{FIRST}"):
            return key.removesuffix(name)
    raise KeyError(name)


def _stages(found: Mapping[str, Any]) -> list[Any]:
    """The first convolution of each stage of the encoder."""
    first = re.compile(r"backbone\.encoder\.stages\.(\d+)\.0\.convs\.0\.conv\.weight")
    chosen = {int(match[1]): value for key, value in found.items() if (match := first.fullmatch(key))}
    return [chosen[stage] for stage in sorted(chosen)]


def _doubled(found: Mapping[str, Any]) -> dict[str, Any]:
    """The second and third names of the U-Net's tensors."""
    other: dict[str, Any] = {}
    for key, value in found.items():
        if not key.startswith("backbone."):
            continue
        names = [key, re.sub(r"\.conv\.(\w+)$", r".all_modules.0.\1", key)]
        names[1] = re.sub(r"\.norm\.(\w+)$", r".all_modules.1.\1", names[1])
        names += [n.replace("backbone.", "backbone.decoder.", 1) for n in names if n.startswith("backbone.encoder.")]
        other |= dict.fromkeys(names, value)
    return other


def plan_of(shapes: Mapping[str, Sequence[int]]) -> Architecture:
    """The U-Net that `official` shapes tell.

    Raises:
        KeyError: a tensor is missing.
    """
    stages = len({m[1] for key in shapes if (m := re.match(r"backbone\.encoder\.stages\.(\d+)\.", key))})
    at = "backbone.encoder.stages.{}.0.convs.{}.conv.weight"
    first = [tuple(int(n) for n in shapes[at.format(s, 0)]) for s in range(stages)]
    rises = [tuple(shapes[f"backbone.decoder.transpconvs.{s}.weight"][2:]) for s in range(stages - 1)]

    def count(pattern: str) -> int:
        return len([key for key in shapes if re.fullmatch(pattern, key)])

    return Architecture(
        residual=False,
        dims=3,
        features=tuple(shape[0] for shape in first),
        kernels=tuple(shape[2:] for shape in first),
        strides=((1, 1, 1), *reversed(rises)),
        n_encoder=tuple(count(rf"backbone\.encoder\.stages\.{s}\.0\.convs\.\d+\.conv\.weight") for s in range(stages)),
        n_decoder=tuple(count(rf"backbone\.decoder\.stages\.{s}\.convs\.\d+\.conv\.weight") for s in range(stages - 1)),
        bias="backbone.encoder.stages.0.0.convs.0.conv.bias" in shapes,
        norm_kwargs={"eps": 1e-5, "affine": "backbone.encoder.stages.0.0.convs.0.norm.weight" in shapes},
        nonlin_kwargs={},
    )


def net_of(shapes: Mapping[str, Sequence[int]], text: TextTower, *, heads: int = HEADS) -> SatNet:
    """An untrained net of the sizes that `official` shapes tell.

    Raises:
        KeyError: a tensor is missing.
    """
    look = "query_decoder.layers.0."
    return SatNet(
        plan_of(shapes),
        text,
        channels=int(shapes[f"backbone.{FIRST}"][1]),
        width=int(shapes["see.2.weight"][0]),
        inner=int(shapes["see.0.weight"][0]),
        mask_inner=int(shapes["mask.0.weight"][0]),
        layers=len({m[1] for key in shapes if (m := re.match(r"query_decoder\.layers\.(\d+)\.", key))}),
        heads=heads,
        feed_forward=int(shapes[f"{look}linear1.weight"][0]),
    )


def plan(variant: str) -> Architecture:
    """The published U-Net of a variant."""
    features, convolutions, _ = SIZES[variant]
    n = len(features)
    return Architecture(
        residual=False,
        dims=3,
        features=features,
        kernels=((3, 3, 3),) * n,
        strides=((1, 1, 1), *(((2, 2, 2),) * (n - 1))),
        n_encoder=(convolutions,) * n,
        n_decoder=(convolutions,) * (n - 1),
        norm_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={},
    )


def released(variant: str) -> SatNet:
    """A net of a published size, with a BERT of base size as language model."""
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False)
    text = TextTower(bert, width=WIDTH, inner=WIDTH, out=WIDTH, modalities=4)
    return SatNet(
        plan(variant),
        text,
        channels=CHANNELS,
        width=WIDTH,
        inner=SIZES[variant][2],
        mask_inner=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        feed_forward=FEED_FORWARD,
    ).eval()
