"""nnU-Net's networks, built from the plans it writes: the plain U-Net and the one with a residual encoder.

Sources: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486); Isensee et al., nnU-Net Revisited, MICCAI 2024
(arXiv 2404.09556) for the residual encoder, whose blocks are ResNet-D (He et al., arXiv 1812.01187). The keys are the
official ones of `dynamic_network_architectures`, which is not needed (it brings timm). Official files hold most
tensors twice or four times (`conv` and `all_modules.0`, `encoder` and `decoder.encoder`): the modules here are shared
in the same way, so that the file loads strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segwise.errors import WeightsError
from segwise.nets.contract import ClosedNet

_PLAIN, _RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
_CONVS: Mapping[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOLS: Mapping[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_NORMS: Mapping[str, type[nn.Module]] = {
    norm.__name__: norm for norm in (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d)
}
_NONLINS: Mapping[str, type[nn.Module]] = {n.__name__: n for n in (nn.LeakyReLU, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU)}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What plans say of a network.

    Attributes:
        residual: the encoder has residual blocks; else plain convolutions.
        dims: 2 or 3.
        features: channels of each stage.
        kernels, strides: of each stage, one number an axis.
        n_encoder: convolutions (plain) or blocks (residual) of each stage.
        n_decoder: convolutions of each decoder stage.
        bias: of convolutions.
        norm, norm_kwargs: torch's name of the normalisation and its arguments; "" for none.
        nonlin, nonlin_kwargs: torch's name of the nonlinearity and its arguments.
        dropout: probability of channel dropout, which training alone applies; None for no such layer.
    """

    residual: bool
    dims: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_encoder: tuple[int, ...]
    n_decoder: tuple[int, ...]
    bias: bool = True
    norm: str = "InstanceNorm3d"
    norm_kwargs: Mapping[str, Any]
    nonlin: str = "LeakyReLU"
    nonlin_kwargs: Mapping[str, Any]
    dropout: float | None = None


class ConvNorm(nn.Module):
    """Convolution, normalisation, nonlinearity; each under its own name and again in `all_modules`."""

    def __init__(
        self,
        plan: Architecture,
        n_in: int,
        n_out: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        bias: bool = True,
        nonlin: bool = True,
        dropout: bool = True,
    ) -> None:
        super().__init__()
        padding = tuple((k - 1) // 2 for k in kernel)
        self.conv = _CONVS[plan.dims](n_in, n_out, tuple(kernel), tuple(stride), padding, bias=bias and plan.bias)
        layers: list[nn.Module] = [self.conv]
        if plan.dropout is not None and dropout:
            layers.append((nn.Dropout2d if plan.dims == 2 else nn.Dropout3d)(plan.dropout))
        if plan.norm:
            self.norm = _NORMS[plan.norm](n_out, **plan.norm_kwargs)
            layers.append(self.norm)
        if nonlin:
            layers.append(_NONLINS[plan.nonlin](**plan.nonlin_kwargs))
        self.all_modules = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, ...] -> [B, n_out, ...]."""
        return torch.as_tensor(self.all_modules(x))


class Convs(nn.Module):
    """`n` convolutions, the first with a stride."""

    def __init__(
        self, plan: Architecture, n: int, n_in: int, n_out: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * plan.dims
        layers = (
            ConvNorm(plan, n_out if i else n_in, n_out, kernel=kernel, stride=one if i else stride) for i in range(n)
        )
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, ...] -> [B, n_out, ...]."""
        return torch.as_tensor(self.convs(x))


class Block(nn.Module):
    """A basic block of ResNet-D: the skip is an average pool (with a stride), then 1x1 convolution (other width)."""

    def __init__(
        self, plan: Architecture, n_in: int, n_out: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * plan.dims
        self.conv1 = ConvNorm(plan, n_in, n_out, kernel=kernel, stride=stride)
        self.conv2 = ConvNorm(plan, n_out, n_out, kernel=kernel, stride=one, nonlin=False, dropout=False)
        self.nonlin2 = _NONLINS[plan.nonlin](**plan.nonlin_kwargs)
        ways: list[nn.Module] = []
        if any(s != 1 for s in stride):
            ways.append(_POOLS[plan.dims](tuple(stride), tuple(stride)))
        if n_in != n_out:
            ways.append(ConvNorm(plan, n_in, n_out, kernel=one, stride=one, nonlin=False, dropout=False, bias=False))
        self.skip: nn.Module = nn.Sequential(*ways) if ways else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, ...] -> [B, n_out, ...]."""
        return torch.as_tensor(self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x)))


class Blocks(nn.Module):
    """`n` residual blocks, the first with a stride."""

    def __init__(
        self, plan: Architecture, n: int, n_in: int, n_out: int, *, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * plan.dims
        layers = (
            Block(plan, n_out if i else n_in, n_out, kernel=kernel, stride=one if i else stride) for i in range(n)
        )
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, ...] -> [B, n_out, ...]."""
        return torch.as_tensor(self.blocks(x))


