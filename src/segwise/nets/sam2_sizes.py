"""SAM 2 with the sizes of a checkpoint, the published sizes, and the small one that Segwise trains itself.

Source: the released configurations of facebookresearch/sam2 (configs/sam2.1); Ravi et al., arXiv 2408.00714.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from segwise.errors import WeightsError
from segwise.nets.hiera import FpnNeck, Hiera, Sam2Encoder
from segwise.nets.sam import Mlp, PromptEncoder, TwoWayTransformer
from segwise.nets.sam2 import Candidates, Rules, Sam2Net
from segwise.nets.sam2_decoder import Sam2MaskDecoder
from segwise.nets.sam2_memory import MemoryAttention, MemoryEncoder, MemoryLayer, RotaryAttention
from segwise.nets.sam_sizes import NANO_HEADS, PLACED, start_near, start_signed, straight
from segwise.nets.sam_vit import Shapes, count

SIDE, STRIDE = 1024, 16
MARK = "image_encoder.trunk.pos_embed_window"  # a key by which these checkpoints are known
DECODER_HEADS = 8
WIDTH, KEYS = 256, 64  # of all maps, and of a memory, in every published size
_TRUNK = "image_encoder.trunk."


class Size(NamedTuple):
    """Of a trunk: width and heads of the first stage, blocks a stage, global blocks, windows, learned background."""

    width: int
    heads: int
    stages: tuple[int, ...]
    whole: tuple[int, ...]
    windows: tuple[int, ...] = (8, 4, 14, 7)
    background: int = 7


SIZES = {
    "tiny": Size(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": Size(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base-plus": Size(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "large": Size(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
}
LOCAL = 6.0  # gain with which a slice begins to recall what lay at the same place
SWIFT = 8  # fastest rotations that tell it where that is
NANO: dict[str, Any] = {  # the configuration of the small net that Segwise trains itself, as the original writes one
    "image_size": 192,
    "image_encoder": {
        "scalp": 1,
        "trunk": {"num_heads": 1, "global_att_blocks": [3], "window_spec": [8, 4, 12, 6]},
        "neck": {"fpn_top_down_levels": [2, 3], "fpn_interp_model": "nearest"},
    },
    "decoder_num_heads": NANO_HEADS,
    "binarize_mask_from_pts_for_mem_enc": True,
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "multimask_min_pt_num": 1,
    "multimask_max_pt_num": 1,
    "iou_prediction_use_sigmoid": True,
    "use_multimask_token_for_obj_ptr": True,
    "max_obj_ptrs_in_encoder": 6,
    "add_tpos_enc_to_obj_ptrs": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "fixed_no_obj_ptr": True,
}
_FIXED = {  # settings of the original that all published models share, and that this net has no other way for
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "use_obj_ptrs_in_encoder": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "use_mlp_for_obj_ptr_proj": True,
    "soft_no_obj_ptr": False,
    "non_overlap_masks_for_mem_enc": False,
    "memory_temporal_stride_for_eval": 1,
}
_FIXED_ATTENTION = {
    "pos_enc_at_input": True,
    "pos_enc_at_attn": False,
    "pos_enc_at_cross_attn_keys": True,
    "pos_enc_at_cross_attn_queries": False,
    "activation": "relu",
}


def sam2_of(
    shapes: Shapes,
    config: Mapping[str, Any],
    *,
    side: int = SIDE,
    candidates: Candidates = "best",
    video: bool = False,
) -> Sam2Net:
    """SAM 2, untrained, with the sizes that a checkpoint's keys have.

    Args:
        shapes: key -> shape.
        config: the model's configuration as its authors write it; what it says holds. Without it, what no shape tells
            is that of the published size with the same shapes.
        side: of the net's square input, where the configuration says nothing.
        candidates, video: as `Sam2Net`.

    Raises:
        WeightsError: keys are missing; or the trunk is of no published size and the configuration does not tell it.
    """
    config = config_of(config)
    side = int(config.get("image_size", side))
    try:
        encoder = _encoder(shapes, config.get("image_encoder", {}))
        heads = int(config.get("decoder_num_heads", DECODER_HEADS))
        sigmoid = rules_of(shapes, config).quality_sigmoid
        prompts, decoder = _prompting(shapes, side, quality_sigmoid=sigmoid, heads=heads)
        width = shapes["no_mem_embed"][-1]
        memories, _, _, keys = shapes["maskmem_tpos_enc"]
        fused = count(shapes, "memory_encoder.fuser.layers.")
        attention = _attention(shapes, config.get("memory_attention", {}))
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"these weights are not SAM 2's: {error} is missing or of another shape") from error
    return Sam2Net(
        encoder,
        prompts,
        decoder,
        attention,
        MemoryEncoder(width, keys, depth=fused),
        keys=keys,
        n_memories=memories,
        timed="obj_ptr_tpos_proj.weight" in shapes,
        shadow="no_obj_embed_spatial" in shapes,
        rules=rules_of(shapes, config),
        candidates=candidates,
        video=video,
    )


def published(name: str, side: int = SIDE, *, candidates: Candidates = "best", video: bool = False) -> Sam2Net:
    """An untrained SAM 2.1 of a published size."""
    size = SIZES[name]
    widths = [size.width * 2**i for i in range(len(size.stages))][::-1]
    trunk = _trunk(size, pools=3)
    layers = [MemoryLayer(RotaryAttention(WIDTH), RotaryAttention(WIDTH, keys=KEYS), hidden=2048) for _ in range(4)]
    return Sam2Net(
        Sam2Encoder(trunk, FpnNeck(out=WIDTH, widths=widths, top_down=(2, 3))),
        PromptEncoder(width=WIDTH, grid=(side // STRIDE, side // STRIDE), size=(side, side)),
        Sam2MaskDecoder(width=WIDTH, masks=4, transformer=_transformer(WIDTH, depth=2, hidden=2048)),
        MemoryAttention(layers),
        MemoryEncoder(WIDTH, KEYS),
        keys=KEYS,
        candidates=candidates,
        video=video,
    )


def nano(*, candidates: Candidates = "best", video: bool = False) -> Sam2Net:
    """An untrained SAM 2.1 small enough for a test: images of 192 x 192, masks of 48 x 48, 1.6 M parameters."""
    side, width, keys = NANO["image_size"], 96, 48
    size = Size(24, 1, (1, 1, 2, 1), (3,), (8, 4, 12, 6))
    trunk = _trunk(size, pools=3)
    prompts = PromptEncoder(width=width, grid=(side // STRIDE, side // STRIDE), size=(side, side))
    straight(prompts)
    sines, cosines = prompts.pe_layer.grid(size.background, size.background).chunk(2)
    with torch.no_grad():
        trunk.pos_embed.add_(3 * PLACED * torch.cat([sines[: size.width // 2], cosines[: size.width // 2]]))
    layers = [
        MemoryLayer(RotaryAttention(width), RotaryAttention(width, keys=keys), hidden=2 * width) for _ in range(2)
    ]
    transformer = _transformer(width, depth=2, hidden=2 * width, heads=NANO_HEADS)
    start_near(transformer)
    start_signed(transformer)
    for layer in layers:
        start_local(layer.cross_attn_image)
    return Sam2Net(
        Sam2Encoder(trunk, FpnNeck(out=width, widths=[192, 96, 48, 24], top_down=(2, 3))),
        prompts,
        Sam2MaskDecoder(width=width, masks=4, transformer=transformer, head_hidden=width),
        MemoryAttention(layers),
        MemoryEncoder(width, keys, depth=1),
        keys=keys,
        n_memories=4,
        rules=Rules(least_points=1, most_pointers=6, stability_threshold=0.0),
        candidates=candidates,
        video=video,
    )


@torch.no_grad()
def start_local(attention: RotaryAttention) -> None:
    """Let a place of the slice begin by recalling what was at the same place on the others.

    Equal biases of queries and keys, turned by their places, meet best where the places are the same; from biases
    drawn at random a small net takes thousands of steps to learn that.
    """
    n = attention.q_proj.out_features // attention.heads
    quarter = n // 4  # pairs of one axis; the fastest come first
    for linear in (attention.q_proj, attention.k_proj):
        linear.weight *= 0.3
        linear.bias.zero_()
        own = linear.bias.view(attention.heads, n // 2, 2)
        for start in (0, quarter):
            own[:, start : start + min(SWIFT, quarter), 0] = LOCAL


def config_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The original's configuration in what a file holds (also under "model"); {} if it is something else."""
    inner = found.get("model", found)
    return inner if isinstance(inner, Mapping) and isinstance(inner.get("image_encoder"), Mapping) else {}


