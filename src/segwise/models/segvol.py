"""SegVol: a generalist for CT that is asked in words, by a box or by clicks, and looks at the volume twice.

Source: Du et al., SegVol, NeurIPS 2024 (arXiv 2311.13385), and its authors' inference code (BAAI-DCAI/SegVol,
`inference_demo.py`, `data_process/demo_data_process.py`). Inside this file axes go to S, A and R in that order, as the
official pipeline makes them from RAS+; boxes end at their last voxel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from segwise import anatomy, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import NoSuchStructure, PromptError, WeightsError
from segwise.geometry import Array, Shape, Volume, bounds, regrid
from segwise.lifts.grey import SHEAR
from segwise.lifts.zoom import Zoom, ZoomFrame
from segwise.nets import segvol as nets
from segwise.nets.clip_text import PAIRS, ClipTokenizer
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.sam import TwoWayTransformer
from segwise.nets.sam_3d import MaskDecoder3d
from segwise.prompt import Prompt, Text
from segwise.segmenter import Parts, Tree

# fmt: off
CARD = ModelCard(
    title="SegVol",
    summary="Any organ or lesion on CT volumes from its name, a box or clicks, first from afar, then closely.",
    family="generalist",
    takes=("points", "box", "text"),
    modalities=("CT",),
    dims=3,
    licence_code="MIT",
    licence_weights="not stated beside them (the code is MIT)",
    paper="https://arxiv.org/abs/2311.13385",
    code="https://github.com/BAAI-DCAI/SegVol (5768c97)",
    keys=(
        r"^((module|model)\.)*image_encoder\.patch_embedding\.patch_embeddings\.1\.weight ",
        r"^((module|model)\.)*mask_decoder\.txt_align_upscaled_embedding\.weight ",
    ),
    weights=(
        WeightFile(file="segvol/SegVol_v1.pth", n_bytes=0, variant="v1"),
        WeightFile(
            file="clip/bpe_simple_vocab_16e6.txt.gz",
            n_bytes=1356917,
            sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
            wheel="open_clip_torch==3.3.0:open_clip/bpe_simple_vocab_16e6.txt.gz",
            wheel_sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
            variant="tokenizer",
        ),
    ),
    training_sets=(
        "3D-IRCADB", "AbdomenCT-1K", "AMOS22", "BTCV", "CHAOS", "CT-ORG", "FLARE22", "HaN-Seg", "KiPA22", "KiTS19",
        "KiTS23", "LUNA16", "MSD", "Pancreas-CT", "QUBIQ", "SLIVER07", "TotalSegmentator", "VerSe19", "VerSe20", "WORD",
    ),
    training_note=(
        "25 public CT sets (its authors' M3D-Seg), of MSD colon, hepatic vessel, liver, lung, pancreas, spleen; the "
        "names were not checked against its paper. The encoder was trained before on 96,000 CTs without labels, not "
        "all of named sets"
    ),
    parameters_m=180.9,
    memory="about 2 GB, and 6 MB for each view; a volume of 512 x 512 x 300 adds 1 GB",
    input=(
        "the file's own voxels, axes to S, A and R; intensities cut to the percentiles 0.05..99.95 of the voxels above "
        "the mean, to 0..1, cropped to what is > 0; zoom-out: all of it resized to 32 x 256 x 256 (nearest voxel); "
        "zoom-in: windows of 32 x 256 x 256 voxels that overlap by half; words as 'A computerized tomography of a "
        "[name].'; quality is the predicted IoU of the zoom-out"
    ),
    deviations=(
        "presence (for prompts with words) is the greatest probability that the zoom-out found anywhere: SegVol has no "
        "head for it. It is not calibrated, and below 0.5 only where nothing at all is painted",
        "words that the vocabulary of anatomy does not know are refused; the original paints something for any word "
        "(open=true does that). Known ones are said by their common name",
        "zoom-in: prompts are placed on each window from their millimetres, where the original enlarges what they "
        "cover in the zoom-out; of points it draws five at random with repetition from these voxels (here up to "
        "five positive ones in the order made); points together with a box it refuses there (here both rules hold)",
        "where the region found is smaller than a window, the original forgets to move the prompt's points and box by "
        "the zeros around it; here they are moved (padding=forgotten does as the original)",
        "several boxes of a prompt are one box around all; a point's place is divided along the first axis by the "
        "size of the second and the other way round, as in the original, whose weights learned it so",
        "a volume of one value is all 0; the original fails on its empty foreground",
        "the original's script reads the intensities of CT only; MR was not among its data",
    ),
    seconds_hint=120.0,
)
# fmt: on

NAME = "segvol"
SIZE: Shape = (32, 256, 256)
PERCENTILES = (0.05, 99.95)
TEMPLATE = "A computerized tomography of a {}."
AXES = "SAR"
_CODE = "segvol-1"


@dataclass(frozen=True)
class SegVolFrame(ZoomFrame):
    """The official preprocessing, and the words.

    Attributes:
        tokenizer: of the net's text encoder; None: words are refused, and `silent` says why.
        silent: the reason.
        open: words that the vocabulary of anatomy does not know are asked as they stand.
        size: of a view.
    """

    tokenizer: ClipTokenizer | None
    silent: str = ""
    open: bool = False
    size: Shape = SIZE

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Of a view."""
        return self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        return hashlib.blake2b(repr((_CODE, self.size, AXES, PERCENTILES)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W] in 0..1, cropped to what is > 0. A sheared grid is resampled on an orthogonal one."""
        turned = volume.grid.toward(AXES)
        grid = turned if turned.skew < SHEAR else turned.canonical(AXES)
        values = np.nan_to_num(volume.array[:1].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        values = normalised(regrid(values, volume.grid, grid, order=1, outside=float(values.min())))
        low, high = bounds(values[0] > 0) or ((0, 0, 0), grid.shape)
        crop = grid.crop(low, high)
        return Volume.of(regrid(values, grid, crop, order=1, outside=0.0), crop, volume.channels[:1])

    def tokens(self, prompt: Prompt) -> Tree:
        """Tokens of the prompt's last text in the official sentence.

        Raises:
            NoSuchStructure: the vocabulary of anatomy does not know it, and `open` is not set.
            PromptError: there is no tokenizer, or the checkpoint has no text encoder.
        """
        words = [mark.words for mark in prompt.marks if isinstance(mark, Text)]
        if not words:
            return None
        if self.tokenizer is None:
            raise PromptError(f'SegVol cannot be asked for "{words[-1]}" in words: {self.silent}; give a box or points')
        found = anatomy.resolve(words[-1])
        if not found.known and not self.open:
            near = f"; near: {', '.join(found.near)}" if found.near else ""
            raise NoSuchStructure(f'"{words[-1]}" is no structure that Segwise knows{near}; segvol(open=true) asks it')
        made = self.tokenizer.ids([TEMPLATE.format(found.name)])
        n = int(made.mask.sum())
        return {"ids": made.ids[:, :n], "mask": made.mask[:, :n]}


def normalised(values: Array) -> Array:
    """Intensities as the official preprocessing makes them: cut to percentiles of the upper part, then to 0..1.

    Its mean and deviation in between change nothing that is left after the last step.
    """
    upper = values[values > values.mean()]
    if not upper.size:
        return np.zeros_like(values)
    low, high = np.percentile(upper, PERCENTILES)
    cut = np.clip(values, np.float32(low), np.float32(high))
    least, most = float(cut.min()), float(cut.max())
    return np.asarray((cut - np.float32(least)) / np.float32(max(most - least, 1e-8)), dtype=np.float32)


def load(
    *,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    zoom: bool = True,
    padding: Literal["moved", "forgotten"] = "moved",
    open: bool = False,
) -> Zoom:
    """SegVol.

    Args:
        checkpoint: a file in the format of SegVol_v1.pth, or a folder with checkpoint.pth; None for the released
            weights.
        tokenizer: a folder or file with CLIP's tokenizer; None: beside the checkpoint, else "clip" in the weights
            folder. Without one only boxes and points are taken.
        zoom: look closely at what was found, as the original; False: the answer from afar is all.
        padding: in a region smaller than a window, the prompt's own places are "moved" by the zeros around it, or
            these are "forgotten", as in the original.
        open: ask for words that the vocabulary of anatomy does not know, too.

    Raises:
        WeightsError: the weights are missing, damaged, or of another model; the tokenizer given is none.
    """
    found = weights.opened(NAME, CARD, checkpoint=checkpoint, variant="v1")
    own = nets.official(found.tensors)
    net = nets.net_of({key: tuple(tensor.shape) for key, tensor in own.items()}, found.config)
    weights.fill(net, own, what=CARD.title)
    words, silent = _tokenizer(tokenizer, found.path.parent, net)
    frame = SegVolFrame(words, silent, open, net.image_encoder.size)
    return Zoom(Parts(net, frame, None, found.digest), closely=zoom, padding=padding)


def _tokenizer(given: str | None, beside: Path, net: nets.SegVolNet) -> tuple[ClipTokenizer | None, str]:
    """CLIP's tokenizer, or None and why there is none."""
    if net.text_encoder is None:
        return None, "its checkpoint has no text encoder"
    files = ("tokenizer.json", "vocab.json", PAIRS)
    places = [Path(given)] if given else [beside, weights.folder() / "clip"]
    place = next((p for p in places if given or any((p / file).is_file() for file in files)), None)
    if place is None:
        return None, f"CLIP's tokenizer ({' or '.join(files)}) is in neither {places[0]} nor {places[1]}"
    made = ClipTokenizer(place)
    wanted = net.text_encoder.n_words
    if made.size != wanted:
        raise WeightsError(f"{place} has {made.size:,} words and the weights {wanted:,}; they do not belong together")
    return made, ""


def published() -> list[Published]:
    """The released size on the meta device: one view, one name with its sentence, and a box with it."""
    with torch.device("meta"):
        net = released().requires_grad_(False)
        image = torch.empty(1, 1, *SIZE)
        features = torch.empty(1, 768, *net.image_encoder.grid)
        ids = torch.zeros(1, 12, dtype=torch.int64)
        words = {"embedding": torch.empty(1, 768)}
        marks = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.empty(1, 2, 3), tokens=words)
    text: Any = net.text_encoder
    stages = {
        "encoder": lambda: net.encode(image),
        "text": lambda: text(ids),
        "decoder": lambda: net.decode(features, marks),
    }
    return [Published(label="", net=net, stages=stages, per="view", input="1×32×256×256, one box and one name")]


def released() -> nets.SegVolNet:
    """The net of the released weights, untrained."""
    encoder = nets.ImageEncoder(patch=nets.PATCH, grid=(8, 16, 16), width=768, heads=12, hidden=3072, depth=12)
    norm = nn.LayerNorm((192, 16, 32, 32))
    decoder = MaskDecoder3d(width=768, masks=4, transformer=TwoWayTransformer(width=768), norm=norm, words=768)
    clip = "text_encoder.clip_text_model."
    shapes = {
        f"{clip}embeddings.token_embedding.weight": (49408, 512),
        f"{clip}embeddings.position_embedding.weight": (77, 512),
        **{f"{clip}encoder.layers.{i}.mlp.fc1.weight": (2048, 512) for i in range(12)},
        "text_encoder.dim_align.weight": (768, 512),
    }
    prompts = nets.PromptEncoder(width=768, grid=encoder.grid, size=encoder.size)
    return nets.SegVolNet(encoder, prompts, decoder, nets.TextEncoder(shapes, heads=8))
