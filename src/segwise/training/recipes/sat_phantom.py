"""The small SAT: names, a presence score and masks on synthetic bodies, from nothing.

The untrained net is written and opened like any checkpoint of SAT, so that what trains is what `sat` loads: its frame
makes the views and the queries.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise import assemble
from segwise.geometry import Array, Volume, regrid
from segwise.nets import sat as nets
from segwise.nets.contract import Marks
from segwise.nets.nnunet import Architecture
from segwise.nets.sat_text import TextTower
from segwise.segmenter import Learned
from segwise.training import named_bodies
from segwise.training.contract import Measures, Recipe, Settings

STEPS = 4500
POOL = 600  # scans, made once and varied anew each time
CHECKED = range(POOL, POOL + 6)  # scans of the learning curve
PATCH, SPACING_MM = (64, 48, 32), (5.0, 5.0, 5.0)
FEATURES = (16, 32, 48, 64, 96)
HEADS, TEXT_HEADS = 4, 4
WIDTH = 64
SAMPLED = 0.35  # of the voxels that a step looks at
DEEP = 0.5  # weight of the coarse maps' own answers, together with each other
GROUND = 0.4  # weight of what has no name, of that of all names together
EVEN = -0.6  # voxels of small structures weigh more: without it only the large ones are learned
LEAST_VOXELS = 4  # a smaller rest of a structure is neither there nor not
GHOST_VOXELS = 100  # of what is not there that count as half a mistake
TOP = 8  # voxels whose mean logit says whether it is there
NAMES = named_bodies.NAMES


def recipe(*, seed: int, steps: int | None = None) -> Recipe:
    """The small SAT of the package.

    Args:
        seed: of everything drawn.
        steps: of the optimiser; None for those of the package's weights.
    """
    torch.manual_seed(seed)
    net = _fresh()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), net, {})
        opened = assemble.build(f"sat(checkpoint={json.dumps(folder)})").segmenter
    if not isinstance(opened, Learned):
        raise TypeError("sat is no learned model")
    frame: Any = opened.parts.frame
    return Recipe(
        name="sat-phantom",
        objective=Named(Taught(net), frame),
        stream=Bodies(frame, seed),
        settings=Settings(steps=steps or STEPS, rate=2e-3, average=0.995, seed=seed, validate_every=500),
        save=save,
        note="trained on synthetic bodies only (abdomen and thorax of segwise.synth), no patient's data",
    )


@dataclass(frozen=True)
class Bodies:
    """Views of scans with their labels.

    Attributes:
        frame: of the model.
        seed: of the order and of the variations.
    """

    frame: Any
    seed: int

    def batch(self, index: int) -> dict[str, Any]:
        """One view: "image" float32 [1, D, H, W], "labels" uint8 [D, H, W], what its names and modality are."""
        rng = np.random.default_rng([self.seed, index])
        _, found = named_bodies.scan(int(rng.integers(POOL)))
        volume, labels = named_bodies.varied(found, rng)
        image, seen = viewed(self.frame, volume, labels, rng)
        modality = volume.channels[0].modality
        return {"image": image, "labels": seen, "names": found.names, "modality": modality}


def viewed(frame: Any, volume: Volume, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """What the model sees of a volume in one window, and the labels there."""
    prepared = frame.prepare(volume)
    centre = []
    for n, side in zip(prepared.grid.shape, frame.shape, strict=True):
        low = int(rng.integers(0, n - side + 1)) if n > side else -((side - n) // 2)
        centre.append(low + side // 2)
    window = frame.window(prepared.grid, centre)
    return frame.view(prepared, window), regrid(labels, volume.grid, window, order=0, outside=0)


class Taught(nn.Module):
    """The net, and heads on its coarse maps that only its training has.

    Args:
        sat: the net.
    """

    def __init__(self, sat: nets.SatNet) -> None:
        super().__init__()
        self.sat = sat
        self.coarse = nn.ModuleList(nn.Conv3d(width, len(NAMES) + 1, 1) for width in FEATURES[-2:0:-1])


@dataclass
class Named:
    """Names of what is in a view and of what is not.

    Attributes:
        net: what is trained.
        frame: of the model.
    """

    net: Taught
    frame: Any
    _said: dict[tuple[str, str], Marks] = field(default_factory=dict)

    def losses(self, batch: Mapping[str, Any], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a view: every name is asked."""
        *coarse, full, found = self._answers(batch, NAMES)
        voxels = torch.from_numpy(rng.permutation(full[0].numel())[: int(SAMPLED * full[0].numel())])
        classes = _classes(batch, NAMES).flatten()[voxels]
        loss, shown = _loss((found @ full.flatten(1)[:, voxels.to(full.device)]).float(), classes.to(full.device))
        deep = [self._coarse(i, one, _classes(batch, NAMES)) for i, one in enumerate(coarse)]
        yield loss + DEEP * torch.stack(deep).mean() * len(deep), shown

    def answered(self, batch: Mapping[str, Any], names: Sequence[str]) -> Tensor:
        """Logits [Q, D, H, W] of some names: as `words` and `decode` of the net, for all of them at once."""
        *_, full, found = self._answers(batch, names)
        return (found @ full.flatten(1)).view(len(names), *full.shape[1:]).float()

    def _answers(self, batch: Mapping[str, Any], names: Sequence[str]) -> list[Tensor]:
        """The decoder's maps [F, D, H, W], the finest last, and what the names make of it [Q, F]."""
        net, device = self.net.sat, next(self.net.parameters()).device
        seen, place, maps = net.pyramid(torch.from_numpy(batch["image"])[None].to(device))
        asked = [self._asked(name, batch["modality"]) for name in names]
        tokens = {key: torch.cat([marks.tokens[key] for marks in asked]).to(device) for key in asked[0].tokens}
        longest = int(tokens["mask"].sum(1).max())
        queries = net.text(tokens["ids"][:, :longest], tokens["mask"][:, :longest], tokens["modality"])
        found = net.mask(net.query_decoder(queries[None], seen, place[None]))[0]
        return [*(one[0] for one in maps), found]

    def _coarse(self, i: int, features: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy of a coarse map's own answer [C, d, h, w]."""
        step = classes.shape[0] // features.shape[1]
        there = classes[step // 2 :: step, step // 2 :: step, step // 2 :: step].to(features.device)
        return _shared(self.net.coarse[i](features[None])[0].float().flatten(1), there.flatten())

    def _asked(self, name: str, modality: str) -> Marks:
        if (name, modality) not in self._said:
            self._said[name, modality] = self.frame.asked(name, modality=modality)
        return self._said[name, modality]

    def validate(self) -> Measures:
        """Mean DSC of what is there, and how often presence is right, on other scans of the generator."""
        overlaps, right = [], []
        for number in CHECKED:
            _, found = named_bodies.scan(number)
            image, seen = viewed(self.frame, found.volume, found.labels, np.random.default_rng(number))
            modality = found.volume.channels[0].modality
            logits = self.answered({"image": image, "modality": modality}, NAMES).cpu().numpy()
            labels = {name: label for label, name in found.names.items()}
            for name, answer in zip(NAMES, logits > 0, strict=True):
                mask = seen == labels.get(name, -1)
                right.append(bool(answer.any()) == bool(mask.any()))
                if mask.any():
                    overlaps.append(2 * float((mask & answer).sum()) / float(mask.sum() + answer.sum()))
        return {"dsc": float(np.mean(overlaps)), "presence": float(np.mean(right))}


def _classes(batch: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """int64 [D, H, W]: 0, or 1 + which of some names is there."""
    table = np.zeros(256, dtype=np.int64)
    for label, name in batch["names"].items():
        table[label] = names.index(name) + 1 if name in names else 0
    return torch.from_numpy(table[batch["labels"]])


def _shared(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of [C, N] against int64 [N], in which small structures count nearly as much as large ones.

    A voxel weighs its class's size to the power of `EVEN`; all that has a name together 1, what has none `GROUND`.
    """
    counts = torch.bincount(classes, minlength=len(logits)).float()
    weight = torch.where(counts > 0, counts.clamp(min=LEAST_VOXELS) ** EVEN, torch.zeros_like(counts))
    weight = weight / (weight * counts)[1:].sum().clamp(min=1e-9)
    weight[0] = GROUND / counts[0].clamp(min=1)
    return F.cross_entropy(logits.T, classes, weight=weight, reduction="sum")


def _loss(logits: Tensor, classes: Tensor) -> tuple[Tensor, Measures]:
    """What trains names [Q, N] at some voxels against classes int64 [N], 0 or 1 + the name that is there.

    The names compete with each other and with 0 for each voxel (a softmax: by itself each learns many times slower);
    each is a mask of its own; and its greatest logits say whether it is there at all.
    """
    shared = _shared(torch.cat([torch.zeros_like(logits[:1]), logits]), classes)
    wanted = (classes == torch.arange(1, len(logits) + 1, device=logits.device)[:, None]).float()
    size = wanted.sum(1)
    sure, here = (size == 0) | (size >= LEAST_VOXELS), size >= LEAST_VOXELS
    cross = F.binary_cross_entropy_with_logits(logits, wanted)
    probable = logits.sigmoid()
    dice = 1 - (2 * (probable * wanted).sum(1) + 1) / (probable.sum(1) + size + 1)
    overlap = dice[here].sum() / here.sum().clamp(min=1)
    top = logits[sure].topk(TOP, dim=1).values.mean(1)
    presence = F.binary_cross_entropy_with_logits(top, here[sure].float())
    painted = probable[size == 0].sum(1)
    ghost = (painted / (painted + GHOST_VOXELS)).sum() / max(1, len(painted))
    parts = {"shared": shared, "cross": cross, "dice": overlap, "presence": presence, "ghost": ghost}
    loss = shared + 0.5 * (cross + overlap) + 0.3 * ghost + 0.6 * presence
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def save(out: Path, net: nn.Module, known: Mapping[str, Any]) -> list[Path]:
    """The files that `sat` loads: vision, words, tokenizer, and what no shape tells."""
    seeing, reading = _official((net.sat if isinstance(net, Taught) else net).state_dict())
    said = {
        "heads": HEADS,
        "text_heads": TEXT_HEADS,
        "patch": list(PATCH),
        "spacing_mm": list(SPACING_MM),
        "names": list(NAMES),
        "trained": {"on": "synthetic bodies only", **{key: known[key] for key in ("seed", "steps") if key in known}},
    }
    files = [out / name for name in ("checkpoint.pth", "text_encoder.pth", "vocab.txt", "config.json")]
    torch.save({"model_state_dict": seeing}, files[0])
    torch.save({"model_state_dict": reading}, files[1])
    files[2].write_text("\n".join(_vocabulary()) + "\n", encoding="utf-8")
    files[3].write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return files


def _official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Half precision under the names that SAT's loader expects, without those that repeat another one."""
    seeing, reading = {}, {}
    for key, value in state.items():
        half = value.half() if value.is_floating_point() else value
        half = half.detach().cpu().contiguous().clone()
        if key.startswith("text."):
            reading[key.removeprefix("text.")] = half
        elif ".all_modules." not in key and not key.startswith("backbone.decoder.encoder."):
            seeing[key.replace("see.", "projection_layer.", 1).replace("mask.", "mask_embed_proj.", 1)] = half
    return seeing, reading


def _vocabulary() -> list[str]:
    words = sorted({word for name in NAMES for word in name.split()})
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]


def _fresh() -> nets.SatNet:
    from transformers import BertConfig, BertModel

    n = len(FEATURES)
    plan = Architecture(
        residual=False,
        dims=3,
        features=FEATURES,
        kernels=((3, 3, 3),) * n,
        strides=((1, 1, 1), *(((2, 2, 2),) * (n - 1))),
        n_encoder=(1, 2, 2, 2, 2),
        n_decoder=(1,) * (n - 1),
        norm_kwargs={"eps": 1e-5, "affine": True},
        nonlin_kwargs={},
    )
    bert = BertConfig(
        attn_implementation="eager",
        vocab_size=len(_vocabulary()),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=TEXT_HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = TextTower(BertModel(bert, add_pooling_layer=False), width=WIDTH, inner=WIDTH, out=WIDTH, modalities=4)
    net = nets.SatNet(
        plan, text, channels=1, width=WIDTH, inner=96, mask_inner=WIDTH, layers=2, heads=HEADS, feed_forward=2 * WIDTH
    )
    with torch.no_grad():
        last: Any = net.mask[2]
        last.bias.fill_(-0.2)  # nothing is anywhere, until an image says so; lower, GELU has no slope to leave by
        finest: Any = net.backbone["decoder"]
        finest.stages[-1].convs[-1].norm.weight.fill_(4.0)  # an embedding can say no by 0.17 of a feature only
        words: Any = text.projection[2]
        words.weight.mul_(4.0)
        text.lm.get_submodule("embeddings.word_embeddings").get_parameter("weight").mul_(10)  # few words: far apart
        text.modality.weight.mul_(0.2)
    return net
