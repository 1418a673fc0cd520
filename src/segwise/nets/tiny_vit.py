"""TinyViT, the small image encoder of MobileSAM and LiteMedSAM: convolutions first, then attention in windows.

Source: Wu et al., TinyViT, arXiv 2207.10666, section 4.2 and figure 4. Maps stay `[B, C, H, W]` in channels-last
memory; parameters carry the names of the published checkpoints.

Deviation: when the net is not in training, batch normalisation is folded into its convolution and a 1x1 convolution is
a matrix product (fewer passes over the large maps); outputs change in the last bits only. Batch normalisation whose
scale is frozen keeps to the statistics it has, in training too: adapters must not move them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """A convolution without bias, and its batch normalisation."""

    def __init__(self, width_in: int, width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, H, W] -> [B, width, H / stride, W / stride]."""
        if self.training and self.bn.weight.requires_grad:
            return self.bn(self.c(x))  # type: ignore[no-any-return]
        mean, var = self.bn.running_mean, self.bn.running_var
        if mean is None or var is None:
            return self.bn(self.c(x))  # type: ignore[no-any-return]
        scale = self.bn.weight / torch.sqrt(var + self.bn.eps)
        weight, bias = self.c.weight * scale[:, None, None, None], self.bn.bias - mean * scale
        if self.c.kernel_size == (1, 1) and self.c.stride == (1, 1) and self.c.groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, self.c.dilation, self.c.groups)


class Stem(nn.Module):
    """Two convolutions that make channels of the image; 3x3 with stride 2 each, or 1x1 without (LiteMedSAM)."""

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        kernel = 3 if stride > 1 else 1
        self.seq = nn.Sequential(
            ConvNorm(width_in, width // 2, kernel=kernel, stride=stride),
            nn.GELU(),
            ConvNorm(width // 2, width, kernel=kernel, stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, H, W] -> [B, width, H / stride², W / stride²]."""
        return self.seq(x)  # type: ignore[no-any-return]


class InvertedBottleneck(nn.Module):
    """1x1 to many channels, 3x3 depthwise, 1x1 back, with a skip: the block of the first stage."""

    def __init__(self, width: int, *, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merging(nn.Module):
    """Between two stages: new width, and half the resolution where the stride is 2."""

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width_in, width)
        self.conv2 = ConvNorm(width, width, kernel=3, stride=stride, groups=width)
        self.conv3 = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, H, W] -> [B, width, H / stride, W / stride]."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a learned bias for every distance |dy|, |dx|."""

    bias_index: Tensor

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        apart = (place[:, None] - place[None]).abs()
        self.register_buffer("bias_index", apart[..., 0] * window + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> the same shape; N windows of T = window² tokens."""
        n, t, width = x.shape
        qkv = self.qkv(self.norm(x)).view(n, t, self.heads, 3, width // self.heads)  # a head's q, k, v lie together
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # [N, heads, T, width / heads] each
        bias = self.attention_biases[:, self.bias_index]
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:  # its gradient takes three times as long as float32's
            with torch.autocast("cpu", enabled=False):
                mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias[None].float())
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(mixed.transpose(1, 2).reshape(n, t, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers behind a normalisation."""

    def __init__(self, width: int, *, ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Window attention, a depthwise convolution, an MLP: the block of the later stages.

    Attributes:
        before_attn, before_mlp: modules of adapters on the map [B, h, w, width]; nothing in TinyViT itself.
    """

    def __init__(self, width: int, *, heads: int, window: int, mlp_ratio: float, kernel: int) -> None:
        super().__init__()
        self.window = window
        self.before_attn: nn.Module = nn.Identity()
        self.before_mlp: nn.Module = nn.Identity()
        self.attn: nn.Module = WindowAttention(width, heads=heads, window=window)
        self.local_conv = ConvNorm(width, width, kernel=kernel, groups=width)
        self.mlp: nn.Module = Mlp(width, ratio=mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape. Zeros fill the last windows, and are not masked out."""
        tokens = self.before_attn(x.permute(0, 2, 3, 1))
        x = self.local_conv((tokens + self._attended(tokens)).permute(0, 3, 1, 2))
        tokens = self.before_mlp(x.permute(0, 2, 3, 1))
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _attended(self, x: Tensor) -> Tensor:
        b, h, w, width = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(b, rows, side, columns, side, width).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, width))  # [B * windows, T, width]
        x = x.view(b, rows, columns, side, side, width).transpose(2, 3)
        return x.reshape(b, rows * side, columns * side, width)[:, :h, :w]


class Stage(nn.Module):
    """Blocks of one width, then the way down to the next."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, next width, H / stride, W / stride]."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of a map (SAM's LayerNorm2d)."""

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


class TinyViT(nn.Module):
    """Image -> embedding.

    Args:
        channels: of the image.
        widths: channels of the four stages.
        depths: blocks a stage.
        heads: of the stages with attention; the first stage's number is not used.
        windows: side of a window, by stage.
        stem_stride: of both stem convolutions: 2 for MobileSAM, 1 for LiteMedSAM.
        merge_strides: between the stages.
        embedding: channels of the result.
        mlp_ratio, expansion: hidden over outer width, in attention and convolution blocks.
        kernel: of the depthwise convolution inside an attention block.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        stem_stride: int = 1,
        merge_strides: Sequence[int] = (2, 2, 1),
        embedding: int = 256,
        mlp_ratio: float = 4.0,
        expansion: float = 4.0,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.patch_embed = Stem(channels, widths[0], stride=stem_stride)
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            down = None if i == len(widths) - 1 else Merging(width, widths[i + 1], stride=merge_strides[i])
            if i == 0:
                blocks: list[nn.Module] = [InvertedBottleneck(width, expansion=expansion) for _ in range(depth)]
            else:
                blocks = [
                    Block(width, heads=heads[i], window=windows[i], mlp_ratio=mlp_ratio, kernel=kernel)
                    for _ in range(depth)
                ]
            stages.append(Stage(blocks, down))
        self.layers = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], embedding, 1, bias=False),
            ChannelNorm(embedding),
            nn.Conv2d(embedding, embedding, 3, padding=1, bias=False),
            ChannelNorm(embedding),
        )

    def forward(self, image: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, embedding, h, w]."""
        x = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)  # type: ignore[no-any-return]
