"""MeshNet of brainchop: parts of the brain on T1 MR, from a closed list, without any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch

from segwise import anatomy, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.conform import SIZE, conform
from segwise.lifts.whole import Whole
from segwise.nets.flops import Published
from segwise.nets.meshnet import MeshNet, load_weights
from segwise.prompt import Prompt, Text
from segwise.segmenter import Frame, Parts, Tree

# fmt: off
CARD = ModelCard(
    title="MeshNet (brainchop)",
    summary="Names parts of the brain on a T1 MR of the head: 17 structures, tissue, cortical parcels, or all of it.",
    family="specialist",
    takes=("text",),
    labels={
        "subcortical": (
            "cerebral white matter", "cerebral cortex", "lateral ventricle", "inferior lateral ventricle",
            "cerebellar white matter", "cerebellar cortex", "thalamus", "caudate", "putamen", "pallidum",
            "third ventricle", "fourth ventricle", "brainstem", "hippocampus", "amygdala", "accumbens",
            "ventral diencephalon",
        ),
        "model18cls": (
            "cerebral white matter", "cerebral cortex", "lateral ventricle", "inferior lateral ventricle",
            "cerebellar white matter", "cerebellar cortex", "thalamus", "caudate", "putamen", "pallidum",
            "third ventricle", "fourth ventricle", "brainstem", "hippocampus", "amygdala", "accumbens",
            "ventral diencephalon",
        ),
        "model5_gw_ae": ("white matter", "gray matter",),
        "model21_104class": (
            "left banks of superior temporal sulcus cortex", "left caudal anterior cingulate cortex",
            "left caudal middle frontal cortex", "left cuneus cortex", "left entorhinal cortex",
            "left fusiform cortex", "left inferior parietal cortex", "left inferior temporal cortex",
            "left isthmus cingulate cortex", "left lateral occipital cortex", "left lateral orbitofrontal cortex",
            "left lingual cortex", "left medial orbitofrontal cortex", "left middle temporal cortex",
            "left parahippocampal cortex", "left paracentral cortex", "left pars opercularis cortex",
            "left pars orbitalis cortex", "left pars triangularis cortex", "left pericalcarine cortex",
            "left postcentral cortex", "left posterior cingulate cortex", "left precentral cortex",
            "left precuneus cortex", "left rostral anterior cingulate cortex", "left rostral middle frontal cortex",
            "left superior frontal cortex", "left superior parietal cortex", "left superior temporal cortex",
            "left supramarginal cortex", "left frontal pole cortex", "left temporal pole cortex",
            "left transverse temporal cortex", "left insular cortex", "right banks of superior temporal sulcus cortex",
            "right caudal anterior cingulate cortex", "right caudal middle frontal cortex", "right cuneus cortex",
            "right entorhinal cortex", "right fusiform cortex", "right inferior parietal cortex",
            "right inferior temporal cortex", "right isthmus cingulate cortex", "right lateral occipital cortex",
            "right lateral orbitofrontal cortex", "right lingual cortex", "right medial orbitofrontal cortex",
            "right middle temporal cortex", "right parahippocampal cortex", "right paracentral cortex",
            "right pars opercularis cortex", "right pars orbitalis cortex", "right pars triangularis cortex",
            "right pericalcarine cortex", "right postcentral cortex", "right posterior cingulate cortex",
            "right precentral cortex", "right precuneus cortex", "right rostral anterior cingulate cortex",
            "right rostral middle frontal cortex", "right superior frontal cortex", "right superior parietal cortex",
            "right superior temporal cortex", "right supramarginal cortex", "right frontal pole cortex",
            "right temporal pole cortex", "right transverse temporal cortex", "right insular cortex", "left thalamus",
            "right thalamus", "left caudate", "right caudate", "left putamen", "right putamen", "left pallidum",
            "right pallidum", "left hippocampus", "right hippocampus", "left amygdala", "right amygdala",
            "left accumbens", "right accumbens", "left ventral diencephalon", "right ventral diencephalon",
            "left cerebral white matter", "right cerebral white matter", "left lateral ventricle",
            "left inferior lateral ventricle", "right lateral ventricle", "right inferior lateral ventricle",
            "third ventricle", "fourth ventricle", "cerebrospinal fluid", "brainstem", "left cerebellar white matter",
            "right cerebellar white matter", "left cerebellar cortex", "right cerebellar cortex",
            "corpus callosum posterior", "corpus callosum mid posterior", "corpus callosum central",
            "corpus callosum mid anterior", "corpus callosum anterior",
        ),
        "model30chan50cls": (
            "cerebral white matter", "brain ventricles", "cerebellar white matter", "cerebellum", "thalamus",
            "caudate", "putamen", "pallidum", "brainstem", "hippocampus", "amygdala", "cerebrospinal fluid",
            "accumbens", "ventral diencephalon", "corpus callosum", "banks of superior temporal sulcus cortex",
            "caudal anterior cingulate cortex", "caudal middle frontal cortex", "cuneus cortex", "entorhinal cortex",
            "fusiform cortex", "inferior parietal cortex", "inferior temporal cortex", "isthmus cingulate cortex",
            "lateral occipital cortex", "lateral orbitofrontal cortex", "lingual cortex",
            "medial orbitofrontal cortex", "middle temporal cortex", "parahippocampal cortex", "paracentral cortex",
            "pars opercularis cortex", "pars orbitalis cortex", "pars triangularis cortex", "pericalcarine cortex",
            "postcentral cortex", "posterior cingulate cortex", "precentral cortex", "precuneus cortex",
            "rostral anterior cingulate cortex", "rostral middle frontal cortex", "superior frontal cortex",
            "superior parietal cortex", "superior temporal cortex", "supramarginal cortex", "frontal pole cortex",
            "temporal pole cortex", "transverse temporal cortex", "insular cortex",
        ),
        "mindgrab": ("brain",),
    },
    modalities=("MR",),
    dims=3,
    licence_code="Apache-2.0",
    licence_weights="MIT",
    paper="Fedorov et al., arXiv 1612.00940 (the net)",
    code="https://github.com/neuroneural/brainchop-models (3d81b59); licence at https://github.com/neuroneural/brainchop",
    weights=(
        WeightFile(
            file="meshnet/subcortical/model.pth",
            n_bytes=785768,
            sha256="aa5235ab3a034135277c47f8e7c32849895c6e31ee6c4e942d63a6aec5ff4ee4",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/subcortical/model.pth",
            variant="subcortical",
            signature="a597d33c4350061c354b1399c0a692e19526a51d57a6b66e91e2951c9f8d26f9",
        ),
        WeightFile(
            file="meshnet/model18cls/model.pth",
            n_bytes=387240,
            sha256="0798b61d58626010708284cab719f2674c817c789acb84e8eec5265a46e8fbbc",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/model18cls/model.pth",
            variant="model18cls",
            signature="21e72e36281a27ea0dacbb3d3281861aec82432c6aa006ad814f16748aa17d61",
        ),
        WeightFile(
            file="meshnet/model5_gw_ae/model.pth",
            n_bytes=23928,
            sha256="8b83b35b971305b9baeef9f927a5f0d4432c7beea60743f54e8d960031298ba3",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/model5_gw_ae/model.pth",
            variant="model5_gw_ae",
            signature="f64f4cbe5b4e6448b77b9e0b7abbb0890056af47ce6c6cabc6842ca0454349e8",
        ),
        WeightFile(
            file="meshnet/model21_104class/model.pth",
            n_bytes=346936,
            sha256="09e80b88aac5069cf536114c9082a30e574c2ef12fbd396cd7c02e8ccb025622",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/model21_104class/model.pth",
            variant="model21_104class",
            signature="1aa6ac0ed884f949797a0df77bd879b7cbd08e6028a227e8777f0a69e78195af",
        ),
        WeightFile(
            file="meshnet/model30chan50cls/model.pth",
            n_bytes=789736,
            sha256="4e411f33ad72148bda65e75ba5780bf95039dd29a8227165078e8f84fc407085",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/model30chan50cls/model.pth",
            variant="model30chan50cls",
            signature="ed5e84f7708e7dd04278cee352b53efa8f5991b3df76556ea5a45a05b0a2f4cf",
        ),
        WeightFile(
            file="meshnet/mindgrab/model.pth",
            n_bytes=595371,
            sha256="31f1bda17b8d3eee17a54cf3f199899763a6615a049f05ab2a05f18eb98ec23a",
            url="https://raw.githubusercontent.com/neuroneural/brainchop-models/3d81b598b4c3d09e61d8a3664247fc939ccd384c/meshnet/mindgrab/model.pth",
            variant="mindgrab",
            signature="1dac10e9ab285f7cf81b1439a777b241308b97f6ad6b81597619c770d2cfe52f",
        ),
    ),
    training_sets=(),
    training_note=(
        "FreeSurfer-style labels of T1 images (aparc+aseg); which persons is not stated in its repositories. "
        "Agreement with FreeSurfer labels is agreement with its teacher, not accuracy"
    ),
    parameters_m=0.2,
    memory="1.9 GB at its peak for 256^3 voxels with 30 channels: planes stream through all layers in slabs",
    input=(
        "first channel, conformed: 256^3 voxels of 1 mm along the patient's axes, array axes to L, I, A, robustly "
        "scaled to 8 bits; then its 2 % and 98 % quantiles to 0 and 1, cut. T1 of the head, skull on or off"
    ),
    deviations=(
        "mindgrab: the bias of the last layer is in the weight file and is used (last_bias=true), as in the browser; "
        "the Python package brainchop 0.2.5 drops it (last_bias=false)",
        "the input is conformed as niimath does it, but for single grey levels of rounding on most images; on one of "
        "3 mm voxels up to 18 of 255 grey levels differed",
        "the browser crops to the brain and scales by minimum and maximum for most variants; this follows the package",
    ),
    seconds_hint=70.0,
)
# fmt: on
LOW, HIGH, EPS = 0.02, 0.98, 1e-3  # quantiles of the whole volume, background included


class _Layers(NamedTuple):
    """What the layer list (model.json) of a variant says."""

    channels: int
    dilations: tuple[int, ...]
    activation: str
    norm: bool = False


_UP_AND_DOWN = (1, 2, 4, 8, 16, 8, 4, 2, 1)
_LAYERS = {
    "subcortical": _Layers(30, _UP_AND_DOWN, "elu"),
    "model18cls": _Layers(21, _UP_AND_DOWN, "elu"),
    "model5_gw_ae": _Layers(5, _UP_AND_DOWN, "relu"),
    "model21_104class": _Layers(21, (1, 2, 2, 4, 4, 8, 8, 16), "relu"),
    "model30chan50cls": _Layers(30, _UP_AND_DOWN, "elu"),
    "mindgrab": _Layers(15, (16, 8, 4, 2, 1) * 5, "gelu", norm=True),
}


def load(
    *,
    variant: Literal[
        "subcortical", "model18cls", "model5_gw_ae", "model21_104class", "model30chan50cls", "mindgrab"
    ] = "subcortical",
    tidy: bool = True,
    last_bias: bool = True,
) -> Whole:
    """The model.

    Args:
        variant: which net: 17 structures (subcortical; smaller: model18cls), white and gray matter (model5_gw_ae),
            structures and cortical parcels with sides (model21_104class) or without (model30chan50cls), all (mindgrab).
        tidy: keep the largest 26-connected component of everything labelled, as brainchop does.
        last_bias: False drops the bias of mindgrab's last layer, as the Python package does; no effect on the others.

    Raises:
        WeightsError: its weights are not here; says what to type.
    """
    path = weights.require("meshnet", CARD, variant=variant)[f"meshnet/{variant}/model.pth"]
    model = net(variant, last_bias=last_bias)
    load_weights(model, weights.tensors(path))
    labels = labels_of(variant)
    dropped = "" if last_bias or variant != "mindgrab" else " without last bias"
    return Whole(Parts(model.eval(), Conformed(labels), labels, weights.digest(path) + dropped), tidy=tidy)


def net(variant: str, *, last_bias: bool = True) -> MeshNet:
    """The untrained net of a variant."""
    layers = _LAYERS[variant]
    return MeshNet(
        channels=layers.channels,
        classes=len(labels_of(variant)) + 1,
        dilations=layers.dilations,
        activation=layers.activation,
        norm=layers.norm,
        last_bias=last_bias or not layers.norm,
    )


def published() -> list[Published]:
    """The released nets on the meta device: they have no encoder and decoder, every layer sees the whole volume."""
    found = []
    for variant in _LAYERS:
        with torch.device("meta"):
            network, image = net(variant), torch.empty(1, 1, SIZE, SIZE, SIZE)
        stages = {"whole net": partial(network, image)}
        shown = f"1×{SIZE}×{SIZE}×{SIZE}, all labels"
        found.append(Published(label=f"variant={variant}", net=network, stages=stages, per="volume", input=shown))
    return found


def labels_of(variant: str) -> tuple[str, ...]:
    """The labels of a variant, in channel order without background."""
    return (CARD.labels or {})[variant]


class Conformed(Frame[tuple[str, ...]]):
    """brainchop's preprocessing; its marks are the labels that a text means.

    Args:
        labels: the closed list.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.shape = (SIZE, SIZE, SIZE)
        self.digest = f"conform 2, quantiles {LOW} {HIGH} {EPS}"

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, 256, 256, 256] in 0..1, conformed."""
        conformed = conform(volume)
        return Volume.of(normalised(conformed.array), conformed.grid, conformed.channels)

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """All of it: the net sees the whole volume."""
        return grid

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, D, H, W]: the part of the prepared volume that the window shows, 0 beyond."""
        return np.asarray(regrid(prepared.array, prepared.grid, window, order=0, outside=0.0), dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> tuple[str, ...]:
        """The labels that the prompt's last text means: one, or both sides of a pair.

        Raises:
            NoSuchStructure: none of them.
            PromptError: there is no text.
        """
        words = [mark.words for mark in prompt.marks if isinstance(mark, Text)]
        if not words:
            raise PromptError("meshnet takes a structure's name as text")
        return anatomy.among(words[-1], self.labels)

    def follow(self, mask: Array, window: Grid) -> tuple[str, ...]:
        """Nothing: a mask names no label."""
        return ()


def normalised(values: Array) -> Array:
    """Values to 0..1 by two quantiles of all of them, cut; float32, as brainchop's qnormalize."""
    low, high = np.quantile(values.astype(np.float32), [LOW, HIGH])
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low + EPS)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)
