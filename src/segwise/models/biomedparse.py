"""BiomedParse: any of its structures on CT and MR slices, asked by name; no box, no click.

Source: Zhao et al., A foundation model for joint segmentation, detection and recognition of biomedical objects across
nine modalities, Nat Methods 2024 (10.1038/s41592-024-02499-w), and the code at microsoft/BiomedParse (750eb40). Inside
this file images are [H, W, 3], 8 bit, as the official code has them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from scipy.special import expit

from segwise import anatomy, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import NoSuchStructure, WeightsError
from segwise.geometry import Array, Channel, Grid, Volume, regrid
from segwise.lifts.grey import CT_BELOW, SHEAR, lowest
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.planes import AXES
from segwise.lifts.worded import Worded, WordFrame
from segwise.models._biomedparse import (
    KNOWN,
    WINDOWS_HU,
    Known,
    as_stored,
    likeness,
    padding,
    resized,
    slice_image,
    unknown,
)
from segwise.nets import biomedparse as nets
from segwise.nets.clip_text import ClipTokenizer
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.segmenter import Parts

# fmt: off
CARD = ModelCard(
    title="BiomedParse",
    summary="Organs, tumours and heart chambers on CT and MR slices from their names alone.",
    family="generalist",
    takes=("text",),
    labels={
        "": (
            "liver", "spleen", "pancreas", "stomach", "duodenum", "esophagus", "gallbladder", "kidney", "left kidney",
            "right kidney", "adrenal gland", "left adrenal gland", "right adrenal gland", "aorta",
            "inferior vena cava", "urinary bladder", "prostate", "uterus", "kidney cyst", "kidney tumor", "liver tumor",
            "liver vessel", "pancreas tumor", "colon tumor", "lung tumor", "lung nodule", "lung infiltrate",
            "left ventricle", "right ventricle", "myocardium", "left atrium", "glioma", "whole tumor", "tumor core",
            "enhancing tumor", "non-enhancing tumor", "edema", "anterior hippocampus", "posterior hippocampus",
            "prostate transition zone", "prostate peripheral zone",
        ),
    },
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="research and development use only, not clinical (its model card)",
    paper="https://doi.org/10.1038/s41592-024-02499-w",
    code="https://github.com/microsoft/BiomedParse",
    keys=(
        r"^backbone\.patch_embed\.proj\.",
        r"^sem_seg_head\.predictor\.",
    ),
    weights=(
        WeightFile(
            file="biomedparse/biomedparse_v1.pt",
            n_bytes=0,
            signature="4e8b9ec8dd7a2338c3b19daf9474182a3ebbe257cfecf9f8f607959214c94908",
            hub="microsoft/BiomedParse@main:biomedparse_v1.pt",
            variant="v1",
        ),
        WeightFile(
            file="clip/bpe_simple_vocab_16e6.txt.gz",
            n_bytes=1356917,
            sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
            wheel="open_clip_torch==3.3.0:open_clip/bpe_simple_vocab_16e6.txt.gz",
            wheel_sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
            variant="tokenizer",
        ),
        WeightFile(
            file="biomedparse/target_dist.json",
            n_bytes=11183,
            sha256="1ef667c043867efc28b0c217448f99c0a8f24f11ffceb02923eaf7e4c39038ed",
            hub="microsoft/BiomedParse@main:target_dist.json",
            variant="recognition",
        ),
    ),
    training_sets=(
        "AMOS22", "MSD", "KiTS23", "BTCV", "COVID-19 CT", "LIDC-IDRI", "ACDC", "M&Ms", "PROMISE12", "LGG",
        "COVID-QU-Ex", "QaTa-COV19", "SIIM-ACR Pneumothorax", "CAMUS", "BUSI", "FH-PS-AOP", "CDD-CESM", "PolypGen",
        "NeoPolyp", "ISIC 2018", "UwaterlooSkinCancer", "OCT-CME", "REFUGE", "G1020", "DRIVE", "GlaS", "PanNuke",
        "FUMPE", "TotalSegmentator", "BraTS2023", "AbdomenCT-1K",
    ),
    training_note=(
        "sets as its repository lists them for BiomedParseData (assets/readmes/DATASET.md); which of them the first "
        "release (v1) saw is not said there. A known person or slice is likely: treat scores on these sets as seen. "
        "The structures listed here are those of its constants and demonstration on CT and MR; X-ray, ultrasound, "
        "pathology and others are left out"
    ),
    parameters_m=340.4,
    memory="1.9 GB of weights; about 180 MB of features a slice at 1024 x 1024",
    input=(
        "every slice of a plane by itself, padded to a square, 1024 x 1024, 8 bit: CT by the window of site= (abdomen "
        "-150..250 HU, lung -1000..1000, pelvis -55..200, liver -25..230, colon -68..187, pancreas -100..200), MR by "
        "the slice's percentiles 0.5..99.5 of what is > 0; then each slice to 0..255. Words become '[structure] in "
        "[site] [modality]' (words=sentence), the form its paper trains with, or the bare word of its examples"
    ),
    deviations=(
        "each target is asked alone; the original lets all prompts of a call share one token sequence, so that an "
        "answer depends on the company (joint=true does that)",
        "logits are resized from a quarter of the view straight to the slice; the original answers on the 1024 x 1024 "
        "image and leaves the way back to the user",
        "slices are shown upright (rows to P, columns to L); the original shows NIfTI as stored, mostly turned by 90 "
        "degrees, DICOM upright (turn=stored does that)",
        "presence: with target_dist.json in the weights folder, the original's test (four Kolmogorov-Smirnov p-values, "
        "fourth root of their product p) as p / (p + p_value), so 0.5 at p_value; a structure without a distribution, "
        "and all without that file, have the mean probability of the foreground instead: not calibrated, and never "
        "below 0.5 where anything is painted. A slice below 0.5 is empty, a volume is as sure as its surest slice",
        "a word that is not listed here is refused; the original paints something for any word (open=true does that). "
        "compare asks for the listed structures only",
        "a structure that was trained on one modality only (heart, brain and prostate zones on MR, lesions of trunk "
        "organs on CT) is asked on the other one by the same words; how well that works is not known",
        "a slice of one value, or an MR slice without positive values, is black; the original divides by zero",
        "which text setting the released config.yaml has could not be seen: the repository's (CLIP tokens) is used",
        "file names are those of the official code, size and digest of target_dist.json those of its repository; the "
        "download itself is gated (its conditions must be accepted on the hub) and was not seen",
    ),
    seconds_hint=3000.0,
)
# fmt: on

NAME = "biomedparse"
SIZE = 1024
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
P_VALUE = 0.05
_CODE = "biomedparse-1"


@dataclass(frozen=True)
class ParseFrame(WordFrame):
    """The official preprocessing of one slice, and the words.

    Attributes:
        tokenizer: of the net.
        length: tokens of a text.
        plane: of the slices.
        turn: "upright" or "stored" (the file's own order of rows and columns).
        site: whose window a CT has.
        words: "sentence" or "name".
        joint: prompts of one call share a sequence.
        open: unknown words are asked as they stand.
        distributions: of target_dist.json: image -> word -> four (a, b) of beta distributions; {} without.
        p_value: from which a slice counts as showing the structure, with distributions.
        size: of a view.
        mean, std: of 8-bit red, green and blue.
    """

    tokenizer: ClipTokenizer
    length: int
    plane: str = "axial"
    turn: str = "upright"
    site: str = "abdomen"
    words: str = "sentence"
    joint: bool = False
    open: bool = False
    distributions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    p_value: float = P_VALUE
    size: int = SIZE
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """One slice."""
        return (1, self.size, self.size)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.turn, self.site, self.size, self.mean, self.std)
        versions = (version("scikit-image"), version("pillow"))
        return hashlib.blake2b(repr((words, versions)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """[1, D, H, W] in the file's own values, slices of the plane first; its channel says CT or MR.

        A sheared grid is resampled on the nearest orthogonal one.
        """
        axes = AXES[self.plane] if self.turn == "upright" else as_stored(volume.grid, self.plane)
        turned = volume.grid.toward(axes)
        grid = turned if turned.skew < SHEAR else turned.canonical(axes)
        values = volume.array[:1]
        least = lowest(values)
        values = regrid(values, volume.grid, grid, order=1, outside=least)
        modality = volume.channels[0].modality or ("CT" if least < CT_BELOW else "MR")
        return Volume.of(values, grid, (Channel("CT" if modality == "CT" else "MR"),))

    def window(self, grid: Grid, centre: Any) -> Grid:
        """The whole slice of an index."""
        place = int(centre[0])
        return grid.crop((place, 0, 0), (place + 1, *grid.shape[1:]))

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, S, S], normalised."""
        return self.normalised(self.image(prepared, window))

    def image(self, prepared: Volume, window: Grid) -> Array:
        """uint8 [S, S, 3]: the slice as the official readers make it."""
        values = regrid(prepared.array[0], prepared.grid, window, order=1, outside=0)[0]
        ct = prepared.channels[0].modality == "CT"
        return slice_image(values, WINDOWS_HU[self.site] if ct else None, size=self.size)

    def normalised(self, image: Array) -> Array:
        """uint8 [H, W, 3] of any size -> float32 [3, 1, S, S]: bicubic, whatever the aspect; then mean and std."""
        small = np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BICUBIC))
        mean, std = (np.array(x, dtype=np.float32) for x in (self.mean, self.std))
        scaled = (small.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)[:, None], dtype=np.float32)

    def asked(self, words: str, *, modality: str) -> Marks:
        """The tokens of a structure's sentence or word.

        Raises:
            NoSuchStructure: not a structure of this model, and `open` is not set.
        """
        known = self.known(words, modality)
        text = words if known is None else known.sentence(modality) if self.words == "sentence" else known.word
        tokens = self.tokenizer.ids([text], length=self.length)
        company = torch.tensor([0 if self.joint else zlib.crc32(text.encode())])
        marks = {"ids": tokens.ids, "mask": tokens.mask, "company": company}
        return Marks(torch.zeros(1, dtype=torch.int64), tokens=marks)

    def known(self, words: str, modality: str) -> Known | None:
        """How the model names it; None for other words, if they are allowed.

        What it was trained to find on one modality only has that name on the other one, too.

        Raises:
            NoSuchStructure: as `asked`.
        """
        found = anatomy.resolve(words)
        if own := KNOWN.get(modality, {}).get(found.name):
            return own
        other = next((table[found.name] for table in KNOWN.values() if found.name in table), None)
        if other is None and not self.open:
            raise NoSuchStructure(unknown(words, found))
        return None if other is None else replace(other, image="")

    def presence(self, prepared: Volume, window: Grid, logits: Array, words: str) -> float:
        """Of one slice: by the official test where there is a distribution, else the mean foreground probability."""
        probability = expit(logits[0, 0].astype(np.float64))
        if probability.max() <= 0.5:
            return float(probability.max()) if probability.max() < 0.5 else 0.0
        known = self.known(words, prepared.channels[0].modality)
        beta = self.distributions.get(known.image, {}).get(known.word) if known else None
        if not beta:
            return float(probability[probability > 0.5].mean())
        full = resized(torch.from_numpy(logits[:, 0])[None], (self.size, self.size))[0, 0].sigmoid().numpy()
        p = likeness(self.image(prepared, window), full, beta)
        return p / (p + self.p_value)

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits on the slice: resized to its padded square, the padding cut off."""
        height, width = window.shape[1:]
        top, left = padding(height, width)
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        full = resized(own, (height + 2 * top, width + 2 * left))[:, :, top : top + height, left : left + width]
        return np.ascontiguousarray(full[:, :, None].numpy())


def load(
    *,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    lift: Literal["slices", "orthogonal"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    turn: Literal["upright", "stored"] = "upright",
    site: Literal["abdomen", "lung", "pelvis", "liver", "colon", "pancreas"] = "abdomen",
    words: Literal["sentence", "name"] = "sentence",
    joint: bool = False,
    open: bool = False,
    p_value: float = P_VALUE,
) -> Worded | Orthogonal:
    """BiomedParse.

    Args:
        checkpoint: a file in the format of biomedparse_v1.pt, or its folder; None for the released weights.
        tokenizer: a folder or file with CLIP's tokenizer; None: beside the checkpoint, else "clip" in the weights
            folder.
        lift: "slices" asks every slice of a plane, "orthogonal" every slice of three planes, fused. A name says
            nothing that could be followed from one slice to the next.
        plane: of the slices.
        turn: "upright" shows rows to P and columns to L; "stored" the file's own order, as the original shows NIfTI.
        site: whose window a CT has.
        words: "sentence" asks "liver in abdomen CT", "name" asks "liver".
        joint: all targets of a call share one sequence of words and may change each other's answers, as in the
            original.
        open: ask for words that are not listed on the card, too.
        p_value: with target_dist.json in the weights folder, from which a slice shows the structure.

    Raises:
        WeightsError: weights or tokenizer are missing, damaged, or do not fit.
    """
    found = weights.opened(NAME, CARD, checkpoint=checkpoint, variant="v1")
    config = found.config.get("yaml", found.config)
    _refuse(config)
    network = net_of(found.shapes, config)
    own = {nets.ours(key): tensor for key, tensor in found.tensors.items()}
    weights.fill(network, own, what=CARD.title, unused=tuple(nets.UNUSED))
    frame = ParseFrame(
        _tokenizer(tokenizer, found.path.parent, network),
        network.predictor.lang_encoder.lang_encoder.positional_embedding.shape[0],
        plane=plane,
        turn=turn,
        site=site,
        words=words,
        joint=joint,
        open=open,
        distributions=_distributions(),
        p_value=p_value,
        size=int(found.config.get("image_size", SIZE)),
        mean=tuple(config.get("INPUT", {}).get("PIXEL_MEAN", MEAN)),
        std=tuple(config.get("INPUT", {}).get("PIXEL_STD", STD)),
    )
    parts = Parts(network, frame, None, found.digest)
    return Orthogonal(parts, lift=Worded) if lift == "orthogonal" else Worded(parts)


def published() -> list[Published]:
    """The released size, on the meta device: one slice, and one prompt of eight tokens."""
    with torch.device("meta"):
        network = nets.released()
        view = torch.empty(1, 3, 1, SIZE, SIZE)
        ids = torch.zeros(1, nets.LENGTH, dtype=torch.int64)
        pixels = torch.empty(1, nets.WIDTH, SIZE // 4, SIZE // 4)
        levels = [torch.empty(1, nets.WIDTH, SIZE // n, SIZE // n) for n in (32, 16, 8)]
        words = torch.empty(8, nets.WIDTH)
    stages = {
        "encoder": lambda: network.encode(view),
        "text": lambda: network.predictor.lang_encoder.lang_encoder(ids, torch.ones_like(ids)),
        "decoder": lambda: network.predictor(levels, pixels, words),
    }
    return [Published(label="", net=network, stages=stages, per="slice", input=f"3×{SIZE}×{SIZE}, one prompt")]


def net_of(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> nets.BiomedParseNet:
    """The untrained network of a checkpoint.

    Raises:
        WeightsError: its keys are not those of BiomedParse.
    """
    try:
        return nets.biomedparse_of(shapes, config)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"these weights are not of {CARD.title}: nothing at {error}") from error


def _refuse(config: Mapping[str, Any]) -> None:
    """Settings that change the net without a shape showing it, and that no released model has."""
    model = config.get("MODEL", {})
    tokenizer = model.get("TEXT", {}).get("TOKENIZER", "clip")
    if tokenizer != "clip" or model.get("DECODER", {}).get("PRE_NORM", False):
        raise WeightsError(
            f"config.json beside the checkpoint asks for TOKENIZER={tokenizer} or PRE_NORM; expected clip and post-norm"
        )


def _tokenizer(given: str | None, beside: Path, network: nets.BiomedParseNet) -> ClipTokenizer:
    """CLIP's tokenizer, with as many words as the net knows."""
    files = ("tokenizer.json", "vocab.json", Path(CARD.weights[1].file).name)
    places = [Path(given)] if given else [beside, weights.folder() / "clip"]
    place = next((p for p in places if given or any((p / file).is_file() for file in files)), None)
    if place is None or (not given and (place / files[2]).is_file() and place != beside):
        place = weights.require(NAME, CARD, variant="tokenizer")[CARD.weights[1].file]
    tokenizer = ClipTokenizer(place)
    wanted = len(network.predictor.lang_encoder.lang_encoder.token_embedding.weight)
    if tokenizer.size != wanted:
        raise WeightsError(
            f"{place} has {tokenizer.size:,} words and the weights {wanted:,}; they do not belong together"
        )
    return tokenizer


def _distributions() -> dict[str, Any]:
    """What target_dist.json in the weights folder says; {} without it."""
    file = CARD.weights[2].file
    if not (weights.folder() / file).is_file():
        return {}
    path = weights.require(NAME, CARD, variant="recognition")[file]
    return dict(json.loads(path.read_text(encoding="utf-8")))
