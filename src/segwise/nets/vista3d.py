"""VISTA3D's network: a SegResNet with two decoders, a head for class vectors and a point head after SAM's.

Source: He et al., VISTA3D, CVPR 2025 (arXiv 2406.05285). The modules are MONAI's; the official checkpoint differs from
them in four names and holds two parts that its own forward never reads (`official`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.contract import Decoded, Marks, PromptNet, Tree

UNUSED = ("weight_mapper.", "point_head.output_add_hypernetworks_mlps.")  # in the files; the forward never reads them
LAST_SUPPORTED = 132
NOTHING = -9999.0  # the logit where a query has no point
PUBLISHED = {"embed": 48, "blocks": (1, 2, 2, 4, 4), "classes": 512, "channels": 1}


class VistaNet(PromptNet):
    """VISTA3D on one window.

    `encode` and `decode` are the point branch, `automatic` the class branch. A query's class (`Marks.tokens`, int64
    [Q]) tells the point head whether the target is one it was trained on: above `last_supported` it is not. Signs are
    0 and 1 for negative and positive points, 2 and 3 for those of special classes, -1 for padding.

    Args:
        embed: channels of the first stage and of the heads.
        blocks: residual blocks of each stage.
        classes: rows of the table of class embeddings.
        point_classes: rows of the point head's own table, which nothing reads; `classes` by default.
        channels: of the image.
        mlp: the class head maps its embeddings.
        last_supported: the last class that was trained.
    """

    def __init__(
        self,
        *,
        embed: int,
        blocks: Sequence[int],
        classes: int,
        point_classes: int | None = None,
        channels: int = 1,
        mlp: bool = True,
        last_supported: int = LAST_SUPPORTED,
    ) -> None:
        super().__init__()
        from monai.networks.nets import SegResNetDS2
        from monai.networks.nets.vista3d import ClassMappingClassify, PointMappingSAM

        self.image_encoder = SegResNetDS2(
            in_channels=channels,
            blocks_down=tuple(blocks),
            norm="instance",
            out_channels=embed,
            init_filters=embed,
            dsdepth=1,
        )
        self.class_head = ClassMappingClassify(n_classes=classes, feature_size=embed, use_mlp=mlp)
        self.point_head = PointMappingSAM(
            feature_size=embed, n_classes=point_classes or classes, last_supported=last_supported
        )
        self.last_supported = last_supported
        self.multiple = 2 ** (len(blocks) - 1)

    @property
    def encoding(self) -> nn.Module:
        """What the stored features of `encode` depend on."""
        return nn.ModuleList([self.image_encoder, self.point_head.feat_downsample])

    def encode(self, image: Tensor) -> Tree:
        """[B, C, D, H, W] -> features of the point branch at half the size, [B, F, D/2, H/2, W/2]."""
        found, _ = self.image_encoder(image, with_point=True, with_label=False)
        return torch.as_tensor(self.point_head.feat_downsample(found))

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of windows and points of Q queries -> logits [Q, 1, D, H, W]."""
        if marks.points is None or marks.signs is None:
            raise ValueError("the point head needs points")
        found = []
        for q, image in enumerate(marks.image):
            low, signs = features[image][None], marks.signs[q : q + 1]
            if bool((signs == -1).all()):
                found.append(low.new_full((1, 1, *(2 * n for n in low.shape[2:])), NOTHING))
                continue
            new = marks.tokens is not None and int(marks.tokens[q]) > self.last_supported
            found.append(self.point(low, marks.points[q : q + 1], signs, new=new))
        return Decoded(torch.cat(found))

    def automatic(self, image: Tensor, classes: Tensor) -> Tensor:
        """[1, C, D, H, W] and int64 [K] -> logits [K, D, H, W] of these classes."""
        _, found = self.image_encoder(image, with_point=False, with_label=True)
        mapped = self.class_head.image_post_mapping(found)[0]
        return torch.stack([self._class(mapped, one) for one in classes])

    def _class(self, mapped: Tensor, number: Tensor) -> Tensor:
        """[F, D, H, W] -> [D, H, W]: one class by itself, so that its bits do not depend on the company."""
        head = self.class_head
        embedded = head.class_embeddings(number)[None, None]  # [1, 1, F]
        embedded = head.mlp(embedded) if head.use_mlp else embedded
        return torch.as_tensor((embedded[0, 0] @ mapped.flatten(1)).reshape(mapped.shape[1:]))

    def point(self, low: Tensor, points: Tensor, signs: Tensor, *, new: bool) -> Tensor:
        """The point head behind its first layers.

        Args:
            low: [1, F, d, h, w] from `encode`.
            points: [1, N, 3] in voxels of the window.
            signs: int64 [1, N].
            new: the target is none that was trained.

        Returns:
            [1, 1, 2d, 2h, 2w].
        """
        head = self.point_head
        embedded = self._embedded(points, signs, [2 * n for n in low.shape[2:]])
        kind = (head.zeroshot_embed if new else head.supported_embed).weight[None]
        tokens = torch.cat((head.mask_tokens.weight[None], embedded, kind), dim=1)
        states, image = head.transformer(low, head.pe_layer(low.shape[2:])[None], tokens)
        image = head.output_upscaling(image.transpose(1, 2).reshape(low.shape))
        weights = head.output_hypernetworks_mlps(states[:, :1])
        return torch.as_tensor((weights @ image.flatten(2)).reshape(1, 1, *image.shape[2:]))

    def _embedded(self, points: Tensor, signs: Tensor, size: Sequence[int]) -> Tensor:
        """[1, N, 3] and [1, N] -> [1, N, F]."""
        head = self.point_head
        found = head.pe_layer.forward_with_coords(points + 0.5, size)
        negative, positive = (head.point_embeddings[i].weight for i in (0, 1))
        special = head.special_class_embed.weight
        rows = {0: negative, 1: positive, 2: negative + special, 3: positive + special}
        sums = [(signs == sign)[..., None] * row for sign, row in rows.items()]
        padding = (signs == -1)[..., None]
        return torch.as_tensor(torch.where(padding, head.not_a_point_embed.weight, found) + sum(sums))


