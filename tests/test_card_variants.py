"""What a card says of some arguments: resolved once, so that records, reports and tables speak of the net that ran."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from report_fakes import join, outcome
from segwise import assemble, catalog, demo
from segwise.card import ModelCard, Variant
from segwise.cli.app import app
from segwise.nets.flops import parameters
from segwise.report import document, transfer, words
from segwise.report.gather import gather
from segwise.spec import parse
from segwise.weights import folders

OURS = ("default", "sam(size=nano)", "sam2(size=nano)", "sat(variant=phantom)")
KEYED = [(name, key) for name in catalog.names("models") for key in catalog.card("models", name).variants]


def test_a_variant_replaces_what_it_says_and_nothing_else():
    card = ModelCard(
        title="A",
        summary="",
        family="generalist",
        takes=("box",),
        training_sets=("BTCV",),
        training_note="more",
        parameters_m=9.0,
        variants={"size=s": Variant(training_sets=(), parameters_m=0.5), "size=l": Variant(parameters_m=20.0)},
    )
    small, large, other = (card.of({"size": size, "width": 4}) for size in "slm")
    assert (small.training_sets, small.parameters_m, small.training_note) == ((), 0.5, "more")
    assert (large.training_sets, large.parameters_m) == (("BTCV",), 20.0)
    assert (other.training_sets, other.parameters_m) == (("BTCV",), 9.0)
    assert {one.title for one in (small, large, other)} == {"A"} and not small.variants and not other.variants


@pytest.mark.parametrize(("name", "key"), KEYED)
def test_every_variant_is_of_an_argument_that_the_model_has(name, key):
    spec = parse(f"{name}({key})")
    assert catalog.member("models", name).arguments(spec)[key.partition("=")[0]] == key.partition("=")[2]
    assert catalog.card("models", name).variants[key].said


@pytest.mark.parametrize("spec", OURS)
def test_the_count_is_that_of_the_net_that_is_loaded(spec):
    built = assemble.build(spec)
    assert built.info.card.parameters_m == pytest.approx(parameters(built.segmenter.parts.net) / 1e6, abs=0.005)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_the_counts_are_those_of_the_published_nets(name):
    for size in catalog.member("models", name).load().published():
        card = assemble.model_info(f"{name}({size.label})").card
        assert card.parameters_m == pytest.approx(parameters(size.net) / 1e6, abs=0.06), size.label


@pytest.mark.parametrize("spec", OURS)
def test_what_saw_generated_data_only_is_zero_shot_on_real_sets(spec):
    card = asdict(assemble.model_info(spec).card)
    assert json.loads(json.dumps(card))["variants"] == {}
    for name in ("BTCV", "AMOS22", "Our own CT"):
        assert transfer.zero_shot(card, [name]) == "yes"
        assert words.leakage(card, [name]).startswith("no overlap known: trained on Segwise synth (generated)")


def test_large_models_stay_what_they_are():
    sat = asdict(assemble.model_info("sat").card)
    assert transfer.zero_shot(sat, ["BTCV"]) == "no" and transfer.zero_shot(sat, ["Our own CT"]) == "unknown"
    assert sat["parameters_m"] == 110.0 and "phantom" not in sat["training_note"]
    assert assemble.model_info("sam").card.training_sets == ("SA-1B",)
    assert transfer.zero_shot(asdict(assemble.model_info("litemedsam").card), ["BTCV"]) == "unknown"


def test_a_report_does_not_warn_of_the_small_ones_data():
    pages = {}
    for spec in ("sat", "sat(variant=phantom)"):
        card = asdict(assemble.model_info(spec).card)
        pages[spec] = document.page(*join(*(outcome(spec, dataset="BTCV", case=case, card=card) for case in "ab")))
    assert "its scores here flatter it" in pages["sat"] and "its scores here" not in pages["sat(variant=phantom)"]
    assert "110 M parameters" in pages["sat"] and "1.42 M parameters" in pages["sat(variant=phantom)"]


def test_other_cases_of_the_generator_are_no_zero_shot(tmp_path):
    folder = demo.write_cases(tmp_path / "data")
    about = json.loads(next(folder.glob("*/case.json")).read_text())
    records, scores = outcome("default", dataset="data", card=asdict(assemble.model_info("default").card))
    for record in records:
        record.provenance["notes"] = [about["label_note"]]
    names = words.datasets_of(gather(records, scores).outcomes)
    assert names == {"data", words.SYNTH}
    assert words.leakage(records[0].provenance["card"], names) == f"no overlap: trained on other data of {words.SYNTH}"
    assert transfer.zero_shot(records[0].provenance["card"], names) == "no"


@pytest.mark.parametrize(
    ("data", "trained", "zero_shot"),
    [
        ({"dataset": "Ours", "subjects": {"train": ["s1"]}}, {}, "yes"),
        ({"generated": 12}, {}, "yes"),
        ({}, {}, "unknown"),
        ({"dataset": "Ours", "pretrained": {"dataset": "Theirs"}}, {}, "yes"),
        ({"dataset": "Ours", "pretrained": {"encoder": "12ab"}}, {}, "unknown"),
        ({"dataset": "Ours"}, {"teacher": "default(checkpoint=/a/b)"}, "unknown"),
        ({"dataset": "Ours", "pretrained": {"dataset": "BTCV"}}, {}, "no"),
    ],
)
def test_a_model_folder_on_top_tells_what_it_saw_or_is_unknown(tmp_path, data, trained, zero_shot):
    folders.write(tmp_path / "m", spec="sam(size=nano)+lora", files={"a": b"1"}, data=data, trained=trained)
    card = asdict(assemble.model_info(str(tmp_path / "m")).card)
    assert card["parameters_m"] == 1.02
    assert transfer.zero_shot(card, ["BTCV"]) == zero_shot


@pytest.mark.parametrize(
    ("data", "zero_shot"),
    [
        ({"dataset": "Ours", "subjects": {"train": ["s1"]}}, "yes"),
        ({"dataset": "BTCV", "subjects": {"train": ["s1"]}}, "no"),
        ({"dataset": "Ours", "pretrained": {"encoder": "12ab"}}, "unknown"),
        ({}, "unknown"),
    ],
)
@pytest.mark.parametrize("model", ["unet", "resenc", "swin-unetr", "nnunet"])
def test_a_specialist_saw_what_its_folder_says(tmp_path, model, data, zero_shot):
    """It has no weights of its own, so every other data set is new to it."""
    folders.write(tmp_path / "m", spec=model, files={"a": b"1"}, data=data, trained={})
    assert transfer.zero_shot(asdict(assemble.model_info(str(tmp_path / "m")).card), ["BTCV"]) == zero_shot
    file = tmp_path / "x.pth"
    file.write_bytes(b"")
    assert transfer.zero_shot(asdict(assemble.model_info(f"{model}(checkpoint={file})").card), ["BTCV"]) == "unknown"


def test_nobody_knows_what_a_file_saw(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"")
    card = asdict(assemble.model_info(f"default(checkpoint={tmp_path / 'x.pth'})").card)
    assert transfer.zero_shot(card, ["BTCV"]) == "unknown"


def test_show_takes_arguments():
    said = json.loads(CliRunner().invoke(app, ["show", "models", "sat(variant=phantom)", "--json"]).stdout)
    assert (said["parameters_m"], said["training_sets"]) == (1.42, ["Segwise synth (generated)"])
    whole = CliRunner().invoke(app, ["show", "models", "sat"]).stdout
    assert "parameters m: 110.0" in whole and "variant=phantom: summary: Twelve organs" in whole
    refused = CliRunner().invoke(app, ["show", "models", "sat(variant=phantm)"])
    assert refused.exit_code and "phantm" in str(refused.exception or refused.output)
