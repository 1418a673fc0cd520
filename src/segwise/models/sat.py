"""SAT: structures on CT and MR by their medical names, whatever they are.

Source: Zhao et al., Large-vocabulary segmentation for medical images with text prompts, npj Digital Medicine 2025
(arXiv 2312.17183). Written from the paper; the original code has no licence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from segwise import anatomy, weights
from segwise.card import ModelCard, Variant, WeightFile
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
    labels={
        "nano": (),
        "pro": (),
        "phantom": (
            "liver", "spleen", "pancreas", "stomach", "gallbladder", "left kidney", "right kidney", "left lung",
            "right lung", "aorta", "inferior vena cava", "spinal cord",
        ),
    },
    modalities=("CT", "MR"),
    dims=3,
    licence_code="none stated (the original's; none of it is here)",
    licence_weights="none stated; phantom is Segwise's own: Apache-2.0, for research, not for patients",
    paper="https://arxiv.org/abs/2312.17183",
    code="https://github.com/zhaoziheng/SAT",
    weights=(
        WeightFile(file="sat/nano.pth", n_bytes=0, variant="nano"),
        WeightFile(file="sat/nano_text_encoder.pth", n_bytes=0, variant="nano"),
        WeightFile(file="sat/pro.pth", n_bytes=0, variant="pro"),
        WeightFile(file="sat/pro_text_encoder.pth", n_bytes=0, variant="pro"),
        WeightFile(
            file="sat/phantom/checkpoint.pth",
            n_bytes=2757877,
            sha256="e8c58e3ccc0a279f04cbcfe5d44dc61d9ad4d1207c5db80140030451dd210967",
            variant="phantom",
            packaged=True,
        ),
        WeightFile(
            file="sat/phantom/text_encoder.pth",
            n_bytes=128885,
            sha256="c5b3e20837e91e7d06f4ee88f43a1a11f2281210f7592050fbcc7f239cda0578",
            variant="phantom",
            packaged=True,
        ),
        WeightFile(
            file="sat/phantom/vocab.txt",
            n_bytes=133,
            sha256="67b95b4283f3b227655638e88ea9b42d3e9451e0f5d1c1099e59e71fb3607545",
            variant="phantom",
            packaged=True,
        ),
        WeightFile(
            file="sat/phantom/config.json",
            n_bytes=388,
            sha256="697a99f9ede487624bf9c0384adae0ad5e4324a1de52940e87564227411d341c",
            variant="phantom",
            packaged=True,
        ),
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
        "apart, gaussian weights; presence is the greatest blended probability in the volume, not calibrated. phantom: "
        "voxels of 5 mm, windows of 64x48x32, else the same"
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
        "variant=phantom is none of the original's (whose nano is 80 times larger): the same net and loader, with "
        "small sizes, words of its own (no language model) and the 12 names listed here; it refuses any other",
    ),
    remarks={"variant=phantom": "nano, trained on synthetic data"},
    variants={
        "variant=pro": Variant(parameters_m=447.0),
        "variant=phantom": Variant(
            summary="Twelve organs of the trunk by name, each with a presence score; small, trained on synthetic data.",
            licence_weights="Apache-2.0, for research, not for patients",
            training_sets=("Segwise synth (generated)",),
            training_note=(
                "weights of Segwise, trained on synthetic bodies only (segwise train sat-phantom: 4,500 steps, seed "
                "0): no patient's data, and none of its use on patients"
            ),
            training_listed=True,
            parameters_m=1.42,
            memory="0.3 GB",
            seconds_hint=1.0,
        ),
    },
    seconds_hint=1800.0,
)  # fmt: skip
ROWS = 288
SLICES = 96
SPACING_MM = (1.0, 1.0, 3.0)
CT_HU = (-500.0, 1000.0)
PERCENTILES = (0.5, 99.5)
FILES = {  # variant -> its file of vision and its file of words
    "nano": ("sat/nano.pth", "sat/nano_text_encoder.pth"),
    "pro": ("sat/pro.pth", "sat/pro_text_encoder.pth"),
    "phantom": ("sat/phantom/checkpoint.pth", "sat/phantom/text_encoder.pth"),
}
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
        spacing_mm: (d, h, w) of the voxels.
        names: all that the model was taught; () for more than anyone has listed.
    """

    words: texts.Words
    patch: tuple[int, int, int]
    modality: str = ""
    open: bool = False
    spacing_mm: tuple[float, float, float] = SPACING_MM
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Of a window."""
        return self.patch

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view, and of the tokenizer."""
        words = (_CODE, self.patch, self.modality, self.words.digest, self.spacing_mm, self.names)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W], mean 0 and deviation 1; what is no number counts as the lowest that is one.

        A scan of unknown modality is treated as no CT.
        """
        values = volume.array[:1].astype(np.float32)
        low = float(values[np.isfinite(values)].min(initial=0))
        values = np.nan_to_num(values, nan=low, posinf=low, neginf=low)
        grid = volume.grid.canonical("RAS", spacing_mm=self.spacing_mm)
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
        """The structure's common name in lower case, and the modality; of a listed pair without a side both sides.

        Raises:
            NoSuchStructure: the vocabulary does not know it, or the model was not taught it, and `open` is False.
            PromptError: the modality is not known.
        """
        names, kind = self._named(words), self._modality(modality)
        if not kind:
            raise PromptError(
                f"SAT wants to know the modality, and the scan does not say it; expected sat(modality=M) with M one of "
                f"{', '.join(MODALITIES)}"
            )
        said = [self.words(name.lower()) for name in names]
        n = len(said)
        tokens = {
            "ids": torch.cat([ids for ids, _ in said]),
            "mask": torch.cat([mask for _, mask in said]),
            "modality": torch.full((n,), MODALITIES[kind]),
        }
        return Marks(torch.zeros(n, dtype=torch.int64), tokens=tokens)

    def _named(self, words: str) -> tuple[str, ...]:
        found = anatomy.resolve(words)
        if self.names and not self.open:
            return anatomy.among(words, self.names)
        if not found.known and not self.open:
            near = f"; near: {', '.join(found.near)}" if found.near else ""
            raise NoSuchStructure(f'"{words}" is not in the vocabulary{near}; open=true asks SAT anyway')
        return (found.name,)

    def _modality(self, said: str) -> str:
        return self.modality or _OURS.get(said, "")


def load(
    *,
    variant: Literal["nano", "pro", "phantom"] = "nano",
    checkpoint: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    modality: Literal["", "ct", "mri", "us", "pet"] = "",
    open: bool = False,
    rows: int | None = None,
    slices: int | None = None,
) -> Spoken:
    """SAT with a U-Net.

    Args:
        variant: which weights: "nano" or "pro" as released, or "phantom": Segwise's own, in the package, small and
            trained on synthetic bodies only; for tests and demonstrations, never for patients.
        checkpoint: a vision file or a folder with checkpoint.pth; None for the variant's. A config.json beside it may
            say "heads" (of the query decoder), "text_heads" (of a BERT), "patch" and "spacing_mm" (three numbers to R,
            A, S) and "names" (all it was taught).
        text: the file of the text encoder; None: text_encoder.pth beside the checkpoint, or the released one.
        tokenizer: a folder with the language model's tokenizer.json or vocab.txt; None: the text encoder's folder.
        modality: of every scan; "" for what the scan says.
        open: also ask for words that the vocabulary does not know.
        rows: sides of a window in the axial plane, in voxels; None for 288 of 1 mm, or what config.json says.
        slices: height of a window, in voxels; None for 96 of 3 mm, or what config.json says.

    Raises:
        SpecError: the window makes no sense.
        WeightsError: weights or tokenizer are missing, damaged, or do not fit.
    """
    vision, words_file = FILES[variant]
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
    frame = _frame(seeing, words, rows=rows, slices=slices, modality=modality, open=open)
    for axis, side in enumerate(frame.patch):
        name, step = "slices" if axis == 2 else "rows", net.multiple[axis]
        if side < 2 * step or side % step:
            raise SpecError(f"sat: {name} is {side}, expected a multiple of {step} from {2 * step} on")
    tiling = Tiling(patch=frame.patch, step=0.5, spread=True, peak=10.0)
    return Spoken(Parts(net.eval(), frame, None, weights.together(seeing, reading)), tiling)


def _frame(
    seeing: Checkpoint, words: texts.Words, *, rows: int | None, slices: int | None, modality: str, open: bool
) -> SatFrame:
    """The published preprocessing, or what config.json beside the file says instead."""
    said = seeing.config
    sides, spacing = _three(said, "patch", (ROWS, ROWS, SLICES)), _three(said, "spacing_mm", SPACING_MM)
    names = said.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f'"names" in the config.json beside {seeing.path.name} is no list of names')
    high, wide, tall = (int(side) for side in sides)
    patch = (rows or high, rows or wide, slices or tall)
    return SatFrame(words, patch, modality, open, spacing, tuple(anatomy.resolve(name).name for name in names))


def _three(said: Mapping[str, Any], name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    found = said.get(name, default)
    if (
        not isinstance(found, list | tuple)
        or len(found) != 3
        or not all(isinstance(value, int | float) and 0 < value < 10_000 for value in found)
    ):
        raise WeightsError(f'"{name}" in config.json is {found}, expected three numbers above 0 (to R, A, S)')
    a, b, c = found
    return a, b, c


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
