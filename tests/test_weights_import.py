"""Importing any checkpoint: recognised by digest, by exact tensors, by names; converted only where it must be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from segwise import catalog, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import CatalogError, WeightsError
from segwise.weights import local
from segwise.weights.recognise import fits
from segwise.weights.tensors import signature_of

torch = pytest.importorskip("torch")
SHAPES = {"body.0.weight": (4, 3, 3, 3), "body.0.bias": (4,), "head.weight": (2, 4)}
KEYS = (r"^body\.0\.weight \d+x\d+x\d+x\d+$", r"^head\.", "!Adapter")


def state(seed: int = 0, *, wide: int = 4) -> dict[str, object]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {**SHAPES, "body.0.weight": (wide, 3, 3, 3), "body.0.bias": (wide,), "head.weight": (2, wide)}
    return {key: torch.rand(shape, generator=draw) for key, shape in shapes.items()}


def saved(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(*files: WeightFile, keys: tuple[str, ...] = KEYS, **more: object) -> ModelCard:
    facts = {"title": "Toy", "summary": "", "family": "generalist", "takes": ("box",), "licence_weights": "MIT"}
    return ModelCard(**{**facts, "weights": files, "keys": keys, **more})


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_known", {})
    return tmp_path / "weights"


@pytest.fixture
def models(monkeypatch) -> dict[str, ModelCard]:
    cards: dict[str, ModelCard] = {}

    def one(kind: str, name: str) -> ModelCard:
        if name not in cards:
            raise CatalogError(f"no model {name}")
        return cards[name]

    monkeypatch.setattr(catalog, "names", lambda kind: tuple(cards))
    monkeypatch.setattr(catalog, "card", one)
    return cards


def released(name: str = "toy/a.pth", **more: object) -> WeightFile:
    return WeightFile(**{"file": name, "n_bytes": 0, "signature": signature_of(SHAPES.items()), **more})


def test_a_file_that_no_source_describes_is_placed_and_stays_unknown(home, models, tmp_path):
    models["toy"] = card(released())
    source = saved(tmp_path / "download.pth", state())
    (done,) = weights.import_file(source)
    assert (done.file, done.known, done.trusted, done.spec) == ("toy/a.pth", False, False, "toy")
    assert [s.state for s in weights.status()] == ["unverified"]
    read = weights.opened("toy", models["toy"])
    assert read.digest == f"unknown:{sha(source)}" and set(read.tensors) == set(SHAPES)
    (done,) = weights.import_file(source, trust=True)  # the user vouches: no longer unknown
    assert done.trusted and weights.opened("toy", models["toy"]).digest == sha(source)
    assert [s.state for s in weights.status()] == ["trusted"]


def test_a_second_file_without_a_known_digest_does_not_replace_the_first(home, models, tmp_path):
    models["toy"] = card(released())
    first = saved(tmp_path / "first.pth", state(1))
    assert weights.import_file(first)[0].file == "toy/a.pth"
    second = saved(tmp_path / "second.pth", state(2))
    assert weights.import_file(second)[0].file == f"imported/toy/{sha(second)[:12]}/checkpoint.pth"
    assert weights.digest(home / "toy/a.pth") == sha(first)
    assert weights.import_file(second, trust=True)[0].file == "toy/a.pth"  # the user says that it is the one
    assert weights.digest(home / "toy/a.pth") == sha(second)


def test_other_sizes_are_kept_as_one_more_checkpoint_with_their_configuration(home, models, tmp_path):
    models["toy"] = card(released())
    source = saved(tmp_path / "small" / "checkpoint.pth", {"model": state(wide=2), "optimizer": {}})
    (tmp_path / "small" / "config.json").write_text('{"heads": 2}')
    (done,) = weights.import_file(tmp_path / "small")
    folder = home / "imported" / "toy" / sha(source)[:12]
    assert done.path == folder / "checkpoint.pth" and not done.change and done.spec == f'toy(checkpoint="{folder}")'
    assert done.path.read_bytes() == source.read_bytes()
    read = weights.opened("toy", models["toy"], checkpoint=str(folder))
    assert read.config == {"heads": 2} and read.digest.startswith("unknown:")
    weights.import_file(source, trust=True)
    assert not weights.read(folder).digest.startswith("unknown:")
    assert weights.import_file(source)[0].path == done.path  # again: the same place


@pytest.mark.parametrize(
    ("wrap", "change"),
    [
        (lambda s: {f"module.{k}": v for k, v in s.items()}, 'without "module." before all names'),
        (lambda s: {f"_orig_mod.net.{k}": v for k, v in s.items()}, 'without "_orig_mod.net." before all names'),
        (lambda s: {"ema": s, "epoch": 3}, 'taken out of "ema"'),
        (lambda s: {"trainer": {"student": s}, "epoch": 3}, 'taken out of "trainer"."student"'),
        (
            lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
            'without "model." before all names',
        ),
        (lambda s: {"model": s, "optimizer": {}}, ""),
        (lambda s: s, ""),
    ],
)
def test_conversion_only_where_no_model_would_load_it(home, models, tmp_path, wrap, change):
    models["toy"] = card(keys=KEYS)
    own = state(wide=3)
    source = saved(tmp_path / "mine.pth", wrap(own))
    (done,) = weights.import_file(source)
    assert done.change == change and (sha(done.path) == sha(source)) == (not change)
    got = weights.read(done.path).tensors
    assert set(got) == set(own) and all(torch.equal(got[k], own[k]) for k in own)
    assert weights.read(done.path).digest.startswith("unknown:")


def test_models_that_share_a_net_are_told_apart_by_digest_by_file_name_or_by_the_user(home, models, tmp_path):
    right = saved(tmp_path / "somewhere.pth", state(1))
    models["one"] = card(released("one.pth", sha256=sha(right), n_bytes=right.stat().st_size))
    models["two"] = card(released("two.pth"))
    assert [d.model for d in weights.import_file(right)] == ["one"]
    assert [d.model for d in weights.import_file(saved(tmp_path / "two.pth", state(2)))] == ["two"]
    other = saved(tmp_path / "mine.pth", state(3))
    with pytest.raises(WeightsError, match=r"tensors of one \(one\.pth\) or two \(two\.pth\), .* --as one"):
        weights.import_file(other)
    assert [d.model for d in weights.import_file(other, model="two")] == ["two"]
    small = saved(tmp_path / "small.pth", state(4, wide=2))
    with pytest.raises(WeightsError, match=r"tensors of one or two, which share one net: say which, .* --as one"):
        weights.import_file(small)
    assert weights.import_file(small, model="one")[0].path.parent.parent.name == "one"
    with pytest.raises(CatalogError):
        weights.import_file(small, model="three")


def test_strangers_are_refused_even_with_trust_and_a_name(home, models, tmp_path):
    models["toy"] = card(released())
    adapted = {**state(wide=2), "body.0.Adapter": torch.zeros(1)}
    for content in ({"x": torch.zeros(1)}, adapted):
        source = saved(tmp_path / "x.pth", content)
        with pytest.raises(WeightsError, match="is of no model that Segwise knows"):
            weights.import_file(source, trust=True)
        with pytest.raises(WeightsError, match="has not the tensors of toy that Segwise knows"):
            weights.import_file(source, model="toy")
    assert not [p for p in home.rglob("*") if p.is_file()]


def test_patterns_are_searched_line_by_line():
    lines = ["a.weight 2x3", "b.bias 4"]
    assert fits((r"^a\.weight \d+x\d+$", "!^c"), lines) and fits((), lines)
    assert not fits((r"^weight",), lines) and not fits(("!bias",), lines)


def test_acceptance(home, models, tmp_path):
    models["free"], models["bound"] = card(), card(released("b.pth"), non_commercial=True, licence_weights="CC BY-NC")
    weights.import_file(saved(tmp_path / "b.pth", state()), model="bound")
    with pytest.raises(WeightsError, match=r"non-commercial use only \(CC BY-NC\).*segwise weights accept bound"):
        weights.opened("bound", models["bound"])
    with pytest.raises(WeightsError, match="segwise weights pull bound --accept-non-commercial"):
        weights.pull("bound")
    assert weights.opened("bound", models["bound"], accept_non_commercial=True).tensors
    assert not weights.status()[0].accepted
    note = weights.accept("bound")
    assert "CC BY-NC" in note.read_text() and note.read_text()[:2] == "20"
    assert weights.opened("bound", models["bound"]).tensors and weights.status()[0].accepted
    with pytest.raises(WeightsError, match="need no acceptance"):
        weights.accept("free")


def test_verify_reads_anew(home, models, tmp_path):
    good = saved(tmp_path / "a.pth", state())
    models["toy"] = card(
        released("a.pth", sha256=sha(good), n_bytes=good.stat().st_size), released("b.pth", signature=""), keys=KEYS
    )
    weights.import_file(good)
    weights.import_file(saved(tmp_path / "small.pth", state(wide=2)))
    weights.import_file(saved(tmp_path / "b.pth", state(5, wide=3)))
    found = {v.file.split("/")[0]: v for v in weights.verify()}
    assert {k: v.state for k, v in found.items()} == {
        "a.pth": "right",
        "b.pth": "unverified",
        "imported": "unverified",
    }
    for item in found.values():
        data = bytearray(item.path.read_bytes())
        data[200] ^= 1
        item.path.write_bytes(bytes(data) if item.file != "b.pth" else b"<html>")
    assert [v.state for v in weights.verify(("toy",))] == ["damaged"] * 3
    assert "web page" in next(v.reason for v in weights.verify() if v.file == "b.pth")


def test_sam_and_medsam_share_a_net(parity_dir, home):
    if not {"sam", "medsam"} <= set(catalog.names("models")) or not (parity_dir / "sam").is_dir():
        pytest.skip("no fixture or no model")
    with pytest.raises(WeightsError, match=r"tensors of .*sam.*, which share one net: say which"):
        weights.import_file(parity_dir / "sam" / "checkpoint.pth")


FIXTURES = (
    *("biomedparse", "ma_sam", "med_sa", "medical_sam2", "medsam", "medsam2", "nninteractive", "nnunet"),
    *("sam", "sam2", "sam_med2d", "sam_med3d", "samed", "segvol", "vista3d"),
)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_official_formats_are_recognised(fixture, parity_dir, home):
    source = parity_dir / fixture / "checkpoint.pth"
    name = fixture.replace("_", "-")
    if not source.is_file() or name not in catalog.names("models"):
        pytest.skip(f"no fixture or no model {name}")
    shared = {"sam", "medsam", "sam2", "medsam2", "medical-sam2"}  # nets of several models: the user says which
    (done,) = weights.import_file(source, model=name if name in shared else "")
    assert done.model == name and not done.known and not done.change
    assert done.path.read_bytes() == source.read_bytes()
    read = weights.read(done.path)
    assert read.tensors and read.digest.startswith("unknown:")


def test_a_trainers_prefix_is_taken_off(parity_dir, tmp_path):
    from segwise import assemble

    for name, terms in (("sam", ""), ("medsam2", ""), ("vista3d", ", accept_non_commercial=true")):
        folder = tmp_path / name
        plain = torch.load(parity_dir / name / "checkpoint.pth", weights_only=True)
        inner = plain.get("model", plain)
        path = saved(folder / "ddp.pth", {"state_dict": {f"module.{key}": value for key, value in inner.items()}})
        (folder / "config.json").write_bytes((parity_dir / name / "config.json").read_bytes())
        built = assemble.build(f'{name}(checkpoint="{path}"{terms})')
        assert built.weights == f"unknown:{sha(path)}"