class Encoder(nn.Module):
    """Stages of falling resolution; returns what each of them gives."""

    def __init__(self, plan: Architecture, n_in: int) -> None:
        super().__init__()
        first = plan.features[0]
        if plan.residual:
            self.stem = Convs(plan, 1, n_in, first, kernel=plan.kernels[0], stride=(1,) * plan.dims)
            n_in = first
        stages: list[nn.Module] = []
        for n, n_out, kernel, stride in zip(plan.n_encoder, plan.features, plan.kernels, plan.strides, strict=True):
            if plan.residual:
                stages.append(Blocks(plan, n, n_in, n_out, kernel=kernel, stride=stride))
            else:
                stages.append(nn.Sequential(Convs(plan, n, n_in, n_out, kernel=kernel, stride=stride)))
            n_in = n_out
        self.stages = nn.Sequential(*stages)
        self.residual = plan.residual

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, ...] -> features of each stage, the finest first."""
        x = self.stem(x) if self.residual else x
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """Stages of rising resolution with a head each; holds the encoder a second time, as the official one does."""

    def __init__(self, plan: Architecture, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        stages, transposed, heads = [], [], []
        for s in range(1, len(plan.features)):
            below, skip = plan.features[-s], plan.features[-s - 1]
            stride, one = plan.strides[-s], (1,) * plan.dims
            transposed.append(_TRANSPOSED[plan.dims](below, skip, stride, stride, bias=plan.bias))
            kernel = plan.kernels[-s - 1]
            stages.append(Convs(plan, plan.n_decoder[s - 1], 2 * skip, skip, kernel=kernel, stride=one))
            heads.append(_CONVS[plan.dims](skip, classes, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor], *, deep: bool) -> list[Tensor]:
        """Features of the encoder -> logits, the finest first; only these without `deep`."""
        x, found = skips[-1], []
        for s, stage in enumerate(self.stages):
            x = stage(torch.cat((self.transpconvs[s](x), skips[-s - 2]), dim=1))
            if deep or s == len(self.stages) - 1:
                found.append(self.seg_layers[s](x))
        return found[::-1]


class UNet(ClosedNet):
    """A U-Net of nnU-Net.

    Args:
        plan: what plans.json says.
        channels: of the input.
        classes: heads: labels with background, or regions.
    """

    def __init__(self, plan: Architecture, *, channels: int, classes: int) -> None:
        super().__init__()
        self.plan, self.channels, self.classes = plan, channels, classes
        self.encoder = Encoder(plan, channels)
        self.decoder = Decoder(plan, self.encoder, classes)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits [B, K, D, H, W], the finest first; a 2D net takes D = 1.

        While training, the coarser ones (deep supervision) follow.
        """
        flat = self.plan.dims == 2
        found = self.decoder(self.encoder(image[:, :, 0] if flat else image), deep=self.training)
        return [logits[:, :, None] if flat else logits for logits in found]

    def features(self, image: Tensor) -> list[Tensor]:
        """Logits of every head, the finest first, whatever the mode."""
        return list(self.decoder(self.encoder(image), deep=True))