def rules_of(shapes: Shapes, config: Mapping[str, Any]) -> Rules:
    """The rules of a configuration; without one, of SAM 2.1, or of SAM 2.0 where its newer tensors are missing.

    The fallback to the best of three and the memory of the mask itself are what the original's predictors switch on.

    Raises:
        WeightsError: the configuration has a setting of no published model.
    """
    config = config_of(config)
    attention = config.get("memory_attention", {})
    for fixed, told in ((_FIXED, config), (_FIXED_ATTENTION, {**attention, **attention.get("layer", {})})):
        other = [key for key, value in fixed.items() if key in told and told[key] != value]
        if other:
            name = other[0]
            raise WeightsError(
                f"config.json says {name} = {told[name]}, as no published SAM 2 does; expected {fixed[name]}"
            )
    extra = config.get("sam_mask_decoder_extra_args") or {}
    timed = "obj_ptr_tpos_proj.weight" in shapes
    plain = replace(Rules(), timed_pointers=timed, signed_pointers=timed)
    if not config:
        return plain
    dynamic = bool(extra.get("dynamic_multimask_via_stability", False))
    return Rules(
        binary=bool(config.get("binarize_mask_from_pts_for_mem_enc", False)),
        mask_scale=float(config.get("sigmoid_scale_for_mem_enc", 1.0)),
        mask_bias=float(config.get("sigmoid_bias_for_mem_enc", 0.0)),
        least_points=int(config.get("multimask_min_pt_num", 1)),
        most_points=int(config.get("multimask_max_pt_num", 1)),
        stability_delta=float(extra.get("dynamic_multimask_stability_delta", 0.05)),
        stability_threshold=float(extra.get("dynamic_multimask_stability_thresh", 0.98)) if dynamic else 0.0,
        quality_sigmoid=bool(config.get("iou_prediction_use_sigmoid", False)),
        pointer_candidates=bool(config.get("use_multimask_token_for_obj_ptr", False)),
        most_pointers=int(config.get("max_obj_ptrs_in_encoder", 16)),
        timed_pointers=bool(config.get("add_tpos_enc_to_obj_ptrs", True)),
        signed_pointers=bool(config.get("use_signed_tpos_enc_to_obj_ptrs", False)),
        past_pointers=bool(config.get("only_obj_ptrs_in_the_past_for_eval", False)),
        fixed_absent=bool(config.get("fixed_no_obj_ptr", False)),
        most_prompted=int(config.get("max_cond_frames_in_attn", -1)),
    )


