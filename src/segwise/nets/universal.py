"""The CLIP-Driven Universal Model's network: a backbone and a head whose last layers are made from words.

Source: Liu et al., CLIP-Driven Universal Model for organ segmentation and tumor detection, ICCV 2023 (arXiv
2301.00785), section 3: a text embedding and the image's global feature generate the parameters of three 1x1x1
convolutions for each class. Written from the paper's equations; the original code (CC BY-NC-ND) was not read. Of a
public file only the names of the backbone and of the text embeddings are known: the tensors of the head are recognised
by their shapes (`official`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, PromptNet, Tree
from segwise.nets.swin_unetr import SwinFeatures, SwinSize, found_at, sizes

INNER = 8  # channels of the generated layers
GENERATED = 2 * INNER * INNER + INNER + 2 * INNER + 1  # 153: weights of three layers, then their biases
GROUPS = 16
TABLE = "organ_embedding"
UNUSED = ("backbone.out.",)


class UniversalNet(PromptNet):
    """The network on one window; a query's `tokens` are what `words` made of its class.

    Args:
        size: of the backbone.
        classes: rows of the table of text embeddings.
        text: numbers of one text embedding.
        joint: numbers of the image's global feature, and of a projected text.
    """

    def __init__(self, size: SwinSize, *, classes: int = 32, text: int = 512, joint: int = 256) -> None:
        super().__init__()
        deep, full = 16 * size.width, size.width
        self.backbone = SwinFeatures(size)
        self.project = nn.Linear(text, joint)
        self.pool_norm, self.pool = nn.GroupNorm(math.gcd(GROUPS, deep), deep), nn.Conv3d(deep, joint, 1)
        self.generate = nn.Conv3d(2 * joint, GENERATED, 1)
        self.reduce_norm, self.reduce = nn.GroupNorm(math.gcd(GROUPS, full), full), nn.Conv3d(full, INNER, 1)
        self.organ_embedding: Tensor
        self.register_buffer(TABLE, torch.zeros(classes, text))

    def encode(self, image: Tensor) -> Tree:
        """[B, C, D, H, W] -> the global feature a [B, A] and what the generated layers see, h [B, 8, D, H, W]."""
        deep, full = self.backbone(image)
        pooled = F.relu(self.pool_norm(deep)).mean(dim=(2, 3, 4), keepdim=True)
        return {"a": self.pool(pooled)[:, :, 0, 0, 0], "h": self.reduce(F.relu(self.reduce_norm(full)))}

    def words(self, tokens: Tree) -> Tensor:
        """{"class": int64 [Q]} -> projected text embeddings t [Q, A], one by one: no bit depends on the company."""
        return torch.stack([F.relu(self.project(row)) for row in self.organ_embedding[tokens["class"]]])

    def generated(self, a: Tensor, t: Tensor) -> Tensor:
        """Global feature [A] and text [A] -> parameters [153] of one class."""
        both = torch.cat((a, t))[None, :, None, None, None]
        return torch.as_tensor(self.generate(both).flatten())

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of B windows and Q texts -> logits [Q, 1, D, H, W]."""
        answers = []
        for image, t in zip(marks.image.tolist(), marks.tokens, strict=True):
            answers.append(dynamic(features["h"][image], self.generated(features["a"][image], t)))
        return Decoded(torch.stack(answers)[:, None])


def dynamic(h: Tensor, theta: Tensor) -> Tensor:
    """Three generated layers, 8-8-8-1 with ReLU between.

    Args:
        h: [8, D, H, W].
        theta: [153]: weights [8, 8], [8, 8], [1, 8] (out, in), then biases [8], [8], [1].

    Returns:
        Logits [D, H, W].
    """
    n = INNER
    first, second, last, *biases = torch.split(theta, [n * n, n * n, n, n, n, 1])
    x = h.flatten(1)
    x = F.relu(first.view(n, n) @ x + biases[0][:, None])
    x = F.relu(second.view(n, n) @ x + biases[1][:, None])
    return torch.as_tensor((last.view(1, n) @ x + biases[2]).view(h.shape[1:]))


def official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a public file under the names of `UniversalNet`.

    A first level of names that all share is dropped; swinViT, encoder… and decoder… go to the backbone; a tensor of the
    head gets its name from its shape. What fits nowhere keeps its name.
    """
    first = {key.split(".", 1)[0] for key in tensors}
    if len(first) == 1:
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}
    at = found_at(list(tensors)) or ""
    found, head = {}, {}
    for key, value in tensors.items():
        own = key.removeprefix(at)
        if re.match(r"(swinViT|encoder|decoder|out)\b|(encoder|decoder)\d", own):
            found[f"backbone.{own}"] = value
        else:
            head[key] = value
    width = found["backbone.encoder1.layer.conv1.conv.weight"].shape[0] if found else 0
    named = {key.rpartition(".")[0]: _role(tuple(value.shape), width) for key, value in head.items() if value.ndim}
    weights = {key: role for key, role in named.items() if f"{key}.weight" in head}
    for key, value in head.items():
        parent, _, kind = key.rpartition(".")
        role = _role(tuple(head[f"{parent}.weight"].shape), width) if parent in weights else ""
        found[f"{role}.{kind}" if role else key.rpartition(".")[2] if kind == TABLE else key] = value
    return found


def _role(shape: tuple[int, ...], width: int) -> str:
    """What a weight of the head is for: its convolutions, its linear map and its norms differ in shape."""
    if len(shape) == 5:
        return {GENERATED: "generate", INNER: "reduce"}.get(shape[0], "pool")
    if len(shape) == 1:
        return {width: "reduce_norm", 16 * width: "pool_norm"}.get(shape[0], "")
    return "project" if len(shape) == 2 else ""


def net_of(tensors: Mapping[str, Any]) -> UniversalNet:
    """An untrained net of the sizes of `official` tensors.

    Raises:
        KeyError: a tensor is missing.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    classes, text = shapes[TABLE]
    return UniversalNet(
        SwinSize(**{**vars(sizes(shapes, "backbone.")), "classes": 0}),
        classes=classes,
        text=text,
        joint=shapes["project.weight"][0],
    )
