"""MeshNet: a stack of dilated 3x3x3 convolutions at full resolution, for whole volumes.

Sources: Fedorov et al., "End-to-end learning of brain tissue segmentation from imperfect labeling", arXiv 1612.00940
(the net); the layer lists of neuroneural/brainchop-models (dilations, activations, GroupNorm of mindgrab) as facts.

A volume of 256^3 voxels with 30 channels is 2 GB a layer. `slabs` therefore never holds a layer: planes of the first
axis stream through all layers at once, and each layer keeps only the 2 x dilation planes that its next planes still
need. Channels lie last in memory: the convolutions are then up to 5 times faster on a CPU and planes are contiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segwise.errors import WeightsError
from segwise.nets.contract import StreamedNet

PLANES = 2  # of the first axis that enter at once; measured at 256^2: 4 is 5 % faster and takes 0.5 GB more
EPS = 1e-5  # of GroupNorm
_LAST = torch.channels_last_3d


class Block(nn.Module):
    """One dilated convolution, its norm and its activation.

    Args:
        n_in, n_out: channels.
        dilation: in voxels; zeros are padded as far.
        activation: "relu", "elu" or "gelu" (tanh form).
        norm: each channel over the whole volume to mean 0, variance 1, without affine; then there is no bias.
    """

    def __init__(self, n_in: int, n_out: int, *, dilation: int, activation: str, norm: bool) -> None:
        super().__init__()
        # The first axis is padded by `forward` or `_streamed`, so that both go through the same module.
        self.conv = nn.Conv3d(n_in, n_out, 3, padding=(0, dilation, dilation), dilation=dilation, bias=not norm)
        self.dilation, self.activation, self.norm = dilation, activation, norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, D, H, W] -> [B, n_out, D, H, W]."""
        d = self.dilation
        x = self.conv(F.pad(x, (0, 0, 0, 0, d, d)))
        if self.norm:
            x = F.group_norm(x, x.shape[1], eps=EPS)
        return self.activate(x)

    def activate(self, x: Tensor) -> Tensor:
        """The activation; changes `x` itself where it can and no gradient is wanted."""
        if self.activation == "gelu":
            return F.gelu(x, approximate="tanh")
        inplace = not torch.is_grad_enabled()
        return F.elu(x, inplace=inplace) if self.activation == "elu" else F.relu(x, inplace=inplace)


class MeshNet(StreamedNet):
    """MeshNet with zero padding in every layer, so that the output has the input's shape.

    Args:
        channels: width of every hidden layer.
        classes: K, background included.
        dilations: of the 3x3x3 layers; a 1x1x1 layer follows.
        activation: "relu", "elu" or "gelu" (tanh form).
        norm: normalise each channel over the whole volume after each convolution (mindgrab).
        last_bias: the last layer adds its bias.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        dilations: Sequence[int],
        activation: str = "relu",
        norm: bool = False,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels if i else 1, channels, dilation=d, activation=activation, norm=norm)
            for i, d in enumerate(dilations)
        )
        self.last = nn.Conv3d(channels, classes, 1, bias=last_bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 1, D, H, W] -> logits [B, K, D, H, W], alone in a list. Holds whole layers: for crops and training."""
        for block in self._layers():
            image = block(image)
        return [self.last(image)]

    @torch.inference_mode()
    def slabs(self, image: Tensor) -> Iterator[Tensor]:
        """[1, 1, D, H, W] -> logits [1, K, d, H, W] in pieces along D; `forward` up to rounding.

        Memory for 256^3 voxels: 1.1 GB with 30 channels, 1.3 GB with 15 channels and norm.
        """
        if any(block.norm for block in self._layers()):
            planes = self._normed(image)
        else:
            planes = _cut(image)
            for block in self._layers():
                planes = map(block.activate, _streamed(block, planes))
        yield from map(self.last, planes)

    def _layers(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    def _normed(self, image: Tensor) -> Iterator[Tensor]:
        """The norm needs a whole layer before the next: one is kept, and overwritten behind the planes in flight."""
        shape = (image.shape[0], self.last.in_channels, *image.shape[2:])
        kept = torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=_LAST)
        planes = _cut(image)
        for block in self._layers():
            mean, scale = _overwrite(kept, _streamed(block, planes))
            planes = _normalised(block, kept, mean, scale)
        return planes


