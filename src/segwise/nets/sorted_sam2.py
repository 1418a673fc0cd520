"""SAM 2 as Medical SAM 2 uses it: its memories have no time and no pointers, and can be compared with each other.

Source: Zhu et al., Medical SAM 2: Segment Medical Images as Video via Segment Anything Model 2, arXiv 2408.00874, and
the 2D loop of its authors (SuperMedIntel/Medical-SAM2, `func_2d/function.py`). Which memories are kept and recalled is
not the net's business but the lift's (`lifts.sorted_memory`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, SortableNet, Tree
from segwise.nets.sam2 import Sam2Net
from segwise.nets.sam2_memory import sine_places


class SortedSam2(SortableNet):
    """SAM 2 whose memories a bank can sort.

    Args:
        sam2: the net; of the kind that answers one candidate, and not as the video predictor does.
        tuned: its weights learned Medical SAM 2's way: with an empty bank the map stays as it is, a slice without marks
            has no token at all, and a memory is made of the map after it recalled. Else, for weights of SAM 2, these
            three are SAM 2's own: its embedding of "no memory", padding tokens, the map before.
        aligned: `likeness` compares like places of two maps. The original lists one of them by place and then channel,
            the other by channel and then place, and so compares numbers that do not belong together.
    """

    def __init__(self, sam2: Sam2Net, *, tuned: bool = True, aligned: bool = False) -> None:
        super().__init__()
        self.sam2, self.tuned, self.aligned = sam2, tuned, aligned

    @property
    def encoding(self) -> nn.Module:
        """As SAM 2's."""
        return self.sam2.encoding

    @property
    def answering(self) -> nn.Module:
        """As SAM 2's."""
        return self.sam2.answering

    @property
    def reach(self) -> int:
        """As SAM 2's; a bank that sorts itself does not ask."""
        return self.sam2.reach

    def encode(self, image: Tensor) -> Tree:
        """As `Sam2Net.encode`."""
        return self.sam2.encode(image)

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """As `Sam2Net.decode`, but that a query without any mark has no token (`tuned`)."""
        if not self.tuned:
            return self.sam2.decode(features, marks)
        seen = {**features, "recalled": features.get("recalled", features["map"])}
        if marks.points is not None or marks.boxes is not None or marks.masks is not None:
            return self.sam2.decode(seen, marks)
        n, prompts = len(marks.image), self.sam2.sam_prompt_encoder
        taken = {key: value[marks.image] for key, value in seen.items()}
        low_res = None if marks.low_res is None else marks.low_res.view(n, 1, *marks.low_res.shape[-2:])
        silent = seen["map"].new_zeros(n, 0, seen["map"].shape[1])
        return self.sam2.answer(taken, silent, prompts.dense(low_res, n), three=False)

    def remember(self, features: Tree, decoded: Decoded, *, prompted: bool) -> Tree:
        """{"map" bfloat16 [Q, keys, h, w], "image" float32 [Q, width * h * w]} of Q answers of one candidate.

        `features` are those that were answered, after recalling. "image" is their map, by which slices are compared.
        """
        logits = decoded.logits[:, :, 0]
        recalled = features.get("recalled", features["map"]).expand(len(logits), -1, -1, -1)
        raw = features["map"].expand(len(logits), -1, -1, -1)
        shown = None if self.tuned or decoded.presence is None else decoded.presence > 0
        kept = self.sam2.memory(recalled if self.tuned else raw, logits, shown=shown)
        return {"map": kept.to(torch.bfloat16), "image": recalled.flatten(1)}

    def recall(
        self, features: Tree, memories: list[Tree], offsets: list[int], *, prompted: list[bool], n_slices: int
    ) -> Tree:
        """Features with "recalled" [Q, width, h, w], conditioned on all memories given; as they are without any.

        A memory's place in time is not told: offsets, prompted and n_slices change nothing.
        """
        if not memories:
            return features
        h, w = features["map"].shape[2:]
        n = len(memories[0]["map"])
        place = sine_places(self.sam2.keys, h, w, device=features["map"].device)
        place = place.to(torch.bfloat16).float().flatten(2).transpose(1, 2)  # [1, h*w, keys], kept as memories are
        tokens = torch.cat([memory["map"].float().flatten(2).transpose(1, 2) for memory in memories], dim=1)
        places = place.repeat(n, len(memories), 1)
        seen = self.sam2.memory_attention(features["map"].expand(n, -1, -1, -1), tokens, places)
        return {**{key: value.expand(n, -1, -1, -1) for key, value in features.items()}, "recalled": seen}

    def likeness(self, features: Tree, memories: list[Tree]) -> Tensor:
        """float32 [N]: cosine of a slice's own map with the maps that N slices had after recalling."""
        own = features["map"][:1].flatten(2)  # [1, width, h*w]
        own = F.normalize((own if self.aligned else own.transpose(1, 2)).flatten(1), dim=1)
        return F.normalize(torch.cat([memory["image"].float() for memory in memories]), dim=1) @ own[0]

    def closeness(self, memories: list[Tree]) -> Tensor:
        """float32 [N, N]: cosines of what is remembered of N slices."""
        rows = F.normalize(torch.cat([memory["map"].float().flatten(1) for memory in memories]), dim=1)
        return rows @ rows.T