def combined(automatic: Tensor, clicked: Tensor, points: Tensor, signs: Tensor, *, radius: int | None = None) -> Tensor:
    """Class and point logits of a window joined by gaussian balls around the points.

    Args:
        automatic, clicked: [D, H, W].
        points: [N, 3].
        signs: [N]; -1 is padding.
        radius: of the balls; None for a fifth of the window's shortest side.
    """
    radius = min(clicked.shape) // 5 if radius is None else radius
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in clicked.shape), indexing="ij")
    share = torch.zeros_like(clicked)
    for point in points[signs > -1]:
        square = sum((axis - at) ** 2 for axis, at in zip(axes, point, strict=True))
        share = share + torch.exp(-torch.as_tensor(square) / (2 * radius**2))
    share = share.clamp(max=1)
    return automatic * (1 - share) + clicked * share


def official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of an official file under the names of `VistaNet`; the parts that nothing reads are left out."""
    found = {key: value for key, value in tensors.items() if not key.startswith(UNUSED)}
    return {re.sub(r"\.mlp\.lin([12])\.", r".mlp.linear\1.", key): value for key, value in found.items()}


def net_of(shapes: Mapping[str, Sequence[int]], *, last_supported: int = LAST_SUPPORTED) -> VistaNet:
    """An untrained net of the sizes that the shapes of an official file tell.

    Raises:
        KeyError: there is no such tensor: it is not a file of VISTA3D.
    """
    first = shapes["image_encoder.encoder.conv_init.weight"]
    blocks: dict[int, set[int]] = {}
    for key in shapes:
        if match := re.match(r"image_encoder\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return VistaNet(
        embed=int(first[0]),
        blocks=[len(blocks[stage]) for stage in sorted(blocks)],
        classes=int(shapes["class_head.class_embeddings.weight"][0]),
        point_classes=int(shapes["point_head.class_embeddings.weight"][0]),
        channels=int(first[1]),
        mlp="class_head.mlp.0.weight" in shapes,
        last_supported=last_supported,
    )
