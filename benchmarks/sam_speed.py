"""SAM through Segwise against SAM through plain transformers, with the same weights on the same slices, on a CPU.

    python benchmarks/sam_speed.py [CASE] [--slices 3] [--pairs 5] [--blocks 12] [--threads 1]

CASE is a folder with image.nii.gz; without it the slices are made up. One pair is one slice by each, by turns (who
begins changes): Segwise from the volume of that slice in HU (window, view, encoder, one box, mask on the slice), and
SamProcessor, SamModel and post_process_masks from the same slice as a picture. Weights are random, shaped as ViT-B
with so many blocks. Prints the ratio (Segwise over transformers) of seconds by the clock and of seconds of the
processor, which others on the machine change less: median and range over pairs, and how far the logits differ.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

from segwise.geometry import Array, Channel, Grid, Volume
from segwise.io import read
from segwise.lifts.slices import Slices
from segwise.models.sam import SamFrame
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.sam_vit import WINDOW, ImageEncoderViT
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

SIDE, WIDTH, HEADS = 1024, 768, 12
NAMES = (  # ours -> transformers'
    (r"^image_encoder\.patch_embed\.proj", "vision_encoder.patch_embed.projection"),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks", "vision_encoder.layers"),
    (r"^image_encoder\.neck\.0", "vision_encoder.neck.conv1"),
    (r"^image_encoder\.neck\.1", "vision_encoder.neck.layer_norm1"),
    (r"^image_encoder\.neck\.2", "vision_encoder.neck.conv2"),
    (r"^image_encoder\.neck\.3", "vision_encoder.neck.layer_norm2"),
    (r"^image_encoder", "vision_encoder"),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings", "prompt_encoder.point_embed"),
    (r"^prompt_encoder\.mask_downscaling\.0", "prompt_encoder.mask_embed.conv1"),
    (r"^prompt_encoder\.mask_downscaling\.1", "prompt_encoder.mask_embed.layer_norm1"),
    (r"^prompt_encoder\.mask_downscaling\.3", "prompt_encoder.mask_embed.conv2"),
    (r"^prompt_encoder\.mask_downscaling\.4", "prompt_encoder.mask_embed.layer_norm2"),
    (r"^prompt_encoder\.mask_downscaling\.6", "prompt_encoder.mask_embed.conv3"),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0", ".upscale_conv1"),
    (r"\.output_upscaling\.1", ".upscale_layer_norm"),
    (r"\.output_upscaling\.3", ".upscale_conv2"),
    (r"((?:mlps\.\d|head))\.layers\.0\.", r"\1.proj_in."),
    (r"((?:mlps\.\d|head))\.layers\.1\.", r"\1.layers.0."),
    (r"((?:mlps\.\d|head))\.layers\.2\.", r"\1.proj_out."),
)


def ours(blocks: int) -> SamNet:
    """Our net with random weights; every third block sees the whole map, as in ViT-B."""
    whole = set(range(2, blocks, 3))
    encoder = ImageEncoderViT(
        size=(SIDE, SIDE),
        patch=16,
        width=WIDTH,
        heads=HEADS,
        hidden=4 * WIDTH,
        windows=[0 if i in whole else WINDOW for i in range(blocks)],
        out=256,
    )
    prompts = PromptEncoder(width=256, grid=(64, 64), size=(SIDE, SIDE))
    net = SamNet(encoder, prompts, MaskDecoder(transformer=TwoWayTransformer()), candidates="best", enlarge=False)
    seed = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            scale = 1.0 if "gaussian" in name else 0.02
            tensor.copy_(torch.randn(tensor.shape, generator=seed) * scale + ("norm" in name and "weight" in name))
    return net.eval()


def theirs(net: SamNet, blocks: int) -> Any:
    """transformers' SAM with the same weights."""
    vision = {
        "hidden_size": WIDTH,
        "num_hidden_layers": blocks,
        "num_attention_heads": HEADS,
        "mlp_dim": 4 * WIDTH,
        "global_attn_indexes": list(range(2, blocks, 3)),
    }
    model = SamModel(SamConfig(vision_config=vision, mask_decoder_config={"layer_norm_eps": 1e-5})).eval()
    tensors = {}
    for own, tensor in net.state_dict().items():
        name = own
        for pattern, name_there in NAMES:
            name = re.sub(pattern, name_there, name)
        tensors[name] = tensor
    places = "prompt_encoder.shared_embedding.positional_embedding"
    tensors["shared_image_embedding.positional_embedding"] = tensors[places]
    left = model.load_state_dict(tensors, strict=False)
    if left.unexpected_keys or left.missing_keys:
        raise SystemExit(f"the key map is wrong: {left}")
    return model


