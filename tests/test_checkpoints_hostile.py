"""Hostile and broken checkpoints: each one is answered in one clear message, runs nothing and allocates nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hostile_checkpoints import BROKEN, GOOD, made
from segwise import assemble, catalog, weights
from segwise.cli import app as program
from segwise.errors import SegwiseError, WeightsError

torch = pytest.importorskip("torch")
MEMBERS = ("litemedsam", "sam")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def segwise(monkeypatch, capfd):
    """Run the program; (exit code, all it printed on one line)."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["segwise", *map(str, words)])
        monkeypatch.delenv("SEGWISE_DEBUG", raising=False)
        try:
            program.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, " ".join("".join(capfd.readouterr()).split())

    return run


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.float32), np.eye(4)), path)
    return path


def model(name: str):
    """A model's `load`; skips while the model is not there."""
    return pytest.importorskip(f"segwise.models.{name}").load


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) > 50


@pytest.mark.parametrize("name", BROKEN)
def test_reading_answers_in_one_message(name, tmp_path):
    path, canary, said = made(name, tmp_path)
    with pytest.raises(WeightsError, match=said) as caught:
        read = weights.read(path)
        from segwise.models import litemedsam

        weights.fill(litemedsam.net(), read.tensors, what="LiteMedSAM")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and "weights_only" not in message
    assert "expected" in message
    assert not canary.exists()


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("name", BROKEN)
def test_loading_a_model_raises_nothing_else(name, member, tmp_path):
    path, canary, _ = made(name, tmp_path)
    with pytest.raises(WeightsError) as caught:
        model(member)(checkpoint=str(path))
    assert "\n" not in str(caught.value) and not canary.exists()


@pytest.mark.slow
def test_every_model_that_takes_a_checkpoint_raises_nothing_else(tmp_path):
    members = [catalog.member("models", name) for name in catalog.names("models")]
    takers = [m for m in members if "checkpoint" in m.parameters]
    assert len(takers) >= 5
    for number, name in enumerate(BROKEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, canary, _ = made(name, folder)
        for member in takers:
            more = {"accept_non_commercial": "true"} if "accept_non_commercial" in member.parameters else {}
            words = ",".join(f"{k}={v}" for k, v in {"checkpoint": json.dumps(str(path)), **more}.items())
            with pytest.raises(SegwiseError) as caught:
                assemble.build(f"{member.name}({words})")
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 900, (member.name, name)
            assert not canary.exists()


@pytest.mark.parametrize("name", BROKEN)
def test_import_refuses_it_with_a_message_and_a_code(name, tmp_path, segwise):
    path, canary, _ = made(name, tmp_path)
    for words in (("import", path), ("import", "--trust", path)):
        code, printed = segwise("weights", *words)
        assert code == 2 and printed.startswith("error:") and "Traceback" not in printed, printed
        assert "checkpoint.pth" in printed
    assert not canary.exists()
    assert not [p for p in (tmp_path / "weights").rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", BROKEN)
def test_segment_refuses_it_with_a_message_and_a_code(name, tmp_path, segwise, scan):
    path, canary, _ = made(name, tmp_path)
    out = tmp_path / "mask.nii.gz"
    for member in MEMBERS:
        if member == "sam" and not _there("sam"):
            continue
        spec = f"{member}(checkpoint={json.dumps(str(path))})"
        code, printed = segwise("segment", scan, "-o", out, "-m", spec, "--box", "0,0,0,2,3,4")
        assert code == 2 and "error:" in printed and "Traceback" not in printed, printed
        assert "internal error" not in printed
        assert "checkpoint.pth" in printed or "these weights" in printed
    assert not canary.exists() and not out.exists()


def _there(member: str) -> bool:
    return member in catalog.names("models")


def test_places_that_are_no_files(tmp_path, segwise):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "folder": "is a folder without checkpoint.pth",
        "loop": "is a link that leads to no file",
        "dangling": "is a link that leads to no file",
        "pipe": "is no regular file",
        "none": "is not there",
    }
    for name, said in cases.items():
        with pytest.raises(WeightsError, match=said):
            weights.read(tmp_path / name)
        code, printed = segwise("weights", "import", tmp_path / name)
        assert code == 2 and printed.startswith("error:") and name in printed


def test_a_link_to_a_good_file_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(GOOD)
    (tmp_path / "b.pth").symlink_to(tmp_path / "a.pth")
    assert list(weights.read(tmp_path / "b.pth").tensors) == ["w"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 200_000, "is not JSON"),
        (b'{"a":' * 200_000, "nested too deep|is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1, 2]", "holds a list, expected names with values"),
        (b'{"image_size": 1000000000}', r"image_size 1000000000, expected 1 to 16,384"),
        (b'{"img_size": [512, -1]}', "img_size .*, expected 1 to 16,384"),
        (b'{"a": "' + b"x" * 10_000_001 + b'"}', "expected at most 10,000,000"),
    ],
)
def test_the_config_beside_it(text, said, tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(GOOD)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(WeightsError, match=said) as caught:
        weights.read(tmp_path)
    assert len(str(caught.value)) < 500
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="leads to no file"):
        weights.read(tmp_path)


