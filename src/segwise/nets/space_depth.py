"""Med-SA: SAM with adapters in each block, and the same attention run once more along the depth of a chunk of slices.

Source: Wu et al., Medical SAM Adapter, Med Image Anal 2025 (arXiv 2304.12620), section 3.2 (space-depth transpose);
written from the paper, from stored outputs and from what the original (GPL-3.0) answers when it is run; how it lays
out a chunk's slices was learnt by reading it; none of its code is here. In its files the relative-position tables are
called `attn.rel_h` and `attn.rel_w`, and the positions are those of 64 x 64 patches whatever the image's size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import SpecError
from segwise.nets.beside import Beside, Bottleneck
from segwise.nets.blocks import Site
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.sam import MaskDecoder, SamNet, TwoWayBlock
from segwise.nets.sam_vit import WINDOW, Shapes, count, encoder_of, prompting_of

MLP_SCALE = 0.5
_ADAPTERS = {"space": "Space_Adapter", "depth": "Depth_Adapter", "mlp": "MLP_Adapter"}  # ours -> saved


class SpaceDepthAttention(nn.Module):
    """A block's norm and attention with an adapter behind it, and in 3D a second pass along depth beside it.

    Args:
        norm: of the block; it runs inside the windows, so that their padding is normalised too.
        attn: of the block, used twice.
        space: adapter behind the attention, with a skip.
        depth: adapter behind the attention along depth.
        chunk: slices of a chunk, which follow each other along the batch; 0 for single images.
        windows: of a slice, each of which keeps to itself along depth; 1 takes runs of `chunk` entries of the batch
            whatever they are, as Med-SA is taken to do.
    """

    def __init__(
        self,
        norm: nn.Module,
        attn: nn.Module,
        space: nn.Module,
        depth: nn.Module,
        *,
        chunk: int,
        windows: int = 1,
    ) -> None:
        super().__init__()
        self.norm, self.attn, self.space, self.depth = norm, attn, space, depth
        self.chunk, self.windows = chunk, windows

    def extra_repr(self) -> str:
        """What no tensor shows."""
        return f"chunk={self.chunk}, windows={self.windows}"

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width], windows or whole maps, -> the same shape."""
        inner = self.norm(x)
        out: Tensor = self.space(self.attn(inner))
        return out + self._along_depth(inner) if self.chunk else out

    def _along_depth(self, x: Tensor) -> Tensor:
        """Each in-window place by itself, its slices laid out as a rectangle (`nearly_square`)."""
        b, h, w, width = x.shape
        rows = nearly_square(self.chunk)
        inside = self.windows * h * w
        if b % (self.chunk * self.windows):
            raise SpecError(
                f"{b // self.windows} slices came, and chunk={self.chunk} lets so many attend to each other: give "
                "them whole chunks (lift=chunks where a model has it), or chunk=0"
            )
        columns = x.reshape(-1, self.chunk, inside, width).transpose(1, 2)  # [runs, places, chunk, width]
        mixed = self.depth(self.attn(columns.reshape(-1, rows, self.chunk // rows, width)))
        return mixed.view(-1, inside, self.chunk, width).transpose(1, 2).reshape(b, h, w, width)  # type: ignore[no-any-return]


class PlacedTwoWayBlock(TwoWayBlock):
    """Med-SA's block of the decoder's transformer, as stored outputs show it.

    It differs from SAM's in the self-attention of the tokens: the first block's has a skip, and in the others the
    places of the tokens are part of the values and of the skip too.
    """

    def among(self, tokens: Tensor, token_place: Tensor) -> Tensor:
        """The tokens' attention to each other, before the first norm."""
        placed = tokens if self.first else tokens + token_place
        return placed + self.self_attn(placed, placed, placed)  # type: ignore[no-any-return]


class SpaceDepthNet(PromptNet):
    """SAM with Med-SA's adapters: the first masks of its decoder, at the decoder's own resolution.

    Args:
        sam: with adapted blocks; its `encode` takes the slices of whole chunks as the batch.
        masks: how many of the decoder's masks are answers.
    """

    def __init__(self, sam: SamNet, *, masks: int = 1) -> None:
        super().__init__()
        self.sam = sam
        self.masks = masks

    @property
    def encoding(self) -> nn.Module:
        """The image encoder."""
        return self.sam.encoding

    @property
    def answering(self) -> nn.Module:
        """Prompt encoder and mask decoder."""
        return self.sam.answering

    def encode(self, image: Tensor) -> Tensor:
        """[B, 3, 1, S, S] -> [B, width, h, w]; in 3D B slices are one or several chunks."""
        return self.sam.encode(image)

    def decode(self, features: Tensor, marks: Marks) -> Decoded:
        """Features and Q queries of points -> logits [Q, M, 1, h, w] and predicted IoU [Q, M]."""
        n = len(marks.image)
        points = None if marks.points is None else marks.points[..., 1:].flip(-1)  # (d, h, w) -> (x, y)
        prompts = self.sam.prompt_encoder
        logits, quality = self.sam.mask_decoder(
            features[marks.image],
            prompts.places(),
            prompts.sparse(points, marks.signs, None, n),
            prompts.dense(None, n),
            candidates=slice(0, self.masks),
        )
        return Decoded(logits[:, :, None], quality, low_res=logits)


def placed(sites: Sequence[Site], *, hidden: int, chunk: int = 0, grid: tuple[int, int] = (0, 0)) -> None:
    """Put fresh adapters into blocks of any make (in place); they change nothing at all.

    The norm stays outside the windows, so that their padding is as the base learned it; each window keeps to itself
    along depth. TinyViT's MLP has its norm inside, so that its adapter sees the map itself.

    Args:
        sites: the blocks.
        hidden: of all adapters; 0: a quarter of a block's width.
        chunk: slices that attend to each other, 0 for single images; only for SAM's own encoder.
        grid: (h, w) of the map, with a chunk.
    """
    for site in sites:
        block, own = site.block, hidden or max(1, site.out // 4)
        space, beside = (Bottleneck(site.out, own, skip=skip) for skip in (True, False))
        depth = Bottleneck(site.out, own, skip=False) if chunk else nn.Identity()
        rows, columns = (-(-n // block.window) if chunk and block.window else 1 for n in grid)
        block.attn = SpaceDepthAttention(
            nn.Identity(), block.attn, space, depth, chunk=chunk, windows=int(rows * columns)
        )
        block.mlp = Beside(block.mlp, beside, scale=MLP_SCALE)


def adapted(encoder: Any, *, chunk: int, hidden: Mapping[str, int] | None = None, apart: bool = False) -> None:
    """Put fresh adapters into each block (in place) as Med-SA does; they change nothing but the padding of windows.

    Args:
        encoder: SAM's `ImageEncoderViT`.
        chunk: slices that attend to each other, 0 for single images.
        hidden: of the adapters "space", "depth" and "mlp"; a quarter of the width where one is not named.
        apart: each window of a slice keeps to itself along depth.
    """
    width = encoder.pos_embed.shape[-1]
    own = dict.fromkeys(_ADAPTERS, width // 4) | dict(hidden or {})
    blocks: list[Any] = list(encoder.blocks)
    for block in blocks:
        space, depth, beside = (Bottleneck(width, own[name], skip=name == "space") for name in _ADAPTERS)
        rows, columns = (-(-n // block.window) if apart and block.window else 1 for n in encoder.pos_embed.shape[1:3])
        block.attn = SpaceDepthAttention(
            block.norm1, block.attn, space, depth, chunk=chunk, windows=int(rows * columns)
        )
        block.norm1 = nn.Identity()
        block.mlp = Beside(block.mlp, beside, scale=MLP_SCALE)


def nearly_square(n: int) -> int:
    """The shorter side of the most square rectangle of n cells that is no square: 6 is 2 x 3, but 16 is 2 x 8.

    The original's outputs for chunks of 4, 9 and 16 slices show that it never takes the square. One cell is 1 x 1,
    for which the original has no answer.
    """
    return max((side for side in range(1, n) if n % side == 0 and side * side < n), default=1)


def grid_of(shapes: Shapes, config: Mapping[str, Any]) -> int:
    """Side of the embedding: from the tables of blocks that see the whole map.

    Where all tables are those of windows it comes from the configuration's "image_size", else it is that of the
    positions.
    """
    window = 2 * int(config.get("window_size", WINDOW)) - 1
    tables = [int(shape[0]) for key, shape in shapes.items() if key.endswith(".attn.rel_h") and shape[0] != window]
    if tables:
        return (tables[0] + 1) // 2
    size = _argument(config, "image_size")
    patch = int(shapes["image_encoder.patch_embed.proj.weight"][-1])
    return int(size) // patch if size else int(shapes["image_encoder.pos_embed"][1])


def net_of(shapes: Shapes, config: Mapping[str, Any], *, chunk: int, apart: bool = False) -> SpaceDepthNet:
    """The net, untrained, with the sizes of a checkpoint.

    Args:
        shapes: key -> shape of a published file.
        config: heads of the decoder, "image_size" and "multimask_output" (also under "args").
        chunk: slices of a chunk, 0 for single images.
        apart: as `adapted`.

    Raises:
        WeightsError: keys are missing.
    """
    fitted = {_sams(key): shape for key, shape in shapes.items()}
    if "image_encoder.pos_embed" in shapes:
        side, width = grid_of(shapes, config), shapes["image_encoder.pos_embed"][-1]
        fitted["image_encoder.pos_embed"] = (1, side, side, width)
    encoder = encoder_of(fitted, config)
    prompts, decoder = prompting_of(
        fitted, config, grid=(encoder.size[0] // encoder.patch, encoder.size[1] // encoder.patch), size=encoder.size
    )
    if count(shapes, "image_encoder.blocks."):
        layers = {name: f"image_encoder.blocks.0.{saved}.D_fc1.weight" for name, saved in _ADAPTERS.items()}
        adapted(
            encoder, chunk=chunk, hidden={name: int(shapes[key][0]) for name, key in layers.items() if key in shapes}
        )
    replaced(decoder)
    masks = int(_argument(config, "multimask_output") or 1)
    return SpaceDepthNet(SamNet(encoder, prompts, decoder), masks=masks)


def named(tensors: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """A published state dict by our net's keys; the positions resized bicubically to side x side patches."""
    out = {f"sam.{_ours(_sams(key))}": value for key, value in tensors.items()}
    places = out.get("sam.image_encoder.pos_embed")
    if places is not None and tuple(places.shape[1:3]) != (side, side):
        moved = F.interpolate(places.permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False)
        out["sam.image_encoder.pos_embed"] = moved.permute(0, 2, 3, 1)
    return out


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our net's state dict by the published keys; positions stay those of our net's size."""
    return {_theirs(key.removeprefix("sam.")): value for key, value in tensors.items()}


def replaced(decoder: MaskDecoder) -> None:
    """Med-SA's blocks in place of SAM's, with the same weights (in place)."""
    transformer: Any = decoder.transformer
    layers = list(transformer.layers)
    for i, layer in enumerate(layers):
        width, hidden = layer.norm1.weight.shape[0], layer.mlp.lin1.weight.shape[0]
        block = PlacedTwoWayBlock(width, heads=layer.self_attn.heads, hidden=hidden, first=layer.first)
        block.load_state_dict(layer.state_dict())
        layers[i] = block
    transformer.layers = nn.ModuleList(layers)


_NAMES = (  # ours, theirs, inside a block
    (".attn.norm.", ".norm1."),
    (".attn.space.", ".Space_Adapter."),
    (".attn.depth.", ".Depth_Adapter."),
    (".mlp.adapter.", ".MLP_Adapter."),
    (".mlp.inner.", ".mlp."),
    (".attn.attn.", ".attn."),
)
_DECODER_LAYER = r"mask_decoder\.transformer\.layers\.\d+\.mlp\."
_DECODER_MLP = re.compile(rf"^({_DECODER_LAYER})(layers\.0\.0|fc)\.")
_MLP_NAMES = {"layers.0.0": "lin1", "fc": "lin2"}  # theirs -> SAM's
_IN_BLOCK = re.compile(r"(image_encoder\.blocks\.\d+)(\..+)")


def _sams(key: str) -> str:
    """SAM's names of the relative positions and of the decoder's MLP."""
    key = re.sub(r"\.attn\.rel_([hw])$", r".attn.rel_pos_\1", key)
    return _DECODER_MLP.sub(lambda found: f"{found[1]}{_MLP_NAMES[found[2]]}.", key)


def _back(key: str) -> str:
    """Med-SA's names of those."""
    key = re.sub(r"\.attn\.rel_pos_([hw])$", r".attn.rel_\1", key)
    for theirs, ours in _MLP_NAMES.items():
        key = re.sub(rf"^({_DECODER_LAYER}){ours}\.", rf"\g<1>{theirs}.", key)
    return key


def _ours(key: str) -> str:
    found = _IN_BLOCK.fullmatch(key)
    if found is None:
        return key
    for ours, theirs in _NAMES:
        if found[2].startswith(theirs):
            return found[1] + ours + found[2].removeprefix(theirs)
    return key


def _theirs(key: str) -> str:
    found = _IN_BLOCK.fullmatch(key)
    for ours, theirs in _NAMES if found else ():
        if found and found[2].startswith(ours):
            return _back(found[1] + theirs + found[2].removeprefix(ours))
    return _back(key)


def _argument(config: Mapping[str, Any], name: str) -> Any:
    """A value of the configuration or of the arguments in it."""
    arguments = config.get("args")
    return arguments[name] if isinstance(arguments, Mapping) and name in arguments else config.get(name)
