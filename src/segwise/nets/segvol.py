"""SegVol's net: a vision transformer on a volume of one fixed size, prompted by words, a box and points.

Source: Du et al., SegVol, NeurIPS 2024 (arXiv 2311.13385), section 2, and the released checkpoint (BAAI-DCAI/SegVol).
Written anew with the parameter names of that checkpoint, without "module." and without the "text_model." of older
transformers. What it learned and is kept: the layer norm of the decoder is over channels and places together, with
weights of their own for every place, so that the net works at one size only; points are divided along the first axis
by the size of the second and the other way round; words are a token and, by likeness, a map added to every mask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import WeightsError
from segwise.nets.clip_text import clip_text, without_prefix
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.sam import NO_POINT
from segwise.nets.sam_3d import MaskDecoder3d, RandomPlaces3d, Size, decoder_of, pointed
from segwise.nets.sam_vit import Shapes, count

HEADS = 12  # of the encoder
PATCH: Size = (4, 16, 16)  # published; no shape tells the sides of a patch
TEXT = "text_encoder."
UNUSED = {  # prefixes of keys
    "prompt_encoder.mask_downscaling.": "a two-dimensional branch for mask prompts that nothing calls",
    "text_encoder.clip_text_model.embeddings.position_ids": "numbers from 0 on",
}
_CLIP = f"{TEXT}clip_text_model."


class SelfAttention(nn.Module):
    """Attention of tokens among themselves, without biases of queries, keys and values."""

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.out_proj = nn.Linear(width, width)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> the same shape."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, T, c]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Gelu(nn.Module):
    """Two linear layers with a GELU between, as MONAI names them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.linear2(F.gelu(self.linear1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self, width: int, heads: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.mlp = Gelu(width, hidden)
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, bias=bias)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Boxes of voxels as tokens, with a learned place each."""

    def __init__(self, patch: Size, grid: Size, width: int) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        values = patch[0] * patch[1] * patch[2]
        self.patch_embeddings = nn.Sequential(nn.Identity(), nn.Linear(values, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1] * grid[2], width))

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] -> [B, d*h*w, width]."""
        d, h, w = self.grid
        split = image.view(len(image), d, self.patch[0], h, self.patch[1], w, self.patch[2])
        values = split.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(image), d * h * w, -1)
        return self.patch_embeddings(values) + self.position_embeddings  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Patches, blocks and a norm.

    Args:
        patch: voxels of a token along each axis.
        grid: tokens along each axis.
        width, heads, hidden: of a block.
        depth: how many blocks.
        bias: of queries, keys and values.
    """

    def __init__(
        self, *, patch: Size, grid: Size, width: int, heads: int, hidden: int, depth: int, bias: bool = False
    ) -> None:
        super().__init__()
        self.grid = grid
        self.size: Size = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
        self.patch_embedding = Patches(patch, grid, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, bias=bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] -> [B, width, d, h, w]."""
        x = self.patch_embedding(image)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(1, 2).reshape(len(image), -1, *self.grid)  # type: ignore[no-any-return]