@pytest.mark.parametrize("value", [None, "x", [1e99], {}])
def test_a_config_of_wrong_kinds_is_one_message(value, tmp_path, parity_dir, segwise, scan):
    if not _there("sam") or not (parity_dir / "sam" / "checkpoint.pth").is_file():
        pytest.skip("no fixture or no model")
    (tmp_path / "sam").mkdir()
    for name in ("checkpoint.pth", "config.json"):
        (tmp_path / "sam" / name).write_bytes((parity_dir / "sam" / name).read_bytes())
    config = {**json.loads((tmp_path / "sam" / "config.json").read_text()), "decoder_num_heads": value}
    (tmp_path / "sam" / "config.json").write_text(json.dumps(config))
    spec = f"sam(checkpoint={json.dumps(str(tmp_path / 'sam'))})"
    code, printed = segwise("segment", scan, "-o", tmp_path / "m.nii.gz", "-m", spec, "--box", "0,0,0,2,3,4")
    assert code == 2 and "mend or remove config.json" in printed and "internal error" not in printed


def test_weights_of_the_right_names_and_wrong_values(tmp_path):
    from segwise.models import litemedsam

    right = litemedsam.net().state_dict()
    first = next(iter(right))
    cases = {
        "shape": ({**right, first: torch.zeros(7)}, r"is \(7,\), expected"),
        "missing": ({k: v for k, v in right.items() if k != first}, r"1 missing \(as "),
        "extra": ({**right, "evil": torch.zeros(1)}, r"1 not of this model \(as evil\)"),
        "nan": ({**right, first: torch.full_like(right[first], float("nan"))}, r"no numbers \(NaN\)"),
        "text": ({**right, "note": "hello"}, "expected names with tensors"),
    }
    for name, (content, said) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=said):
            litemedsam.load(checkpoint=str(tmp_path / f"{name}.pth"))
    torch.save({"model": right, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, tmp_path / "fine.pth")
    segmenter = litemedsam.load(checkpoint=str(tmp_path / "fine.pth"))
    assert segmenter.parts.weights.startswith("unknown:")


def test_tensors_within_themselves_and_a_thousand_names_for_one(tmp_path):
    loop: dict[str, object] = {"w": torch.zeros(2)}
    loop["me"] = loop
    torch.save({"model": {"w": torch.zeros(2)}, "loop": loop}, tmp_path / "loop.pth")
    assert list(weights.read(tmp_path / "loop.pth").tensors) == ["w"]
    one = torch.zeros(100_000)
    torch.save({f"w{i}": one for i in range(1000)}, tmp_path / "many.pth")
    with pytest.raises(WeightsError, match="more than the file"):
        weights.read(tmp_path / "many.pth")


def test_what_training_scripts_keep_is_read_as_plain_values(tmp_path):
    from argparse import Namespace

    content = {
        "network_weights": {"w": torch.ones(2)},
        "logging": {"losses": [np.float64(1.5), np.float32(2.5), np.int64(3)], "curve": np.arange(6.0).reshape(2, 3)},
        "args": Namespace(lr=0.1),
        "_best_ema": np.float64(0.75),
    }
    torch.save(content, tmp_path / "checkpoint_final.pth")
    read = weights.read(tmp_path / "checkpoint_final.pth")
    assert read.tensors["w"].tolist() == [1, 1]
    assert read.content["logging"]["losses"] == [1.5, 2.5, 3] and read.content["_best_ema"] == 0.75
    assert read.content["logging"]["curve"].array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert vars(read.content["args"]) == {"lr": 0.1}
    older = io.BytesIO()  # as NumPy 1 named its modules
    with zipfile.ZipFile(tmp_path / "checkpoint_final.pth") as source, zipfile.ZipFile(older, "w") as sink:
        for info in source.infolist():
            sink.writestr(info.filename, source.read(info).replace(b"numpy._core.", b"numpy.core."))
    (tmp_path / "older.pth").write_bytes(older.getvalue())
    assert weights.read(tmp_path / "older.pth").content["logging"]["losses"] == [1.5, 2.5, 3]
    torch.save({"w": torch.ones(2), "o": np.array([object()], dtype=object)}, tmp_path / "objects.pth")
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        weights.read(tmp_path / "objects.pth")


def test_memory_is_bounded(tmp_path):
    """All bombs in one process, whose memory in use may not grow by more than 200 MB."""
    pytest.importorskip("resource")
    bombs = [n for n in BROKEN if any(w in n for w in ("huge", "bomb", "lie", "past", "overflow"))]
    paths = []
    for name in bombs:
        (tmp_path / name).mkdir()
        paths.append(str(made(name, tmp_path / name)[0]))
    code = (
        "import resource, sys, torch\n"
        "from segwise import weights\nfrom segwise.errors import WeightsError\n"
        "weights_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        weights.tensors(__import__('pathlib').Path(path))\n        print('read', path)\n"
        "    except WeightsError as error:\n        pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - weights_before)\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200_000, done.stdout  # kilobytes
