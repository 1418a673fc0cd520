"""How SAM 2 remembers: a memory of each answered slice, and attention from a slice to the memories of others.

Source: Ravi et al., SAM 2, arXiv 2408.00714, section 4 and appendix D; rotary places: Su et al., arXiv 2104.09864, on
two axes as Heo et al., arXiv 2403.13298. Parameters carry the names of the published checkpoints
(`memory_attention.*`, `memory_encoder.*`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.tiny_vit import ChannelNorm

TEMPERATURE = 10000.0
POSITION_SHARE = 0.1  # of the sine position that joins a map before it attends


def sine_places(width: int, h: int, w: int, *, device: torch.device | None = None) -> Tensor:
    """float32 [1, width, h, w]: sines and cosines of row (first half of the channels) and column (second half)."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    period = TEMPERATURE ** (2 * (steps // 2) / half)

    def axis(n: int) -> Tensor:
        at = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        angle = at[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # [n, half]

    rows = axis(h)[:, None].expand(h, w, half)
    columns = axis(w)[None].expand(h, w, half)
    return torch.cat([rows, columns], dim=-1).permute(2, 0, 1)[None]


def sine_times(at: Tensor, width: int) -> Tensor:
    """[N] -> [N, width]: sines, then cosines, of places in time."""
    half = width // 2
    period = TEMPERATURE ** (2 * (torch.arange(half, dtype=torch.float32, device=at.device) // 2) / half)
    angle = at[:, None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotations(width: int, h: int, w: int, *, theta: float, device: torch.device | None = None) -> Tensor:
    """complex64 [h*w, width / 2]: by column, then by row."""
    speed = 1.0 / theta ** (torch.arange(0, width, 4, dtype=torch.float32, device=device)[: width // 4] / width)
    place = torch.arange(h * w, dtype=torch.float32, device=device)
    angles = [torch.outer(axis, speed) for axis in (place % w, torch.div(place, w, rounding_mode="floor"))]
    return torch.cat([torch.polar(torch.ones_like(angle), angle) for angle in angles], dim=-1)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """[B, heads, T, C] turned by complex [h*w, C / 2], repeated along T."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    pairs = pairs.reshape(*pairs.shape[:2], -1, *turns.shape) * turns  # [B, heads, maps, h*w, C / 2]
    return torch.view_as_real(pairs).flatten(-2).flatten(2, 3).type_as(x)


class RotaryAttention(nn.Module):
    """Attention whose queries and keys know where on the map they lie.

    Args:
        width: of queries and of the result.
        keys: width of keys and values.
        heads: of the attention.
        inner: width inside.
        theta: of the rotations.
    """

    def __init__(
        self, width: int, *, keys: int | None = None, heads: int = 1, inner: int | None = None, theta: float = 10000.0
    ) -> None:
        super().__init__()
        inner = inner or width
        self.heads, self.theta = heads, theta
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(keys or width, inner)
        self.v_proj = nn.Linear(keys or width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, size: tuple[int, int], placeless: int = 0) -> Tensor:
        """Queries [B, h*w, width] of a map of a size, keys and values [B, T, keys] -> [B, h*w, width].

        The last `placeless` keys lie nowhere; the others are maps of the queries' size, one after the other.
        """
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        turns = rotations(q.shape[-1], *size, theta=self.theta, device=q.device)
        placed = k.shape[2] - placeless
        q = rotated(q, turns)
        if placed:
            k = torch.cat([rotated(k[:, :, :placed], turns), k[:, :, placed:]], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out_proj(mixed.flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, heads, T, inner / heads]


class MemoryLayer(nn.Module):
    """A map among itself, then to the memories, then an MLP."""

    def __init__(self, self_attn: RotaryAttention, cross_attn_image: RotaryAttention, *, hidden: int) -> None:
        super().__init__()
        width = self_attn.out_proj.out_features
        self.self_attn, self.cross_attn_image = self_attn, cross_attn_image
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, *, size: tuple[int, int], pointers: int) -> Tensor:
        """[B, h*w, width], memory and its places [B, T, keys] -> [B, h*w, width]."""
        own = self.norm1(x)
        x = x + self.self_attn(own, own, own, size=size)
        x = x + self.cross_attn_image(self.norm2(x), memory + places, memory, size=size, placeless=pointers)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))  # type: ignore[no-any-return]


class MemoryAttention(nn.Module):
    """Layers of attention to memories."""

    def __init__(self, layers: list[MemoryLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(layers[0].linear1.in_features)

    def forward(self, image: Tensor, memory: Tensor, places: Tensor, *, pointers: int = 0) -> Tensor:
        """A map conditioned on memories.

        Args:
            image: [B, width, h, w].
            memory: [B, T, keys]: maps of h*w tokens, one after the other, then the tokens of pointers.
            places: [B, T, keys], added to the keys.
            pointers: how many tokens at the end lie nowhere.

        Returns:
            [B, width, h, w].
        """
        size = (image.shape[2], image.shape[3])
        x = image + POSITION_SHARE * sine_places(image.shape[1], *size, device=image.device)
        x = x.flatten(2).transpose(1, 2)  # [B, h*w, width]
        for layer in self.layers:
            x = layer(x, memory, places, size=size, pointers=pointers)
        return self.norm(x).transpose(1, 2).reshape(image.shape)  # type: ignore[no-any-return]


class MaskDownSampler(nn.Module):
    """A mask at the image's size -> a map of a sixteenth."""

    def __init__(self, width: int, *, steps: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(steps):
            layers += [nn.Conv2d(4**i, 4 ** (i + 1), 3, 2, 1), ChannelNorm(4 ** (i + 1)), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(4**steps, width, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """[B, 1, H, W] -> [B, width, H/16, W/16]."""
        return self.encoder(mask)  # type: ignore[no-any-return]


class ConvNextBlock(nn.Module):
    """A depthwise convolution and an MLP a pixel, scaled by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = ChannelNorm(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        own = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        own = self.gamma * self.pwconv2(F.gelu(self.pwconv1(own)))
        return x + own.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Fuser(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, width: int, *, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """A map and the mask found on it -> a memory.

    Args:
        width: of the map.
        out: of the memory.
        depth: blocks that fuse map and mask.
    """

    def __init__(self, width: int, out: int, *, depth: int = 2) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(width)
        self.pix_feat_proj = nn.Conv2d(width, width, 1)
        self.fuser = Fuser(width, depth=depth)
        self.out_proj: nn.Module = nn.Conv2d(width, out, 1) if out != width else nn.Identity()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map [B, width, h, w] and mask [B, 1, 16h, 16w], scaled -> [B, out, h, w]."""
        return self.out_proj(self.fuser(self.pix_feat_proj(image) + self.mask_downsampler(mask)))  # type: ignore[no-any-return]