def load_weights(net: MeshNet, tensors: Mapping[str, Tensor]) -> None:
    """Fill a net from the tensors of a brainchop file: `model.I.weight`, or `model.I.0.weight` with norm.

    Raises:
        WeightsError: names or shapes are not this net's.
    """
    order = sorted(tensors, key=lambda name: [int(part) if part.isdigit() else -1 for part in name.split(".")])
    weights = [tensors[name] for name in order if name.endswith(".weight")]
    biases = {name.removesuffix(".bias"): tensors[name] for name in order if name.endswith(".bias")}
    stems = [name.removesuffix(".weight") for name in order if name.endswith(".weight")]
    convs = [*(cast(Block, block).conv for block in net.blocks), net.last]
    if len(convs) != len(weights):
        raise WeightsError(f"the file has {len(weights)} layers, expected {len(convs)}")
    for stem, conv, weight in zip(stems, convs, weights, strict=True):
        _fill(stem, conv, weight, biases.get(stem))


def _fill(stem: str, conv: nn.Conv3d, weight: Tensor, bias: Tensor | None) -> None:
    if weight.shape != conv.weight.shape:
        raise WeightsError(f"{stem}.weight is {tuple(weight.shape)}, expected {tuple(conv.weight.shape)}")
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None:
            if bias is None or bias.shape != conv.bias.shape:
                raise WeightsError(f"{stem}.bias is missing or of another shape, expected {tuple(conv.bias.shape)}")
            conv.bias.copy_(bias)


def _cut(image: Tensor) -> Iterator[Tensor]:
    """[B, C, D, H, W] in pieces of PLANES along D."""
    for start in range(0, image.shape[2], PLANES):
        yield image[:, :, start : start + PLANES].contiguous(memory_format=_LAST)


def _streamed(block: Block, planes: Iterable[Tensor]) -> Iterator[Tensor]:
    """The convolution of all planes, piece by piece: what comes out lags `dilation` planes behind what goes in."""
    window: _Window | None = None
    for piece in planes:
        window = _Window(piece, block.dilation) if window is None else window
        if (ready := window.push(piece)) is not None:
            yield block.conv(ready)
    for start in range(0, block.dilation if window else 0, PLANES):  # the zeros behind the last plane
        if window and (ready := window.push(min(PLANES, block.dilation - start))) is not None:
            yield block.conv(ready)


class _Window:
    """The last planes of a layer's input: 2 x dilation, which the next ones still need, and what came since.

    One buffer a layer, moved along in place: fresh memory for every piece costs more than the convolution.
    """

    def __init__(self, like: Tensor, dilation: int) -> None:
        batch, channels, _, height, width = like.shape
        shape = (batch, channels, 2 * dilation + 2 * PLANES, height, width)
        self.held = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_LAST)
        self.held[:, :, :dilation] = 0
        self.dilation, self.low, self.high = dilation, 0, dilation

    def push(self, piece: Tensor | int) -> Tensor | None:
        """Take planes in (a number: so many of zeros); the planes that a convolution can now run over, or None."""
        n = piece if isinstance(piece, int) else piece.shape[2]
        if self.high + n > self.held.shape[2]:
            self._back()
        self.held[:, :, self.high : self.high + n] = 0 if isinstance(piece, int) else piece
        self.high += n
        if self.high - self.low <= 2 * self.dilation:
            return None
        ready = self.held[:, :, self.low : self.high]
        self.low = self.high - 2 * self.dilation
        return ready

    def _back(self) -> None:
        """Move what is needed to the front, in steps that do not overlap."""
        shift, length = self.low, self.high - self.low
        for start in range(0, length, shift):
            n = min(shift, length - start)
            self.held[:, :, start : start + n] = self.held[:, :, start + shift : start + shift + n]
        self.low, self.high = 0, length


def _overwrite(kept: Tensor, planes: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Write planes over a layer; mean and 1 / standard deviation [B, C, 1, 1, 1] of each channel."""
    at, total, squares = 0, torch.zeros(()), torch.zeros(())
    for piece in planes:
        kept[:, :, at : at + piece.shape[2]] = piece
        at += piece.shape[2]
        total = total + piece.sum((2, 3, 4), keepdim=True, dtype=torch.float64)
        squares = squares + piece.square().sum((2, 3, 4), keepdim=True, dtype=torch.float64)
    mean = total / kept[0, 0].numel()
    variance = squares / kept[0, 0].numel() - mean.square()
    return mean.to(kept.dtype), (variance.clamp(min=0) + EPS).rsqrt().to(kept.dtype)


def _normalised(block: Block, kept: Tensor, mean: Tensor, scale: Tensor) -> Iterator[Tensor]:
    for piece in _cut(kept):
        yield block.activate((piece - mean) * scale)