def _encoder(shapes: Shapes, config: Mapping[str, Any]) -> Sam2Encoder:
    neck = config.get("neck", {})
    blocks = count(shapes, f"{_TRUNK}blocks.")
    width = shapes[f"{_TRUNK}pos_embed"][1]
    starts = [i for i in range(blocks) if f"{_TRUNK}blocks.{i}.proj.weight" in shapes]  # where the width changes
    stages = tuple(b - a for a, b in zip([0, *starts], [*starts, blocks], strict=True))
    size = _told(stages, width, shapes, config.get("trunk", {}))
    widths = [width * 2**i for i in range(len(stages))][::-1]
    out = shapes["image_encoder.neck.convs.0.conv.weight"][0]
    return Sam2Encoder(
        _trunk(size, pools=int(config.get("trunk", {}).get("q_pool", 3))),
        FpnNeck(
            out=out,
            widths=widths,
            top_down=neck.get("fpn_top_down_levels", (2, 3)),
            mode=neck.get("fpn_interp_model", "nearest"),
        ),
        scalp=int(config.get("scalp", 1)),
    )


def _told(stages: tuple[int, ...], width: int, shapes: Shapes, config: Mapping[str, Any]) -> Size:
    """Size of a trunk: from its shapes, its configuration, else the published one with these shapes."""
    windows = shapes[f"{_TRUNK}pos_embed_window"][-1]
    background = shapes[f"{_TRUNK}pos_embed"][-1]
    like = next((size for size in SIZES.values() if (size.width, size.stages) == (width, stages)), None)
    if config:
        # what a configuration leaves out has the defaults of the original's class
        like = Size(width, 1, stages, (12, 16, 20), background=background)
    if like is None:
        raise WeightsError(
            f"an image encoder of width {width} with {'-'.join(map(str, stages))} blocks is of no published SAM 2; "
            "expected the model's configuration in config.json beside the checkpoint"
        )
    return Size(
        width,
        int(config.get("num_heads", like.heads)),
        stages,
        tuple(config.get("global_att_blocks", like.whole)),
        (windows, *tuple(config.get("window_spec", like.windows))[1:]),
        background,
    )