def slices(case: Path | None, n: int) -> list[Volume]:
    """Slices in HU as volumes of their own, in LPS."""
    if case is None:
        noise = np.random.default_rng(0).normal(0, 80, (n, 320, 400)).astype(np.float32)
        noise[:, 100:200, 120:260] += 120
        whole = Volume.of(noise, Grid(noise.shape, np.diag([3.0, 0.8, 0.8, 1.0])), (Channel("CT"),))
    else:
        whole = read(case / "image.nii.gz").volume
    whole = whole.on(whole.grid.toward("SPL"))
    places = np.linspace(0, whole.grid.shape[0] - 1, n + 2)[1:-1].astype(int)
    return [whole.on(whole.grid.crop((p, 0, 0), (p + 1, *whole.grid.shape[1:]))) for p in places]


def timed(call: Any) -> tuple[Array, Any]:
    """Seconds of a call by the clock and of the processor, and what it gave."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = call()
    return np.array([time.perf_counter(), time.process_time()]) - start, result


@torch.no_grad()
def by_transformers(model: Any, processor: Any, picture: Array, box: list[float]) -> Array:
    """Logits of the box on the slice."""
    inputs = processor(images=picture, input_boxes=[[box]], return_tensors="pt")
    answer = model(**inputs, multimask_output=False)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    masks = processor.image_processor.post_process_masks(answer.pred_masks, *sizes, binarize=False)
    return np.asarray(masks[0][0, 0])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, nargs="?", help="a folder with image.nii.gz")
    for name, default in (("slices", 3), ("pairs", 5), ("blocks", 12), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    net, frame = ours(given.blocks), SamFrame()
    model, processor = theirs(net, given.blocks), SamProcessor(SamImageProcessorPil())
    segwise = Slices(Parts(net, frame, None, "random"))
    volumes = slices(given.case, given.slices)
    ratios, apart = [], []
    for i in range(given.pairs):
        volume = volumes[i % len(volumes)]
        _, height, width = volume.grid.shape
        low, high = (0, height // 4, width // 4), (1, height // 2, width // 2)
        ask = Ask(Prompt((Box.of(volume.grid, low, high),)))
        picture = np.repeat(frame.prepare(volume).array[0, 0][..., None], 3, axis=-1)
        box = [float(v) for v in (low[2], low[1], high[2] - 1, high[1] - 1)]
        calls = [
            lambda v=volume, a=ask: segwise.segment(segwise.encode(v, store=FeatureStore()), [a])[0],
            lambda p=picture, b=box: by_transformers(model, processor, p, b),
        ]
        order = (0, 1) if i % 2 else (1, 0)
        found = {which: timed(calls[which]) for which in order}
        prediction, logits = found[0][1], found[1][1]
        own = Volume.of(logits[None], volume.grid).on(prediction.grid).array[0]
        apart.append(float(np.abs(prediction.logits[0] - own).max() / logits.std()))
        ratios.append(found[0][0] / found[1][0])
        (wall, own), (wall_there, own_there) = found[0][0], found[1][0]
        print(
            f"{wall:6.2f} s and {wall_there:6.2f} s; of the processor {own:6.2f} s and {own_there:6.2f} s", flush=True
        )
    for name, values in zip(("clock", "processor"), np.transpose(ratios), strict=True):
        spread = f"{np.median(values):.3f} ({values.min():.3f}..{values.max():.3f})"
        print(f"Segwise / transformers, {name}: {spread} over {len(values)} pairs")
    print(
        f"{given.blocks} blocks, {given.threads} threads; logits differ by at most {max(apart):.1e} of their "
        "standard deviation"
    )


if __name__ == "__main__":
    main()
