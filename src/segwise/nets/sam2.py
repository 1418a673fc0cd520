"""SAM 2: a promptable net of single images that also remembers slices and recalls them on others.

Source: Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv 2408.00714, and the predictors of its authors
(facebookresearch/sam2). Parameters carry the names of the published checkpoints of SAM 2.1 and, without
`no_obj_embed_spatial` and `obj_ptr_tpos_proj`, of SAM 2.0. The original keeps a state machine on an object; here
`encode`, `recall`, `decode` and `remember` are functions, and what is remembered is handed from one to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import Decoded, Marks, MemoryNet, Tree
from segwise.nets.hiera import Sam2Encoder
from segwise.nets.sam import Mlp, PromptEncoder
from segwise.nets.sam2_decoder import Sam2MaskDecoder
from segwise.nets.sam2_memory import MemoryAttention, MemoryEncoder, sine_places, sine_times

ABSENT = -1024.0  # logit everywhere on a slice where the object is said to be absent
GIVEN = 10.0  # logit of a mask that was given
CLAMP = 32.0  # of logits that a later round takes back

Candidates = Literal["best", "one", "three"]


@dataclass(frozen=True)
class Rules:
    """What no tensor of a checkpoint tells; defaults are those of the published SAM 2.1.

    Attributes:
        binary: the memory of a prompted slice is made of the mask, not of its probability.
        mask_scale, mask_bias: of mask or probability before it is encoded.
        least_points, most_points: with so many points (a box counts two) three candidates are made.
        stability_delta, stability_threshold: the single mask falls back to the best of three if its area at these
            logits changes more than that; a threshold of 0 never does.
        quality_sigmoid: predicted IoU goes through a sigmoid.
        pointer_candidates: the pointer of the best of three is its own; else always the single mask's.
        most_pointers: how many are recalled at most, counted with the slice itself.
        timed_pointers: pointers know how far away their slice is.
        signed_pointers: they know in which direction, too.
        past_pointers: pointers of prompted slices still to come are not recalled.
        fixed_absent: an absent object's pointer is replaced, not added to.
        most_prompted: prompted slices recalled at most, the nearest; -1 all.
    """

    binary: bool = True
    mask_scale: float = 20.0
    mask_bias: float = -10.0
    least_points: int = 0
    most_points: int = 1
    stability_delta: float = 0.05
    stability_threshold: float = 0.98
    quality_sigmoid: bool = True
    pointer_candidates: bool = True
    most_pointers: int = 16
    timed_pointers: bool = True
    signed_pointers: bool = True
    past_pointers: bool = True
    fixed_absent: bool = True
    most_prompted: int = -1


class Sam2Net(MemoryNet):
    """SAM 2.

    Args:
        image_encoder: [B, 3, H, W] -> maps at a quarter, an eighth and a sixteenth of it.
        sam_prompt_encoder, sam_mask_decoder: its tokens and heads.
        memory_attention, memory_encoder: how it recalls and remembers.
        keys: width of a memory.
        n_memories: slices it can tell apart in time, with the slice itself.
        timed: it has a projection of a pointer's time (SAM 2.1).
        shadow: a memory of a slice without the object is marked as such (SAM 2.1).
        rules: what no tensor tells.
        candidates: "best" as its authors advise: three candidates for a lone point (or none), of which the one with the
            greatest predicted IoU is handed out, else the one for clear prompts; "one" always that; "three" always
            the three.
        video: answer as the video predictor does: -1024 everywhere where the object is said to be absent.
    """

    def __init__(
        self,
        image_encoder: Sam2Encoder,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: Sam2MaskDecoder,
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        *,
        keys: int,
        n_memories: int = 7,
        timed: bool = True,
        shadow: bool = True,
        rules: Rules | None = None,
        candidates: Candidates = "best",
        video: bool = False,
    ) -> None:
        super().__init__()
        width = sam_mask_decoder.iou_token.embedding_dim
        self.image_encoder = image_encoder
        self.sam_prompt_encoder, self.sam_mask_decoder = sam_prompt_encoder, sam_mask_decoder
        self.memory_attention, self.memory_encoder = memory_attention, memory_encoder
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(n_memories, 1, 1, keys))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, width))  # in every file, used by no published model
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, keys)) if shadow else None
        self.mask_downsample = nn.Conv2d(1, 1, 4, 4)
        self.obj_ptr_proj = Mlp(width, width, width, depth=3)
        self.obj_ptr_tpos_proj: nn.Module = nn.Linear(width, keys) if timed else nn.Identity()
        self.keys, self.timed = keys, timed
        self.rules = rules or Rules()
        self.candidates: Candidates = candidates
        self.video = video

    @property
    def encoding(self) -> nn.Module:
        """The image encoder, and the two convolutions of the decoder that every slice passes once."""
        return nn.ModuleList([self.image_encoder, self.sam_mask_decoder.conv_s0, self.sam_mask_decoder.conv_s1])

    @property
    def answering(self) -> nn.Module:
        """What a slice by itself is answered with: not the memory, which no single slice trains."""
        return nn.ModuleList([self.sam_prompt_encoder, self.sam_mask_decoder])

    @property
    def reach(self) -> int:
        """As far as pointers are recalled."""
        return max(len(self.maskmem_tpos_enc), self.rules.most_pointers) - 1

    def encode(self, image: Tensor) -> Tree:
        """[B, 3, 1, H, W] -> maps of a sixteenth, an eighth and a quarter of the image.

        {"map": [B, width, h, w], "eighth": [B, width / 4, 2h, 2w], "quarter": [B, width / 8, 4h, 4w]}.
        """
        quarter, eighth, top = self.image_encoder(image[:, :, 0])
        return {
            "map": top.contiguous(),
            "eighth": self.sam_mask_decoder.conv_s1(eighth).contiguous(),
            "quarter": self.sam_mask_decoder.conv_s0(quarter).contiguous(),
        }

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Features of B slices, recalled or not, and Q queries -> Q answers.

        `logits` [Q, M, 1, 4h, 4w] are the decoder's own, a quarter of the view; `low_res` are the same within ±32, as a
        later round takes them back; `presence` [Q] is the logit of "the object is on this slice"; `pointer` [Q, width].
        A query without any mark asks what the slice shows by what was recalled.
        """
        taken = {key: value[marks.image] for key, value in features.items()}
        if marks.masks is not None:
            return self._given(taken, marks.masks)
        n = len(marks.image)
        count = (0 if marks.signs is None else marks.signs.shape[1]) + (0 if marks.boxes is None else 2)
        ambiguous = self.rules.least_points <= count <= self.rules.most_points
        three = self.candidates == "three" or (self.candidates == "best" and ambiguous)
        low_res = None if marks.low_res is None else marks.low_res.view(n, 1, *marks.low_res.shape[-2:])
        answered = self.answer(taken, self._sparse(marks), self.sam_prompt_encoder.dense(low_res, n), three=three)
        return answered if self.candidates == "three" else _best(answered)

    def answer(self, features: Tree, sparse: Tensor, dense: Tensor, *, three: bool) -> Decoded:
        """What the heads make of Q slices and the tokens of Q prompts; fields as `decode`.

        Args:
            features: as `encode` or `recall`, first axis Q.
            sparse: [Q, T, width].
            dense: [Q, width, h, w].
            three: the three candidates of an ambiguous prompt; else the one of a clear one, or, where that is not
                stable, the best of three.
        """
        seen = features["recalled"] if "recalled" in features else self.unconditioned(features["map"])
        places = self.sam_prompt_encoder.places()
        logits, quality, tokens, score = self.sam_mask_decoder(
            seen, features["eighth"], features["quarter"], places, sparse, dense
        )
        own = tokens[:, 1:] if three and self.rules.pointer_candidates else tokens[:, :1]
        logits, quality = (logits[:, 1:], quality[:, 1:]) if three else self._stable(logits, quality)
        if self.video:
            logits = torch.where(score[..., None, None] > 0, logits, ABSENT)
        best = quality.argmax(dim=1) if own.shape[1] > 1 else torch.zeros_like(quality[:, 0], dtype=torch.int64)
        pointer = self._pointer(self.obj_ptr_proj(own[torch.arange(len(own), device=own.device), best]), score > 0)
        low_res = logits.clamp(-CLAMP, CLAMP)
        return Decoded(logits[:, :, None], quality, presence=score[:, 0], low_res=low_res, pointer=pointer)

    def unconditioned(self, image: Tensor) -> Tensor:
        """[B, width, h, w]: a map as the decoder sees it where nothing is remembered."""
        return image + self.no_mem_embed.view(1, -1, 1, 1)

    def remember(self, features: Tree, decoded: Decoded, *, prompted: bool) -> Tree:
        """{"map" bfloat16 [Q, keys, h, w], "pointer" [Q, width]} of Q answers of one candidate about Q slices (or 1).

        The map is kept in bfloat16, as the original keeps it.
        """
        shown = decoded.presence > 0 if decoded.presence is not None else None
        logits = decoded.logits[:, :, 0]
        image = features["map"].expand(len(logits), -1, -1, -1)
        kept = self.memory(image, logits, shown=shown, binary=prompted and self.rules.binary)
        return {"map": kept.to(torch.bfloat16), "pointer": decoded.pointer}

    def memory(self, image: Tensor, logits: Tensor, *, shown: Tensor | None = None, binary: bool = False) -> Tensor:
        """A memory of slices.

        Args:
            image: [Q, width, h, w].
            logits: [Q, 1, 4h, 4w], or of another size, of the answer.
            shown: bool [Q], whether the object is there; None: it is.
            binary: of the mask, else of its probability.

        Returns:
            float32 [Q, keys, h, w].
        """
        size = self.sam_prompt_encoder.size
        full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        mask = (full > 0).to(full.dtype) if binary else full.sigmoid()
        kept: Tensor = self.memory_encoder(image, mask * self.rules.mask_scale + self.rules.mask_bias)
        if self.no_obj_embed_spatial is not None and shown is not None:
            kept = kept + (~shown).to(kept.dtype).view(-1, 1, 1, 1) * self.no_obj_embed_spatial[..., None, None]
        return kept

    def recall(
        self, features: Tree, memories: list[Tree], offsets: list[int], *, prompted: list[bool], n_slices: int
    ) -> Tree:
        """Features with "recalled" [Q, width, h, w]: one slice conditioned on memories of others, for Q targets.

        All prompted slices are recalled; of the others those up to n_memories - 1 (and their pointers up to
        most_pointers - 1) slices back. Without any memory the features as they are.
        """
        if not memories:
            return features
        h, w = features["map"].shape[2:]
        n = len(memories[0]["pointer"])
        place = sine_places(self.keys, h, w, device=features["map"].device).flatten(2).transpose(1, 2)  # [1, h*w, keys]
        tokens, places = [], []
        near = self._nearest(offsets, prompted)
        for i, back in self._maps(offsets, near):
            tokens.append(memories[i]["map"].float().flatten(2).transpose(1, 2))  # [Q, h*w, keys]
            places.append((place + self.maskmem_tpos_enc[back - 1][0]).expand(n, -1, -1))  # prompted: the last code
        chosen = self._pointers(offsets, near, n_slices)
        if chosen:
            own = torch.stack([memories[i]["pointer"] for i in chosen], dim=1)  # [Q, P, width]
            parts = own.shape[2] // self.keys  # a pointer is cut into tokens of a memory's width
            tokens.append(own.reshape(n, -1, self.keys))
            times = self._times([offsets[i] for i in chosen], n_slices)
            places.append(times.repeat_interleave(parts, 1).expand(n, -1, -1))
        seen = self.memory_attention(
            features["map"].expand(n, -1, -1, -1),
            torch.cat(tokens, dim=1),
            torch.cat(places, dim=1),
            pointers=tokens[-1].shape[1] if chosen else 0,
        )
        return {**{key: value.expand(n, -1, -1, -1) for key, value in features.items()}, "recalled": seen}

    def _nearest(self, offsets: list[int], prompted: list[bool]) -> set[int]:
        """Which prompted slices count as such: the nearest before, the nearest after, then the nearest of all."""
        found = [i for i, is_prompted in enumerate(prompted) if is_prompted]
        most = self.rules.most_prompted
        if most < 0 or len(found) <= most:
            return set(found)
        before = [i for i in found if offsets[i] > 0]
        after = [i for i in found if offsets[i] <= 0]
        chosen = [min(before, key=lambda i: offsets[i])] if before else []
        chosen += [max(after, key=lambda i: offsets[i])] if after else []
        rest = sorted((i for i in found if i not in chosen), key=lambda i: abs(offsets[i]))
        return {*chosen, *rest[: most - len(chosen)]}

    def _maps(self, offsets: list[int], near: set[int]) -> list[tuple[int, int]]:
        """(memory, how many slices back; 0 for prompted ones) of the maps that are recalled."""
        last = len(self.maskmem_tpos_enc)
        others = [(i, offset) for i, offset in enumerate(offsets) if i not in near and 0 < offset < last]
        return [(i, 0) for i in sorted(near)] + sorted(others, key=lambda one: -one[1])

    def _pointers(self, offsets: list[int], near: set[int], n_slices: int) -> list[int]:
        """The memories whose pointers are recalled."""
        most = min(n_slices, self.rules.most_pointers)
        first = [i for i in sorted(near) if offsets[i] >= 0 or not self.rules.past_pointers]
        others = [i for i, offset in enumerate(offsets) if i not in near and 0 < offset < most]
        return first + sorted(others, key=lambda i: offsets[i])

    def _times(self, offsets: list[int], n_slices: int) -> Tensor:
        """[1, P, keys]: codes of how far back slices lie."""
        like = self.no_obj_ptr
        if not self.rules.timed_pointers:
            return like.new_zeros(1, len(offsets), self.keys)
        back = offsets if self.rules.signed_pointers else [abs(offset) for offset in offsets]
        at = torch.tensor(back, device=like.device) / max(1, min(n_slices, self.rules.most_pointers) - 1)
        return self.obj_ptr_tpos_proj(sine_times(at, like.shape[1] if self.timed else self.keys))[None]  # type: ignore[no-any-return]

    def _pointer(self, pointer: Tensor, shown: Tensor) -> Tensor:
        """[Q, width] of a token, or of an absent object; shown: bool [Q, 1]."""
        there = shown.to(pointer.dtype)
        kept = there * pointer if self.rules.fixed_absent else pointer
        return kept + (1 - there) * self.no_obj_ptr

    def _given(self, features: Tree, masks: Tensor) -> Decoded:
        """Answers that are the masks given, [Q, 1, H, W] of 0 and 1 at the size of the view."""
        n, size = len(masks), (masks.shape[-2] // 4, masks.shape[-1] // 4)
        given = masks.to(features["map"].dtype)
        full = given * 2 * GIVEN - GIVEN
        logits = F.interpolate(full, size, mode="bilinear", align_corners=False, antialias=True)
        dense = self.sam_prompt_encoder.dense(self.mask_downsample(given), n)
        nothing = self._sparse(Marks(torch.arange(n, device=given.device)))
        answered = self.answer({**features, "recalled": features["map"]}, nothing, dense, three=False)
        shown = (given.flatten(1) > 0).any(dim=1, keepdim=True)
        assert answered.pointer is not None
        return Decoded(
            logits[:, :, None],
            logits.new_ones(n, 1),
            presence=(2 * GIVEN * shown - GIVEN)[:, 0],
            low_res=logits,
            pointer=self._pointer(answered.pointer, shown),
        )

    def _sparse(self, marks: Marks) -> Tensor:
        """[Q, T, width]: corners of a box, points, a padding token; two of these where nothing is said."""
        n, encoder = len(marks.image), self.sam_prompt_encoder
        like = encoder.no_mask_embed.weight
        boxes = None if marks.boxes is None else marks.boxes[..., 1:].flip(-1)  # (d, h, w) -> (x, y)
        if marks.points is not None and marks.signs is not None:
            points, signs = marks.points[..., 1:].flip(-1), marks.signs
        else:
            silent = 1 if boxes is None else 0
            points, signs = like.new_zeros(n, silent, 2), like.new_full((n, silent), -1)
        corners = encoder.sparse(None, None, boxes, n)
        return torch.cat([corners, encoder.sparse(points, signs, None, n)], dim=1)

    def _stable(self, logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """The first candidate where its area hardly depends on the threshold, else the best of the others."""
        rules = self.rules
        if rules.stability_threshold <= 0:
            return logits[:, :1], quality[:, :1]
        own = logits[:, 0].flatten(1)
        inner = (own > rules.stability_delta).sum(dim=1)
        outer = (own > -rules.stability_delta).sum(dim=1)
        stable = torch.where(outer > 0, inner / outer, 1.0) >= rules.stability_threshold
        chosen = torch.where(stable, 0, 1 + quality[:, 1:].argmax(dim=1))
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, chosen][:, None], quality[rows, chosen][:, None]


def _best(answered: Decoded) -> Decoded:
    """The candidate with the greatest quality."""
    if answered.logits.shape[1] == 1 or answered.quality is None or answered.low_res is None:
        return answered
    best = answered.quality.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    return replace(
        answered,
        logits=answered.logits[rows, best][:, None],
        quality=answered.quality[rows, best][:, None],
        low_res=answered.low_res[rows, best][:, None],
    )
