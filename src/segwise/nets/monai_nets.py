"""MONAI's UNETR, Swin UNETR and SegResNet as closed-label nets; the library is imported when one is made.

Sources: Hatamizadeh et al., UNETR, arXiv 2103.10504; Hatamizadeh et al., Swin UNETR, arXiv 2201.01266; Myronenko, arXiv
1810.11654 (SegResNet, without its autoencoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.planned import Maskable, PlannedNet, fitting


class Wrapped(PlannedNet):
    """A net of MONAI that answers one tensor of logits.

    Args:
        net: [B, C, D, H, W] -> [B, K, D, H, W].
        multiple: of the sides.
        patch: the only size it can see, or None.
    """

    def __init__(self, net: nn.Module, *, multiple: int, patch: Sequence[int] | None = None) -> None:
        super().__init__()
        self.net, self.multiple = net, multiple
        self.patch = None if patch is None else tuple(patch)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> the logits, alone."""
        return [self.net(image)]


class WrappedUnetr(Wrapped):
    """UNETR, whose vision transformer can be trained without labels."""

    def maskable(self) -> Maskable:
        """The transformer; a word is a cube of 16 voxels before its place is added."""
        net: Any = self.net

        def deep(image: Tensor) -> Tensor:
            return torch.as_tensor(net.proj_feat(net.vit(image)[0]))

        embedding, width = net.vit.patch_embedding.patch_embeddings, net.hidden_size
        return Maskable(("net.vit.",), embedding, width, 16, 16, deep, width, 16)


class WrappedSwin(Wrapped):
    """Swin UNETR, whose transformer can be trained without labels."""

    def maskable(self) -> Maskable:
        """The transformer; a word is a cube of 2 voxels, so a hidden cube holds many of them."""
        net: Any = self.net

        def deep(image: Tensor) -> Tensor:
            return torch.as_tensor(net.swinViT(image, net.normalize)[-1])

        size = net.swinViT.embed_dim
        return Maskable(("net.swinViT.",), net.swinViT.patch_embed, size, 2, 16, deep, 16 * size, 32)


def unetr(
    *, channels: int, classes: int, patch: Sequence[int], features: int, width: int, mlp: int, heads: int
) -> Wrapped:
    """UNETR: twelve layers of attention over cubes of 16 voxels; places are learned for one patch."""
    from monai.networks.nets import UNETR

    fitting(patch, 16)
    net = UNETR(
        in_channels=channels,
        out_channels=classes,
        img_size=tuple(patch),
        feature_size=features,
        hidden_size=width,
        mlp_dim=mlp,
        num_heads=heads,
    )
    for name in [name for name, _ in net.named_modules() if name.endswith(".norm_cross_attn")]:
        net.set_submodule(name, nn.Identity())  # MONAI makes it for decoders and never calls it here
    return WrappedUnetr(net, multiple=16, patch=patch)


def swin_unetr(*, channels: int, classes: int, features: int, depths: Sequence[int], heads: Sequence[int]) -> Wrapped:
    """Swin UNETR: four stages of attention in shifted windows of 7 voxels."""
    from monai.networks.nets import SwinUNETR

    net = SwinUNETR(
        in_channels=channels,
        out_channels=classes,
        feature_size=features,
        depths=tuple(depths),
        num_heads=tuple(heads),
    )
    return WrappedSwin(net, multiple=32)


def segresnet(*, channels: int, classes: int, features: int, down: Sequence[int], up: Sequence[int]) -> Wrapped:
    """SegResNet: residual blocks with group normalisation of 8 channels, linear upsampling."""
    from monai.networks.nets import SegResNet

    net = SegResNet(
        in_channels=channels,
        out_channels=classes,
        init_filters=features,
        blocks_down=tuple(down),
        blocks_up=tuple(up),
    )
    return Wrapped(net, multiple=2 ** (len(down) - 1))
