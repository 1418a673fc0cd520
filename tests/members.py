"""Members from a temporary package with entry points: how a third party adds a model, and how tests meet strangers."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segwise import catalog


@contextmanager
def installed(folder: Path, sources: dict[str, str], *, package: str = "strangers") -> Iterator[Path]:
    """A package on the path whose members the catalogue finds.

    Args:
        folder: empty, e.g. tmp_path.
        sources: "models/closed.py" -> source. "_" in file names is "-" in specs.
        package: its name.
    """
    points: dict[str, list[str]] = {}
    for place, source in sources.items():
        path = folder / package / place
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in (folder / package, path.parent):
            (parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(source).lstrip(), encoding="utf-8")
        kind, stem = place.removesuffix(".py").split("/")
        if not stem.startswith("_"):
            points.setdefault(kind, []).append(f"{stem.replace('_', '-')} = {package}.{kind}.{stem}")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [line for kind, members in points.items() for line in (f"[segwise.{kind}]", *members)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    _forget(package)
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        _forget(package)


def _forget(package: str) -> None:
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    for value in vars(catalog).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


TOY_DATASET = '''
"""Small volumes: toy.json lists cases, images and labels lie beside it as .npy."""

import json
from pathlib import Path

import numpy as np

from segwise.card import DatasetCard
from segwise.case import Case, Structure
from segwise.geometry import Channel, Grid, Volume

CARD = DatasetCard(title="Toy", summary="For tests.", files=("toy.json",))


def recognises(root: Path) -> bool:
    return (root / "toy.json").exists()


def cases(root: Path, split: str | None = None) -> list[Case]:
    return [_case(root, item) for item in json.loads((root / "toy.json").read_text())["cases"]]


def _case(root, item):
    names = item["structures"]
    grid = Grid(tuple(item["shape"]), np.diag([3.0, 2.0, 1.5, 1.0])[[2, 1, 0, 3]])

    def labels():
        return np.load(root / f"{item['id']}.npy")

    def load():
        return Volume.of(np.load(root / f"{item['id']}_image.npy"), grid, (Channel(item["modality"]),))

    def load_masks(structures):
        array = labels()
        return [np.isin(array, s.values) for s in structures]

    return Case(
        id=item["id"], subject=item.get("subject", item["id"]), dataset="toy", layout="toy", modality=item["modality"],
        images=(), structures=tuple(Structure(n, n, (i + 1,)) for i, n in enumerate(names)),
        load=load, load_masks=load_masks,
    )
'''

CLOSED = '''
"""A closed list of labels, no prompt but a name: bright is liver, brighter is spleen; both thalami together."""

import numpy as np

from segwise.card import ModelCard
from segwise.errors import NoSuchStructure
from segwise.segmenter import Prediction, Segmenter, State

CARD = ModelCard(
    title="Closed", summary="Knows three labels.", family="specialist", takes=("text",),
    labels={"": ("liver", "spleen", "thalamus")},
)
RANGES = {"liver": (20, 60), "spleen": (60, 100), "thalamus": (100, 500)}


class Closed(Segmenter):
    digest, encoder = "closed", "closed"

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        return [self._one(state, ask) for ask in asks]

    def _one(self, state, ask):
        name = ask.prompt.on(state.grid).words[-1]
        if name not in RANGES:
            raise NoSuchStructure(f"closed does not know {name}")
        image = state.volume.array[0]
        low, high = RANGES[name]
        logits = np.minimum(image - low, high - image).astype(np.float32)
        return Prediction(ask.prompt, logits[None], state.grid)


def load() -> Closed:
    return Closed()
'''

TEXTUAL = '''
"""Asked in words, answers any; says how likely the target is there."""

import numpy as np

from segwise.card import ModelCard
from segwise.segmenter import Prediction, Segmenter, State

CARD = ModelCard(title="Textual", summary="Words in.", family="generalist", takes=("text",))


class Textual(Segmenter):
    digest, encoder = "textual", "textual"

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        found = []
        for ask in asks:
            words = ask.prompt.on(state.grid).words[-1]
            level = 40.0 * (1 + len(words) % 3)
            logits = (15 - np.abs(state.volume.array[:1] - level)).astype(np.float32)
            presence = 0.1 if words == "spleen" else 0.9
            found.append(Prediction(ask.prompt, logits, state.grid, None, presence))
        return found


def load() -> Textual:
    return Textual()
'''

STATEFUL = '''
"""Boxes and points, three candidates, and something carried from round to round; encodes through the store."""

import numpy as np

from segwise.card import ModelCard
from segwise.errors import PromptError
from segwise.segmenter import Prediction, Segmenter, State

CARD = ModelCard(
    title="Stateful", summary="Three candidates.", family="generalist", takes=("points", "box"), modalities=("CT",)
)


class Stateful(Segmenter):
    def __init__(self, width):
        self.width = width
        self.digest, self.encoder = f"stateful-{width}", "stateful"

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        return [self._one(state, ask) for ask in asks]

    def _one(self, state, ask):
        key = f"{self.encoder}:{state.volume.digest}"
        image = state.store.get([key], lambda missing: [state.volume.array[0].astype(np.float64)])[0]
        placed = ask.prompt.on(state.grid)
        seen = ask.previous.carry if ask.previous else 0
        if not len(placed.boxes) and not placed.positive.any():
            raise PromptError("nothing positive on this volume")
        inside = np.zeros(state.grid.shape, bool)
        for low, high in placed.boxes:
            inside[tuple(slice(a, b) for a, b in zip(low, high))] = True
        inside |= not len(placed.boxes)
        where = inside if not placed.positive.any() else tuple(np.rint(placed.points[placed.positive]).astype(int).T)
        level = np.median(image[where])
        widths = np.array([0.5, 1.0, 2.0]) * (self.width + seen)
        logits = (widths[:, None, None, None] - np.abs(image - level)) * np.where(inside, 1, -1) - 1000 * ~inside
        quality = np.array([0.2, 0.8, 0.5])
        return Prediction(ask.prompt, logits.astype(np.float32), state.grid, quality, None, seen + 1)


def load(*, width: float = 20.0) -> Stateful:
    return Stateful(width)
'''

THREE = {
    "datasets/toy.py": TOY_DATASET,
    "models/closed.py": CLOSED,
    "models/textual.py": TEXTUAL,
    "models/stateful.py": STATEFUL,
}
