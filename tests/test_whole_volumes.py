"""Models that see a whole volume: rule 3 of the architecture with meshnet's own frame and lift around a tiny net."""

from __future__ import annotations

import members
import test_contracts_models as contracts

STAND_IN = '''
"""Three brightness classes on conformed volumes, slab by slab: a net of no weights in meshnet's frame and lift."""

import torch

from segwise.card import ModelCard
from segwise.lifts.whole import Whole
from segwise.models.meshnet import Conformed
from segwise.nets.contract import StreamedNet
from segwise.segmenter import Parts

LABELS = ("thalamus", "caudate")
CARD = ModelCard(
    title="Levels",
    summary="Bright, brighter.",
    family="floor",
    takes=("text",),
    labels={"": ("thalamus", "caudate")},
    modalities=("MR",),
    seconds_hint=10.0,
)


class Levels(StreamedNet):
    def forward(self, image):
        return [torch.cat(list(self.slabs(image)), dim=2)]

    def slabs(self, image):
        for slab in image.split(64, dim=2):
            yield torch.cat([0.5 - slab, slab - 0.4, 3 * slab - 2.0], dim=1)


def load() -> Whole:
    return Whole(Parts(Levels(), Conformed(LABELS), LABELS, "none"))
'''


def test_a_whole_volume_model_cannot_see_the_reference(tmp_path):
    with members.installed(tmp_path, {"models/levels.py": STAND_IN}, package="levelled"):
        contracts.check_blind("levels")
