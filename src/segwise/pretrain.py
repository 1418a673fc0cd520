"""From scans without labels to a pre-trained encoder: what `segwise pretrain MODEL DATA` does.

The folder that it leaves is where `segwise train MODEL DATA --from FOLDER` begins. No reference is ever read, also
where the data set has some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from segwise import assemble, catalog
from segwise.case import Case
from segwise.datasets import _files as trees
from segwise.datasets._case import make, modality_of, name_of
from segwise.errors import DatasetError
from segwise.evaluate import inventory
from segwise.learn import PLAN, Learning, Tick, Who, drawn, fresh, planned, trainable
from segwise.segmenter import Learned
from segwise.spec import parse
from segwise.training import masked, planning, prepared, splits
from segwise.training.labelled import Budget
from segwise.training.masked import MaskedNet, Masking
from segwise.weights import pretrained

NOTHING = "anything"  # the one label of a plan that is made without labels
DEPTH = 3  # of folders in which scans are looked for


def pretraining(
    model: str,
    who: Who,
    out: Path,
    budget: Budget,
    masking: Masking | None = None,
    *,
    patch: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    patch_voxels: int = 64**3,
    tick: Tick | None = None,
) -> Learning:
    """The encoder of a specialist, to be trained to complete scans of which parts are hidden; `learn.train` trains it.

    Args:
        model: spec of a specialist with a transformer, e.g. "unetr(width=96)".
        who: its targets are not looked at. A folder of a known layout, or any folder with scans: then every file is a
            case and a subject of its own.
        out: folder of checkpoint, log and encoder.
        budget: of the training.
        masking: None for the default.
        patch: (d, h, w) of a window; None: planned from the cases, of `patch_voxels` at most.
        spacing_mm: (d, h, w); None: planned.
        patch_voxels: see there.
        tick: told how far the preparation of the cases is.

    Raises:
        CatalogError: no such model. DatasetError: no scans.
        TrainingError: an encoder that cannot be trained so, no such masking, no scan of the modality, or nobody to
            learn from.
    """
    spec, masking = parse(model), masking or Masking()
    trainable(spec)
    splits.apart(out, who.data)
    everything = scans(who.data, who.layout, modality=who.modality)
    cases = splits.usable(everything, modality=who.modality)
    split = drawn(who, cases, everything)
    train, valid = split.of(cases, "train"), split.of(cases, "valid")
    splits.noted(split, out)
    path = out / PLAN
    if path.is_file() and splits.begun(out):
        planning.same(path, (NOTHING,), patch=patch, spacing_mm=spacing_mm)
    else:
        looked = None if tick is None else lambda i, n: tick(i, n, "looking at the cases")
        found = planning.unlabelled(train, looked)
        planned(path, spec, found, (NOTHING,), patch=patch, spacing_mm=spacing_mm, patch_voxels=patch_voxels)
    segmenter = assemble.segmenter(fresh(spec, path, budget.seed))
    assert isinstance(segmenter, Learned)
    net, frame = segmenter.parts.net, segmenter.parts.frame
    masked.cubes(masking, frame.shape, masked.maskable(net))  # before anything is prepared
    learned, held = (
        prepared.prepare(part, frame, (), out / "prepared", tick=tick, all_of_them=False) for part in (train, valid)
    )
    dataset = train[0].dataset
    data = {"dataset": dataset, "subjects": split.content}

    def save(folder: Path, trained: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        assert isinstance(trained, MaskedNet)
        return pretrained.write(
            folder,
            spec=str(spec),
            encoder=trained.encoder(),
            plan=path.read_bytes(),
            masking=asdict(masking),
            data=data,
            trained=known,
        )

    n_people = len(split.train)
    note = f"trained on scans of {n_people} subject{'s' * (n_people != 1)} of {dataset}, without labels"
    recipe = masked.recipe(str(spec), net, frame, masking, learned, held, budget, save, note)
    key = repr((str(spec), dataset, split, masking, replace(budget, validate_every=0)))
    version = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    whole = recipe.objective.net
    n = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    return Learning(
        replace(recipe, version=version),
        (),
        split,
        (len(train), len(valid)),
        n,
        sum(p.numel() for p in whole.parameters()),
        spec,
    )


def scans(root: Path, layout: str | None = None, *, modality: str = "") -> list[Case]:
    """The cases of a known layout; else every volume file in a folder, a case and a subject of its own.

    Cases without labels are there where the layout can tell what is a scan without them; those that cannot be read
    come as broken ones.

    Args:
        root: the folder.
        layout: of it, or None to find out.
        modality: what files of no layout are on the user's word, where neither their name nor the folder's tells.

    Raises:
        DatasetError: no folder, no scan in it, or two of one name.
    """
    known = [] if layout or not root.is_dir() else inventory.recognising(root)
    if layout or not root.is_dir() or known:
        try:
            return inventory.find(root, _without_labels(layout, known))[1]
        except DatasetError as error:
            if not known:
                raise
            raise DatasetError(
                f"{error}; where nothing is labelled give the folder that holds the scans alone, such as imagesTr"
            ) from error
    return _loose(root, modality)


def _without_labels(layout: str | None, known: Sequence[str]) -> str | None:
    """The layout to read a folder with, told that labels need not be there if it takes that.

    Args:
        layout: as the user says it, or None.
        known: the layouts that the folder looks like.

    Returns:
        A spec; None where it is not clear which layout it is.

    Raises:
        CatalogError: no such layout.
    """
    if not layout and len(known) != 1:
        return None
    spec = parse(layout or known[0])
    if "unlabelled" in catalog.member("datasets", spec.name).parameters:
        spec = replace(spec, args={"unlabelled": True, **spec.args})
    return str(spec)


def _loose(root: Path, modality: str) -> list[Case]:
    """Every volume file in a folder, a case and a subject of its own."""
    files = [path for folder in trees.within(root, DEPTH) for path in trees.volumes(folder)]
    names = [trees.stem(path) for path in files]
    if not files:
        raise DatasetError(f"{root}: no volume file in it; expected scans, as NAME.nii.gz, or a known layout")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(f"{root}: {', '.join(twice[:3])} is the name of more than one file; expected each once")
    return [
        make(
            root=root,
            layout="scans",
            id=name,
            subject=name,
            images=[path],
            labels=[],
            modality=modality_of(name) or modality_of(name_of(root)) or modality,
        )
        for name, path in zip(names, files, strict=True)
    ]
