"""SAM 2's mask decoder: SAM's, with maps of three resolutions and a word on whether the object is there.

Source: Ravi et al., SAM 2, arXiv 2408.00714, appendix D. Parameters carry the names of the published checkpoints
(`sam_mask_decoder.*`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segwise.nets.sam import Mlp
from segwise.nets.tiny_vit import ChannelNorm


class Sam2MaskDecoder(nn.Module):
    """Tokens and maps of three resolutions -> candidates, their predicted IoU, and whether the object is there.

    Args:
        width: of a token.
        masks: how many candidates, the first of them for unambiguous prompts.
        transformer: a `TwoWayTransformer`.
        head_depth, head_hidden: of the IoU head.
        quality_sigmoid: of the IoU head.
    """

    def __init__(
        self,
        *,
        width: int,
        masks: int,
        transformer: nn.Module,
        head_depth: int = 3,
        head_hidden: int = 256,
        quality_sigmoid: bool = True,
    ) -> None:
        super().__init__()
        self.quality_sigmoid = quality_sigmoid
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(width, width // 8, 1)
        self.conv_s1 = nn.Conv2d(width, width // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, depth=3) for _ in range(masks))
        self.iou_prediction_head = Mlp(width, head_hidden, masks, depth=head_depth)
        self.pred_obj_score_head = Mlp(width, width, 1, depth=3)

    def forward(
        self, image: Tensor, eighth: Tensor, quarter: Tensor, places: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All candidates.

        Args:
            image: [Q, width, h, w], a query's own map.
            eighth, quarter: [Q, width / 4, 2h, 2w] and [Q, width / 8, 4h, 4w], after `conv_s1` and `conv_s0`.
            places: [1, width, h, w].
            sparse: [Q, T, width].
            dense: [Q, width, h, w].

        Returns:
            (logits [Q, masks, 4h, 4w], IoU [Q, masks], the masks' tokens [Q, masks, width], presence logit [Q, 1]).
        """
        q, _, h, w = image.shape
        own = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(q, -1, -1), sparse], dim=1)
        seen = (image + dense).flatten(2).transpose(1, 2).contiguous()  # [Q, h*w, width]
        tokens, seen = self.transformer(seen, places.flatten(2).transpose(1, 2).contiguous(), tokens)
        widen, norm, act, widen_again, act_again = self.output_upscaling
        upscaled = act(norm(widen(seen.transpose(1, 2).reshape(q, -1, h, w)) + eighth))
        upscaled = act_again(widen_again(upscaled) + quarter)
        masks = tokens[:, 2 : 2 + len(self.output_hypernetworks_mlps)]
        weights = torch.stack([mlp(masks[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        logits = (weights @ upscaled.flatten(2)).view(q, len(weights[0]), *upscaled.shape[2:])
        quality = self.iou_prediction_head(tokens[:, 1])
        quality = quality.sigmoid() if self.quality_sigmoid else quality
        return logits, quality, masks, self.pred_obj_score_head(tokens[:, 0])