class PromptEncoder(nn.Module):
    """Points and a box as tokens.

    Args:
        width: of a token.
        grid: of the image embedding.
        size: of the net's input.
    """

    def __init__(self, *, width: int, grid: Size, size: Size) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        self.pe_layer = RandomPlaces3d(width // 2, waves="sc")
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)

    def places(self) -> Tensor:
        """[1, width, *grid]: positional code of the image embedding."""
        return self.pe_layer.grid(self.grid, self.grid)[None]

    def sparse(self, points: Tensor | None, signs: Tensor | None, boxes: Tensor | None, text: Tensor | None) -> Tensor:
        """Tokens of a prompt.

        Args:
            points: [Q, N, 3] in voxels, or None.
            signs: [Q, N]: 1 positive, 0 negative, -1 padding.
            boxes: [Q, 2, 3] first and last voxel, or None.
            text: [Q, width], or None.

        Returns:
            [Q, T, width]: the points, a padding token where points come without a box, the box's corners, the text.
        """
        tokens = []
        if points is not None and signs is not None:
            if boxes is None:
                points, signs = F.pad(points, (0, 0, 0, 1)), F.pad(signs, (0, 1), value=NO_POINT)
            tokens.append(pointed(self, self._placed(points), signs))
        if boxes is not None:
            kinds = torch.cat([self.point_embeddings[i].weight for i in (2, 3)])  # type: ignore[misc]
            tokens.append(self._placed(boxes) + kinds)
        if text is not None:
            tokens.append(text[:, None])
        return torch.cat(tokens, dim=1)

    def dense(self, n: int) -> Tensor:
        """[n, width, *grid]: of no mask."""
        return self.no_mask_embed.weight.view(1, -1, 1, 1, 1).expand(n, -1, *self.grid)

    def _placed(self, voxels: Tensor) -> Tensor:
        d, h, w = self.size
        return self.pe_layer((voxels + 0.5) / voxels.new_tensor([h, d, w]))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """CLIP's text tower and a linear layer to the width of a token."""

    def __init__(self, shapes: Shapes, *, heads: int) -> None:
        super().__init__()
        clip = {key.removeprefix(_CLIP): shape for key, shape in shapes.items() if key.startswith(_CLIP)}
        self.clip_text_model = clip_text(clip, heads=heads)
        width, inner = shapes[f"{TEXT}dim_align.weight"]
        self.dim_align = nn.Linear(inner, width)
        self.n_words = int(clip["embeddings.token_embedding.weight"][0])

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 [N, L], int64 [N, L] (0 is padding; None: there is none) -> [N, width]."""
        pooled = self.clip_text_model(input_ids=ids, attention_mask=mask).pooler_output
        return self.dim_align(pooled)  # type: ignore[no-any-return]


class SegVolNet(PromptNet):
    """SegVol.

    Args:
        image_encoder, prompt_encoder, mask_decoder: its parts.
        text_encoder: None where the checkpoint has none; words are then taken as embeddings only.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder3d,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.text_encoder = text_encoder

    @property
    def encoding(self) -> nn.Module:
        """The image encoder."""
        return self.image_encoder

    def encode(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] -> [B, width, d, h, w]."""
        return self.image_encoder(image).contiguous()  # type: ignore[no-any-return]

    def decode(self, features: Tensor, marks: Marks) -> Decoded:
        """Q queries -> logits [Q, 1, D, H, W], predicted IoU, low-resolution logits [Q, 1, 4d, 4h, 4w].

        `marks.tokens` holds "ids" and "mask" [Q, L] of words, or their "embedding" [Q, width].
        """
        text = self.worded(marks)
        logits, quality = self.mask_decoder(
            features[marks.image],
            self.prompt_encoder.places(),
            self.prompt_encoder.sparse(marks.points, marks.signs, marks.boxes, text),
            self.prompt_encoder.dense(len(marks.image)),
            candidates=slice(0, 1),
            words=text,
        )
        full = F.interpolate(logits, self.image_encoder.size, mode="trilinear", align_corners=False)
        return Decoded(full, quality, low_res=logits)

    def worded(self, marks: Marks) -> Tensor | None:
        """[Q, width]: the words of a prompt, or None.

        Raises:
            WeightsError: the checkpoint has no text encoder.
        """
        if marks.tokens is None:
            return None
        if "embedding" in marks.tokens:
            return marks.tokens["embedding"]  # type: ignore[no-any-return]
        if self.text_encoder is None:
            raise WeightsError("this checkpoint of SegVol has no text encoder (text_encoder.*)")
        return self.text_encoder(marks.tokens["ids"], marks.tokens["mask"])  # type: ignore[no-any-return]


def official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors, or shapes, under our names: no "module.", "model." or "text_model.", and nothing that nothing reads."""
    plain = {re.sub(r"^((module|model)\.)*", "", key): value for key, value in tensors.items()}
    text = without_prefix({key.removeprefix(_CLIP): v for key, v in plain.items() if key.startswith(_CLIP)})
    own = {key: value for key, value in plain.items() if not key.startswith(_CLIP)}
    found = {**own, **{f"{_CLIP}{key}": value for key, value in text.items()}}
    skipped = tuple(UNUSED)
    return {k: v for k, v in found.items() if not k.startswith(skipped) and ".norm_cross_attn." not in k}


def net_of(shapes: Shapes, config: Mapping[str, Any]) -> SegVolNet:
    """SegVol, untrained, with the sizes that a checkpoint's keys have.

    Args:
        shapes: key -> shape, from `official`.
        config: of the file beside the checkpoint: "patch_size" (its product is checked), "vit_heads", "decoder_heads"
            and "text_heads", which no shape tells; published values without them.

    Raises:
        WeightsError: keys are missing, or the patch does not fit them.
    """
    try:
        return _net(shapes, config)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"these weights are not SegVol's: {error} is missing or of another shape") from error


def _net(shapes: Shapes, config: Mapping[str, Any]) -> SegVolNet:
    width, values = (int(n) for n in shapes["image_encoder.patch_embedding.patch_embeddings.1.weight"])
    norm = tuple(int(n) for n in shapes["mask_decoder.output_upscaling.1.weight"])
    grid: Size = (norm[1] // 2, norm[2] // 2, norm[3] // 2)
    d, h, w = (int(n) for n in config.get("patch_size", PATCH))
    if d * h * w != values:
        raise WeightsError(
            f"a token of these weights has {values} voxels, a patch of {d}×{h}×{w} has {d * h * w}; expected "
            '"patch_size" in the config.json beside the checkpoint'
        )
    blocks = "image_encoder.blocks."
    encoder = ImageEncoder(
        patch=(d, h, w),
        grid=grid,
        width=width,
        heads=int(config.get("vit_heads", HEADS)),
        hidden=int(shapes[f"{blocks}0.mlp.linear1.weight"][0]),
        depth=count(shapes, blocks),
        bias=f"{blocks}0.attn.qkv.bias" in shapes,
    )
    tokens = int(shapes["mask_decoder.mask_tokens.weight"][1])
    worded = f"{TEXT}dim_align.weight" in shapes
    return SegVolNet(
        encoder,
        PromptEncoder(width=tokens, grid=grid, size=encoder.size),
        decoder_of(shapes, heads=int(config.get("decoder_heads", 8)), norm=nn.LayerNorm(norm)),
        TextEncoder(shapes, heads=int(config.get("text_heads", 8))) if worded else None,
    )
