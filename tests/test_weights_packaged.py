"""Weights that come with Segwise: found without a folder, never fetched, imported or packed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from segwise import catalog, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights import local

BYTES = b"tensors of our own"
FILE = WeightFile(file="own/small.pth", n_bytes=len(BYTES), sha256=hashlib.sha256(BYTES).hexdigest(), packaged=True)
CARD = ModelCard(title="Own", summary="Ours.", family="generalist", takes=("text",), weights=(FILE,))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one file, and a weights folder without any."""
    monkeypatch.setattr(local, "PACKAGED", tmp_path / "package")
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(catalog, "names", lambda kind: ("own",))
    monkeypatch.setattr(catalog, "card", lambda kind, name: CARD)
    path = tmp_path / "package" / "own" / "small.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    return path


def test_they_are_there_without_a_folder(package):
    assert weights.require("own", CARD) == {"own/small.pth": package}
    (found,) = weights.status()
    assert (found.state, found.source, found.where) == ("present", "package", package)
    assert weights.verify()[0].state == "right"
    assert weights.pull("own").fetched == ()


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_what_is_wrong_with_them_is_mended_by_installing_again(package, harm):
    if harm == "missing":
        package.unlink()
    else:
        package.write_bytes(BYTES[::-1])
    with pytest.raises(WeightsError, match="install Segwise again"):
        weights.require("own", CARD)
    with pytest.raises(WeightsError, match="install Segwise again"):
        weights.pull("own")


def test_importing_them_again_writes_nothing(package, tmp_path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes(BYTES)
    before = package.stat()
    (done,) = weights.import_file(copy)
    assert (done.path, done.known) == (package, True)
    assert package.stat().st_mtime_ns == before.st_mtime_ns
    assert not (tmp_path / "none").exists()


def test_they_are_not_packed(package, tmp_path):
    with pytest.raises(WeightsError, match="no weights"):
        weights.pack(tmp_path / "all.tar", ())


def test_a_name_outside_the_package_is_refused(package):
    with pytest.raises(WeightsError, match="inside the weights folder"):
        local.place(replace(FILE, file="../small.pth"))