class Folds(ClosedNet):
    """The mean of several nets' logits: nnU-Net's ensemble of folds."""

    def __init__(self, nets: Sequence[UNet]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits [B, K, D, H, W]."""
        total: Tensor | None = None
        for net in self.nets:
            logits = net(image)[0]
            total = logits if total is None else total + logits
        if total is None:
            raise ValueError("Folds needs a net")
        return [total / len(self.nets)]


def architecture(configuration: Mapping[str, Any]) -> Architecture:
    """The network of a configuration of plans.json, new or old style (before nnU-Net 2.5).

    Raises:
        WeightsError: an architecture or option that is not known; says which are.
    """
    if "architecture" not in configuration:
        return _old(configuration)
    named = str(configuration["architecture"]["network_class_name"]).rpartition(".")[2]
    if named not in (_PLAIN, _RESIDUAL):
        raise WeightsError(f"the plans ask for the network {named}; known are {_PLAIN} and {_RESIDUAL}")
    given = dict(configuration["architecture"]["arch_kwargs"])
    residual = named == _RESIDUAL
    strange = [key for key in ("block", "bottleneck_channels", "stem_channels", "squeeze_excitation") if given.get(key)]
    if strange or given.get("nonlin_first"):
        raise WeightsError(f"the plans set {', '.join(strange) or 'nonlin_first'}, which is not supported")
    dims = int(str(given["conv_op"])[-2])
    n = int(given["n_stages"])
    return Architecture(
        residual=residual,
        dims=dims,
        features=_numbers(given["features_per_stage"], n),
        kernels=_axes(given["kernel_sizes"], n, dims),
        strides=_axes(given["strides"], n, dims),
        n_encoder=_numbers(given["n_blocks_per_stage" if residual else "n_conv_per_stage"], n),
        n_decoder=_numbers(given["n_conv_per_stage_decoder"], n - 1),
        bias=bool(given.get("conv_bias", False)),
        norm=_known(given.get("norm_op"), _NORMS),
        norm_kwargs=given.get("norm_op_kwargs") or {},
        nonlin=_known(given.get("nonlin"), _NONLINS),
        nonlin_kwargs=given.get("nonlin_kwargs") or {},
        dropout=float((given.get("dropout_op_kwargs") or {}).get("p", 0.5)) if given.get("dropout_op") else None,
    )


def _old(given: Mapping[str, Any]) -> Architecture:
    """Plans before 2.5 name the numbers and leave the rest to the code."""
    named = str(given.get("UNet_class_name", ""))
    if named not in (_PLAIN, _RESIDUAL):
        raise WeightsError(f'the plans ask for the network "{named}"; known are {_PLAIN} and {_RESIDUAL}')
    kernels, strides = given["conv_kernel_sizes"], given["pool_op_kernel_sizes"]
    n, dims = len(kernels), len(kernels[0])
    widest, first = int(given["unet_max_num_features"]), int(given["UNet_base_num_features"])
    return Architecture(
        residual=named == _RESIDUAL,
        dims=dims,
        features=tuple(min(widest, first * 2**i) for i in range(n)),
        kernels=_axes(kernels, n, dims),
        strides=_axes(strides, n, dims),
        n_encoder=_numbers(given["n_conv_per_stage_encoder"], n),
        n_decoder=_numbers(given["n_conv_per_stage_decoder"], n - 1),
        norm=f"InstanceNorm{dims}d",
        norm_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={"inplace": True},
    )


def unet(configuration: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> UNet:
    """The net of a configuration; its input channels and heads come from the shapes of the weights.

    Args:
        configuration: of plans.json, inheritance resolved.
        shapes: key -> shape of `network_weights`.

    Raises:
        WeightsError: unknown architecture, or the weights have no first or last layer.
    """
    plan = architecture(configuration)
    first = "encoder.stem.convs.0.conv.weight" if plan.residual else "encoder.stages.0.0.convs.0.conv.weight"
    last = f"decoder.seg_layers.{len(plan.features) - 2}.weight"
    if first not in shapes or last not in shapes:
        raise WeightsError(
            f"these weights are not the plans' network: {first if first not in shapes else last} is missing"
        )
    return UNet(plan, channels=int(shapes[first][1]), classes=int(shapes[last][0]))


def unshared(keys: Sequence[str]) -> Iterator[str]:
    """The keys of a checkpoint without those that repeat another one."""
    for key in keys:
        if not key.startswith("decoder.encoder.") and ".all_modules." not in key:
            yield key


def _numbers(given: Any, n: int) -> tuple[int, ...]:
    return (int(given),) * n if isinstance(given, int) else tuple(int(v) for v in given)


def _axes(given: Any, n: int, dims: int) -> tuple[tuple[int, ...], ...]:
    every = [given] * n if isinstance(given, int) else list(given)
    return tuple((int(v),) * dims if isinstance(v, int) else tuple(int(x) for x in v) for v in every)


def _known(given: Any, among: Mapping[str, type[nn.Module]]) -> str:
    if given is None:
        return ""
    name = str(given).rpartition(".")[2]
    if name not in among:
        raise WeightsError(f"the plans ask for {given}; known are {', '.join(among)}")
    return name