def _trunk(size: Size, *, pools: int) -> Hiera:
    return Hiera(
        width=size.width,
        heads=size.heads,
        stages=size.stages,
        windows=size.windows,
        whole=size.whole,
        background=(size.background, size.background),
        pools=pools,
    )


def _transformer(width: int, *, depth: int, hidden: int, heads: int = DECODER_HEADS) -> TwoWayTransformer:
    """SAM's, with the names that SAM 2 gives to its MLP."""
    transformer = TwoWayTransformer(depth=depth, width=width, heads=heads, hidden=hidden)
    for layer in transformer.layers:
        layer.mlp = Mlp(width, hidden, width, depth=2)
    return transformer


def _prompting(
    shapes: Shapes, side: int, *, quality_sigmoid: bool, heads: int
) -> tuple[PromptEncoder, Sam2MaskDecoder]:
    masks, width = shapes["sam_mask_decoder.mask_tokens.weight"]
    grid = (side // STRIDE, side // STRIDE)
    mask_width = shapes["sam_prompt_encoder.mask_downscaling.3.weight"][0]
    prompts = PromptEncoder(width=width, grid=grid, size=(side, side), mask_width=mask_width)
    depth = count(shapes, "sam_mask_decoder.transformer.layers.")
    hidden = shapes["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"][0]
    decoder = Sam2MaskDecoder(
        width=width,
        masks=masks,
        transformer=_transformer(width, depth=depth, hidden=hidden, heads=heads),
        head_depth=count(shapes, "sam_mask_decoder.iou_prediction_head.layers."),
        head_hidden=shapes["sam_mask_decoder.iou_prediction_head.layers.0.weight"][0],
        quality_sigmoid=quality_sigmoid,
    )
    return prompts, decoder


def _attention(shapes: Shapes, config: Mapping[str, Any]) -> MemoryAttention:
    layers = []
    layer = config.get("layer", {})
    for i in range(count(shapes, "memory_attention.layers.")):
        prefix = f"memory_attention.layers.{i}."
        own, other = (
            _rotary(shapes, f"{prefix}{name}.", layer.get(told, {}))
            for name, told in (("self_attn", "self_attention"), ("cross_attn_image", "cross_attention"))
        )
        layers.append(MemoryLayer(own, other, hidden=shapes[f"{prefix}linear1.weight"][0]))
    return MemoryAttention(layers)


def _rotary(shapes: Shapes, prefix: str, config: Mapping[str, Any]) -> RotaryAttention:
    inner, width = shapes[f"{prefix}q_proj.weight"]
    return RotaryAttention(
        width,
        keys=shapes[f"{prefix}k_proj.weight"][1],
        heads=int(config.get("num_heads", 1)),
        inner=inner,
        theta=float(config.get("rope_theta", 10000.0)),
    )
