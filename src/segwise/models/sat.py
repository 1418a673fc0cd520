"""SAT: structures on CT and MR by their medical names, whatever they are.

Source: Zhao et al., Large-vocabulary segmentation for medical images with text prompts, npj Digital Medicine 2025
(arXiv 2312.17183). Written from the paper; the original code has no licence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from segwise import anatomy, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.spoken import Spoken, SpokenFrame
from segwise.lifts.tiles import Tiling
from segwise.nets import sat as nets
from segwise.nets import sat_text as texts
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.segmenter import Parts
from segwise.weights.checkpoint import Checkpoint

CARD = ModelCard(
    title="SAT",
    summary="Structures and lesions on CT and MR by their medical names, each with a presence score.",
    family="generalist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="none stated (the original's; none of it is here)",
    licence_weights="none stated",
    paper="https://arxiv.org/abs/2312.17183",
    code="https://github.com/zhaoziheng/SAT",
    weights=(
        WeightFile(file="sat/nano.pth", n_bytes=0, variant="nano"),
        WeightFile(file="sat/nano_text_encoder.pth", n_bytes=0, variant="nano"),
        WeightFile(file="sat/pro.pth", n_bytes=0, variant="pro"),
        WeightFile(file="sat/pro_text_encoder.pth", n_bytes=0, variant="pro"),
    ),
    keys=(r"layers\.0\.multihead_attn\.in_proj_weight", r"encoder\.stages\.0\.0\.convs\.0\.conv\.weight"),
    training_sets=("AMOS22", "BTCV", "CHAOS", "FLARE22", "KiTS", "LiTS", "MSD", "TotalSegmentator", "WORD"),
    training_note=(
        "22,186 scans of 72 public sets with 497 classes (the paper's count); only a part of their names is listed "
        "here: treat any public CT or MR with labels as possibly seen"
    ),
    parameters_m=110.0,
    memory="about 12 GB for a window of 288x288x96 with nano, twice that with pro; smaller windows need less",
    input=(
        "first channel, axes to R, A, S, 1 x 1 x 3 mm, cut to the box of what is > 0; CT clipped to -500..1000 HU, "
        "else to its 0.5 and 99.5 percentiles; less its mean, by its deviation; windows of 288x288x96 half a window "
        "apart, gaussian weights; presence is the greatest blended probability in the volume, not calibrated"
    ),
    deviations=(
        "NOT VERIFIED: no official output was at hand; query decoder, position code and masks are tested against their "
        "equations alone",
        "of the official names only the text encoder's atlas_tower and temperature are known; U-Net, query decoder and "
        "language model are found by their inner names (nnU-Net's, DETR's and BERT's or MPNet's, assumed), the linear "
        "maps by their widths. What fits nowhere is refused by name",
        "assumed: positions are added to keys and not to values; windows are placed as nnU-Net's; what is cut away "
        "before windows is <= 0 after resampling; a small scan is padded by 0",
        "a name is asked by Segwise's common name in lower case; the model's own 497 may be spelled otherwise. Words "
        "that the vocabulary lacks are refused unless open=true",
        "a scan whose modality is not known is refused unless modality= says it",
        "variants with Swin UNETR and U-Mamba are refused",
        "nano of the sizes known here has 110 million parameters beside the language model, as the paper says, pro 476 "
        "where the paper says 447: some depth of pro is not known. A file's own shapes decide",
        "the answer's log-odds are interpolated linearly to the file's voxels",
    ),
    seconds_hint=1800.0,
)  # fmt: skip
ROWS = 288
SLICES = 96
SPACING_MM = (1.0, 1.0, 3.0)
CT_HU = (-500.0, 1000.0)
PERCENTILES = (0.5, 99.5)
MODALITIES = {"ct": 0, "mri": 1, "us": 2, "pet": 3}
_OURS = {"CT": "ct", "MR": "mri", "US": "us", "PT": "pet"}
_CODE = "RAS, 1x1x3 mm, what is > 0, clipped, standardised: 1"


@dataclass(frozen=True)
class SatFrame(SpokenFrame):
    """The official preprocessing.

    Attributes:
        words: the tokenizer.
        patch: (d, h, w) of a window.
        modality: of every scan; "" for what the scan says.
        open: also words that the vocabulary does not know.
    """

    words: texts.Words
    patch: tuple[int, int, int]
    modality: str = ""
    open: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Of a window."""
        return self.patch

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view, and of the tokenizer."""
        words = (_CODE, self.patch, self.modality, self.words.digest)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W], mean 0 and deviation 1; what is no number counts as the lowest that is one.

        A scan of unknown modality is treated as no CT.
        """
        values = volume.array[:1].astype(np.float32)
        low = float(values[np.isfinite(values)].min(initial=0))
        values = np.nan_to_num(values, nan=low, posinf=low, neginf=low)
        grid = volume.grid.canonical("RAS", spacing_mm=SPACING_MM)
        moved = np.asarray(regrid(values, volume.grid, grid, order=1, outside=low), dtype=np.float32)
        box = bounds(moved[0] > 0)
        if box is not None:
            moved = moved[(slice(None), *(slice(a, b) for a, b in zip(*box, strict=True)))]
            grid = grid.crop(*box)
        ct = self._modality(volume.channels[0].modality) == "ct"
        first, last = CT_HU if ct else np.percentile(moved, PERCENTILES)
        cut = np.clip(moved, first, last).astype(np.float64)
        spread = cut.std()
        return Volume.of(((cut - cut.mean()) / (spread or 1)).astype(np.float32), grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """A window around an index."""
        low = [c - n // 2 for c, n in zip(centre, self.patch, strict=True)]
        return grid.crop(low, [a + n for a, n in zip(low, self.patch, strict=True)])

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, D, H, W]: the part of the prepared volume that the window shows, 0 beyond."""
        return np.asarray(regrid(prepared.array, prepared.grid, window, order=0, outside=0.0), dtype=np.float32)

    def asked(self, words: str, *, modality: str) -> Marks:
        """One query: the structure's common name in lower case, and the modality.

        Raises:
            NoSuchStructure: the vocabulary does not know it, and `open` is False.
            PromptError: the modality is not known.
        """
        found = anatomy.resolve(words)
        if not found.known and not self.open:
            near = f"; near: {', '.join(found.near)}" if found.near else ""
            raise NoSuchStructure(f'"{words}" is not in the vocabulary{near}; open=true asks SAT anyway')
        kind = self._modality(modality)
        if not kind:
            raise PromptError(
                f"SAT wants to know the modality, and the scan does not say it; expected sat(modality=M) with M one of "
                f"{', '.join(MODALITIES)}"
            )
        ids, mask = self.words(found.name.lower())
        tokens = {"ids": ids, "mask": mask, "modality": torch.tensor([MODALITIES[kind]])}
        return Marks(torch.zeros(1, dtype=torch.int64), tokens=tokens)

    def _modality(self, said: str) -> str:
        return self.modality or _OURS.get(said, "")


def load(
    *,
    variant: Literal["nano", "pro"] = "nano",
    checkpoint: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    modality: Literal["", "ct", "mri", "us", "pet"] = "",
    open: bool = False,
    rows: int = ROWS,
    slices: int = SLICES,
) -> Spoken:
    """SAT with a U-Net.

    Args:
        variant: which released weights.
        checkpoint: a vision file or a folder with checkpoint.pth; None for the released weights. A config.json beside
            it may say "heads" (of the query decoder) and "text_heads" (of a BERT).
        text: the file of the text encoder; None: text_encoder.pth beside the checkpoint, or the released one.
        tokenizer: a folder with the language model's tokenizer.json or vocab.txt; None: the text encoder's folder.
        modality: of every scan; "" for what the scan says.
        open: also ask for words that the vocabulary does not know.
        rows: side of a window in the axial plane, in voxels of 1 mm.
        slices: height of a window, in voxels of 3 mm.

    Raises:
        SpecError: the window makes no sense.
        WeightsError: weights or tokenizer are missing, damaged, or do not fit.
    """
    vision, words_file = f"sat/{variant}.pth", f"sat/{variant}_text_encoder.pth"
    seeing = weights.opened("sat", CARD, checkpoint=checkpoint, variant=variant, file=vision)
    if checkpoint is not None and text is None:
        beside = seeing.path.with_name("text_encoder.pth")
        if not beside.is_file():
            raise WeightsError(
                f"{beside} is not there; expected the text encoder, or sat(text=FILE) to say where it is"
            )
        text = str(beside)
    reading = weights.opened("sat", CARD, checkpoint=text, variant=variant, file=words_file)
    words = texts.Words(Path(tokenizer).expanduser() if tokenizer else reading.path.parent)
    net = _net(seeing, reading)
    known = net.text.lm.get_submodule("embeddings.word_embeddings").get_parameter("weight").shape[0]
    if words.size > known:
        raise WeightsError(
            f"the tokenizer has {words.size:,} words and the text encoder {known:,}; they do not belong together"
        )
    for name, given, step in (("rows", rows, net.multiple[0]), ("slices", slices, net.multiple[2])):
        if given < 2 * step or given % step:
            raise SpecError(f"sat: {name} is {given}, expected a multiple of {step} from {2 * step} on")
    frame = SatFrame(words, (rows, rows, slices), modality, open)
    tiling = Tiling(patch=frame.patch, step=0.5, spread=True, peak=10.0)
    return Spoken(Parts(net.eval(), frame, None, weights.together(seeing, reading)), tiling)


def _net(seeing: Checkpoint, reading: Checkpoint) -> nets.SatNet:
    """The net with its weights, from the two files."""
    file, net = reading, None
    try:
        said = texts.official(reading.tensors)
        tower = texts.tower_of(_shapes(said), heads=seeing.config.get("text_heads"))
        file = seeing
        seen = nets.official(seeing.tensors)
        net = nets.net_of(_shapes(seen), tower, heads=int(seeing.config.get("heads", nets.HEADS)))
    except KeyError as error:
        what = "a text encoder of SAT" if file is reading else "a vision file of SAT with a U-Net"
        raise WeightsError(f"{file.path.name} is not {what}: {error} is missing") from error
    width = net.query_decoder.norm.weight.shape[0]
    if tower.modality.embedding_dim != width:
        raise WeightsError(
            f"{reading.path.name} makes queries of {tower.modality.embedding_dim} numbers, {seeing.path.name} takes "
            f"{width}; they do not belong together"
        )
    weights.fill(net, {**seen, **{f"text.{key}": value for key, value in said.items()}}, what="SAT")
    return net


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def published() -> list[Published]:
    """The released sizes, on the meta device, with a BERT of base size as language model."""
    return [_published(variant) for variant in nets.SIZES]


def _published(variant: str) -> Published:
    with torch.device("meta"):
        net = nets.released(variant)
        image = torch.empty(1, 1, ROWS, ROWS, SLICES)
        full = torch.empty(1, nets.SIZES[variant][0][0], ROWS, ROWS, SLICES)
        tokens, query = torch.empty(1, 243, nets.WIDTH), torch.empty(1, nets.WIDTH)
        ids, kind = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    features = {"tokens": tokens, "place": tokens, "full": full}
    one = Marks(torch.zeros(1, dtype=torch.int64), tokens=query)
    stages = {
        "encoder": lambda: net.encode(image),
        "text": lambda: net.text(ids, None, kind),
        "one structure": lambda: net.decode(features, one),
    }
    where = "1×288×288×96, one structure of 8 tokens"
    return Published(label=f"variant={variant}", net=net, stages=stages, per="patch", input=where)
