"""PCNet's network: a backbone with one channel a category, mixed by what images and prompts say of the categories.

Source: Chen et al., PCNet: Prior Category Network for CT Universal Segmentation Model, IEEE TMI 2024. With X the
backbone's channels, E the prompt embeddings (one row a category):

    row c of W = MLP([X_c pooled to 8x8x8, E_c])        Y = W X        Z = (E E^T) Y        logits = A Z + B X + b

all along the channels. These are products of matrices with X, so `decode` joins them, M = A (E E^T) W + B, and computes
only the rows that are asked for. The original pools over all images of a batch; here each window stands for itself,
which is the same where the batch holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, PromptNet, Tree
from segwise.nets.swin_unetr import SwinFeatures, SwinSize, found_at, sizes

POOLED = 8  # side of the cube that a channel is pooled to


class PCNet(PromptNet):
    """The network on one window.

    Args:
        size: of the backbone; its `classes` are the categories.
        text: numbers of one prompt embedding.
        inner: width of the map that makes W.
        pooled: side of the cube that a channel is pooled to.
    """

    def __init__(self, size: SwinSize, *, text: int = 512, inner: int = 256, pooled: int = POOLED) -> None:
        super().__init__()
        n = size.classes
        self.pooled = pooled
        self.backbone = SwinFeatures(size)
        self.weigh_in, self.weigh_out = nn.Linear(pooled**3 + text, inner), nn.Linear(inner, n)
        self.fuse = nn.Conv3d(2 * n, n, 1)
        self.embedding: Tensor
        self.graph: Tensor
        self.register_buffer("embedding", torch.zeros(n, text))
        self.register_buffer("graph", torch.zeros(n, n))

    def encode(self, image: Tensor) -> Tree:
        """[B, C, D, H, W] -> the backbone's channels X [B, N, D, H, W] and M [B, N, N] of each window."""
        x = self.backbone.get_submodule("out")(self.backbone(image)[1])
        own, beside = torch.tensor_split(self.fuse.weight[:, :, 0, 0, 0], 2, dim=1)
        # Z_c = sum over k of Y_k graph[k, c]
        return {"x": x, "m": own @ self.graph.T @ self.weighed(x) + beside}

    def weighed(self, x: Tensor) -> Tensor:
        """X [B, N, D, H, W] -> W [B, N, N], which makes Y = W X."""
        pooled = F.adaptive_avg_pool3d(x, self.pooled).flatten(2)
        both = torch.cat((pooled, self.embedding.expand(len(x), -1, -1)), dim=2)
        return torch.as_tensor(self.weigh_out(F.leaky_relu(self.weigh_in(both))))

    def words(self, tokens: Tree) -> Tensor:
        """{"class": int64 [Q]} -> the categories, int64 [Q]."""
        return torch.as_tensor(tokens["class"])

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of B windows and Q categories -> logits [Q, 1, D, H, W]."""
        answers = []
        bias = self.fuse.bias
        for image, category in zip(marks.image.tolist(), marks.tokens.tolist(), strict=True):
            x = features["x"][image]
            row = features["m"][image, category] @ x.flatten(1)
            answers.append(row.view(x.shape[1:]) + (0 if bias is None else bias[category]))
        return Decoded(torch.stack(answers)[:, None])


def official(tensors: Mapping[str, Any], *, embedding: Tensor | None = None) -> dict[str, Any]:
    """The tensors of a file under the names of `PCNet`; what fits nowhere keeps its name.

    Only MONAI's names of the backbone are known; the others are recognised by their shapes.

    Args:
        tensors: of the file.
        embedding: [N, E] where it lies in another file.
    """
    at = found_at(list(tensors))
    if at is None:
        raise KeyError("swinViT.patch_embed.proj.weight")
    found: dict[str, Any] = {}
    own = ("swinViT.", "encoder", "decoder", "out.")
    for key, value in tensors.items():
        short = key.removeprefix(at)
        if key.startswith(at) and short.startswith(own):
            found[f"backbone.{short}"] = value
    n = int(found["backbone.out.conv.conv.weight"].shape[0])
    head = {key: value for key, value in tensors.items() if f"backbone.{key.removeprefix(at)}" not in found}
    for key, value in head.items():
        parent, _, kind = key.rpartition(".")
        role = _role(head.get(f"{parent}.weight", value), n) if f"{parent}.bias" in head else ""
        plain = _table(tuple(value.shape), n) if not role else ""
        found[f"{role}.{kind}" if role else plain or key] = value
    if embedding is not None:
        found["embedding"] = embedding.float()
    if "embedding" in found:
        found.setdefault("graph", found["embedding"] @ found["embedding"].T)
    return found


def _role(weight: Tensor, n: int) -> str:
    """What a layer with a bias is for."""
    if weight.ndim == 5:
        return "fuse"
    return ("weigh_out" if weight.shape[0] == n else "weigh_in") if weight.ndim == 2 else ""


def _table(shape: tuple[int, ...], n: int) -> str:
    """What a tensor without a bias is: the graph [N, N] or the prompt embeddings [N, E]."""
    if len(shape) != 2 or shape[0] != n:
        return ""
    return "graph" if shape[1] == n else "embedding"


def net_of(tensors: Mapping[str, Any]) -> PCNet:
    """An untrained net of the sizes of `official` tensors.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a channel is not pooled to a cube.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    text = shapes["embedding"][1]
    inner, both = shapes["weigh_in.weight"]
    pooled = round(max(both - text, 0) ** (1 / 3))
    if pooled**3 != both - text:
        raise ValueError(
            f"the first linear map takes {both} numbers, of which {text} are of the prompt; "
            f"the other {both - text} are no cube"
        )
    return PCNet(sizes(shapes, "backbone."), text=text, inner=inner, pooled=pooled)
