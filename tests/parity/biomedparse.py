"""BiomedParse against the official code: preprocessing, backbone, pixel decoder, words, decoder, match, probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture, Skip
from segwise import weights
from segwise.models import biomedparse
from segwise.models._biomedparse import resized
from segwise.nets import biomedparse as nets

UNUSED = {
    **{f"^{prefix.replace('.', chr(92) + '.')}": reason for prefix, reason in nets.UNUSED.items()},
}


def network(fixture: Fixture) -> nets.BiomedParseNet:
    """The net with the fixture's weights."""
    found = weights.read(fixture.checkpoint)
    net = biomedparse.net_of(found.shapes, found.config["yaml"])
    own = {nets.ours(key): tensor for key, tensor in found.tensors.items()}
    weights.fill(net, own, what="BiomedParse", unused=tuple(nets.UNUSED))
    return net.eval()


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stage of `interactive_infer_image`, by the key of what the official code gave."""
    io, config = fixture.io, fixture.config
    net = network(fixture)
    frame = biomedparse.ParseFrame(
        None,  # type: ignore[arg-type]
        io["in.input_ids"].shape[1],
        size=config["image_size"],
        mean=tuple(config["yaml"]["INPUT"]["PIXEL_MEAN"]),
        std=tuple(config["yaml"]["INPUT"]["PIXEL_STD"]),
    )
    view = torch.from_numpy(frame.normalised(io["in.image"]))[None]
    maps = net.backbone(view[:, :, 0])
    features = net.encode(view)
    ids, mask = torch.from_numpy(io["in.input_ids"]), torch.from_numpy(io["in.attention_mask"])
    said = net.grounded(features, ids, mask)
    together = nets.Marks(
        torch.zeros(len(ids), dtype=torch.int64),
        tokens={"ids": ids, "mask": mask, "company": torch.zeros(len(ids), dtype=torch.int64)},
    )
    chosen = net.decode(features, together).logits[:, 0]  # [P, 1, h, w]
    best = said.scores.sort(dim=0, descending=True).values
    found: dict[str, Any] = {
        "class_text_embeddings": Skip("the tokens of its templates are not stored: it is an input here"),
        "model_input": view[0, :, 0],
        "pred_logits": net.predictor.lang_encoder.logits(
            said.captions, torch.from_numpy(io["out.class_text_embeddings"])
        )[None],
        "pred_masks": said.masks[None],
        "pred_captions": said.captions[None],
        "pred_maskembs": said.mask_embeddings[None],
        "grounding_tokens": said.tokens[:, None],
        "grounding_class": said.classes,
        "aux0_pred_masks": said.first[0][None],
        "aux0_pred_captions": said.first[1][None],
        "mask_features": features["mask"],
        "probability": resized(chosen, io["in.image"].shape[:2])[:, 0].sigmoid(),
        "match_scores": said.scores,
        "matched_query": said.matched,
        "match_gap": best[0] - best[1],
    }
    found |= {f"backbone_res{i}": own for i, own in enumerate(maps, start=2)}
    found |= {f"multi_scale_{i}": own for i, own in enumerate(features["levels"])}
    return {f"out.{key}": np.asarray(x) if isinstance(x, torch.Tensor) else x for key, x in found.items()}
