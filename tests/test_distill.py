"""Students: they learn from a teacher without labels, load by its code, come to the same bits, and shrink further."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import labelled_cases
from segwise import assemble, converting, distilling
from segwise.cli.app import app
from segwise.errors import SegwiseError, SpecError, TrainingError, WeightsError
from segwise.evaluate.masks import Masks
from segwise.learn import Who, train
from segwise.models import litemedsam, sam
from segwise.nets import mobile_sam, sam_sizes
from segwise.nets.biases import biased
from segwise.nets.focus_unet import FocusUNet, focus_unet_of
from segwise.nets.int8 import Int8Linear
from segwise.nets.students import CUTS, config_of, inherit, spaced, student_of
from segwise.records.run import Run
from segwise.training import anywhere
from segwise.training.distilled import moves_unlike, unlike
from segwise.training.fidelity import measured, parameters
from segwise.training.labelled import Budget
from segwise.weights import folders
from segwise.weights.folders import ADAPTER_FILE
from segwise.weights.narrow import SCALE, narrowed, widened

TEACHER = "sam(size=nano)"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 4)
    return root


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    """The peak of memory takes a process each; one test of its own looks at that."""
    monkeypatch.setattr(distilling, "peak_gb", lambda spec: None)
    monkeypatch.setattr(distilling, "ASKED", 12)
    monkeypatch.setattr(distilling, "HELD", 6)


def cli(*words):
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        if isinstance(found.exception, SegwiseError):
            return 2, str(found.exception)
        raise found.exception
    return found.exit_code, found.output


def same(first, second) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- students


@pytest.mark.parametrize("size", CUTS)
def test_students_are_small_and_their_keys_tell_their_sizes(size):
    """Of SAM's ViT, of TinyViT with both strides, of the net of regions."""
    least = {"small": 3.9, "tiny": 14}[size]
    with torch.device("meta"):
        for teacher in (sam_sizes.nano(), litemedsam.net(), mobile_sam.mobile_sam(), FocusUNet()):
            student = student_of(teacher, size)
            assert parameters(teacher) > least * parameters(student)
            shapes, config = shapes_of(student), config_of(student)
            build = focus_unet_of if isinstance(student, FocusUNet) else partial(sam.net_of, config=config)
            if config.get("image_size") == litemedsam.SIZE:
                build = partial(litemedsam.net_of, config=config)
            assert shapes_of(build(shapes)) == shapes


def shapes_of(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_litemedsam_s_student_has_a_quarter_at_most():
    with torch.device("meta"):
        teacher = litemedsam.net()
        assert 4 * parameters(student_of(teacher, "small")) <= parameters(teacher)


def test_a_student_begins_with_evenly_spaced_elements_of_its_teacher():
    source = torch.arange(24.0).view(4, 6)
    assert spaced(source, (2, 3)).tolist() == [[0, 2, 4], [12, 14, 16]]
    teacher = sam_sizes.nano()
    student = student_of(teacher, "small")
    own, theirs = student.prompt_encoder.pe_layer, teacher.prompt_encoder.pe_layer
    assert torch.equal(own.positional_encoding_gaussian_matrix, theirs.positional_encoding_gaussian_matrix[:, ::2]), (
        "so that a place has half of the numbers that it has in the teacher"
    )
    assert inherit(copy.deepcopy(teacher), teacher) == len(teacher.state_dict())


@pytest.mark.parametrize("adapter", ["lora(targets=all-linear, place=both)", "med-sa", "samed"])
def test_adapted_teachers_have_students_of_the_base_s_size(adapter):
    plain, adapted = (assemble.segmenter(spec).parts.net for spec in (TEACHER, f"{TEACHER}+{adapter}"))
    assert parameters(student_of(adapted, "small")) == parameters(student_of(plain, "small"))


def test_other_nets_have_none():
    assert student_of(torch.nn.Linear(2, 2), "small") is None


# --- losses and what is asked


def test_losses_are_least_where_both_agree():
    teacher = torch.randn(2, 9, 7) * 3
    assert float(unlike(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(unlike(teacher + 0.5, teacher)) > 0.005
    assert float(unlike(-teacher, teacher)) > float(unlike(torch.zeros_like(teacher), teacher))
    a, b = torch.rand(2, 9, 7)
    assert float(moves_unlike((a, a), (b, b))) == 0
    assert float(moves_unlike((a, a), (b, a))) > 0


def test_regions_need_no_label_and_pairs_are_about_one_target():
    rng = np.random.default_rng(3)
    image = labelled_cases.volume(0).array[0, 9]
    levels = np.clip(image / image.max() * 255, 0, 255).astype(np.uint8)
    found = [mask for _ in range(20) for mask in anywhere.regions(levels, rng, most=2)]
    assert len(found) > 10
    assert all(anywhere.LEAST <= mask.sum() <= anywhere.LARGEST * mask.size for mask in found)
    assert anywhere.regions(np.zeros((9, 9), np.uint8), rng, most=2) == []
    window = labelled_cases.volume(0).grid.crop((9, 0, 0), (10, *labelled_cases.SHAPE[1:]))
    mask = found[0][None]
    tight, loose = (prompt.on(window).boxes[0] for prompt in anywhere.pair(mask, window, rng))
    places = np.argwhere(mask)
    assert (tight[0] == places.min(axis=0)).all() and (tight[1] == places.max(axis=0) + 1).all()
    assert (tight != loose).any() and (loose[1] > loose[0]).all()
    for prompt in anywhere.pair(mask, window, rng, points=True):
        assert all(mask[tuple(place)] for place in np.rint(prompt.on(window).points).astype(int))


# --- learning


def test_a_student_learns_to_answer_like_its_teacher(data, tmp_path):
    """On a subject that it never saw; the teacher keeps its bits; the saved student is the trained one."""
    out = tmp_path / "student"
    who = Who(data=data, left_out=("case003",))
    made = distilling.distillation(TEACHER, who, out, Budget(steps=40, size=2, rate=3e-3, precision="fp32"))
    objective = made.learning.recipe.objective
    before = copy.deepcopy(objective.teacher)
    start = measured_on(made, data, objective.net.student)
    found, told = distilling.distill(made, out)
    assert same(before, objective.teacher)
    assert found.finished and told.held == "test" and told.subjects == ("case003",)
    assert told.agreement > start + 0.15, (start, told.agreement)
    assert told.teacher_dsc > 0.6 and told.student_dsc is not None
    assert (
        told.student.parameters * 4 < told.teacher.parameters and told.student.file_bytes < told.teacher.file_bytes / 3
    )
    assert told.student.seconds > 0
    kept = json.loads((out / "fidelity.json").read_text())
    assert kept["agreement"] == told.agreement and kept["student"]["parameters"] == made.sizes[1]
    card = json.loads((out / "model.json").read_text())
    assert card["spec"] == "sam" and card["data"]["subjects"]["test"] == ["case003"]
    assert card["trained"]["teacher"] == TEACHER and card["trained"]["steps"] == 40
    first, again = (assemble.segmenter(spec) for spec in (str(out), f"sam(checkpoint={out})"))
    assert same(first.parts.net, again.parts.net) and first.parts.frame.size == 128
    assert not first.parts.weights.startswith("unknown")
    state = torch.load(out / "last.pt", weights_only=True, map_location="cpu")
    assert parameters(first.parts.net) == made.sizes[1] and state


def measured_on(made, data, net) -> float:
    """Agreement on the held-out subject, of a student as it is."""
    from segwise.evaluate import inventory
    from segwise.training import prepared

    frame = made.learning.recipe.objective.frame
    cases = [case for case in inventory.find(data)[1] if case.subject == "case003"]
    held = prepared.prepare(cases, frame, labelled_cases.NAMES, data.parent / "held")
    asked = [("case003", one, None) for one in anywhere.held_out(frame, held, n=16, seed=0)]
    teacher = made.learning.recipe.objective.teacher
    answers = (distilling._on_slices(copy.deepcopy(one).eval(), frame) for one in (teacher, net))
    return measured(asked, *answers)[0]["agreement"]


def test_pieces_come_to_the_same_bits(data, tmp_path):
    def made(out):
        return distilling.distillation(TEACHER, Who(data=data), out, Budget(steps=3, size=1, precision="fp32"))

    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    distilling.distill(made(whole), whole, report=False)
    for _ in range(9):
        if train(made(pieces).learning, pieces, minutes=0).finished:
            break
    assert (whole / "checkpoint.pth").read_bytes() == (pieces / "checkpoint.pth").read_bytes()


def test_scans_without_labels_are_enough(data, tmp_path):
    """A folder of scans that no layout knows, through the command line; the folder is a model then."""
    import shutil

    scans, out = tmp_path / "scans", tmp_path / "student"
    shutil.copytree(data / "imagesTr", scans)
    code, said = cli("distill", TEACHER, scans, "-o", out, "--steps", 2, "--student", "tiny", "--batch", 1)
    assert code == 0, said
    assert "of the student's masks with the teacher's" in " ".join(said.split()) and f"-m {out}" in said
    told = json.loads((out / "fidelity.json").read_text())
    assert told["held"] == "valid" and told["teacher_dsc"] is None and 0 <= told["agreement"] <= 1
    assert "student" in assemble.model_info(str(out)).card.title


def test_default_learns_from_cases_and_its_student_loads(data, tmp_path):
    out = tmp_path / "student"
    made = distilling.distillation("default", Who(data=data), out, Budget(steps=2, size=1, precision="fp32"))
    _, told = distilling.distill(made, out)
    own = assemble.segmenter(str(out))
    assert parameters(own.parts.net) * 4 < made.sizes[0] and told.n > 0
    assert assemble.model_info(str(out)).spec.name == "default"


def test_the_peak_of_a_process_is_told(monkeypatch):
    monkeypatch.undo()
    assert distilling.peak_gb(TEACHER) >= 0
    assert distilling.peak_gb("no-such-model") is None


# --- fewer bits


def test_eight_bits_are_those_of_the_frozen_layers():
    layer = torch.nn.Linear(7, 5)
    own = narrowed(layer.state_dict(), "int8")
    frozen = Int8Linear(layer)
    assert torch.equal(own["weight"], frozen.weight) and torch.equal(own["weight" + SCALE], frozen.scale)
    again = widened(own)
    assert torch.equal(again["weight"], frozen.widened().weight) and torch.equal(again["bias"], layer.bias)
    with pytest.raises(WeightsError, match="scale of no 8-bit tensor"):
        widened({"weight": own["weight"], "other" + SCALE: own["weight" + SCALE]})


@pytest.mark.parametrize("model", [TEACHER, "default"])
@pytest.mark.parametrize(("precision", "share", "bound"), [("bf16", 0.52, 0.01), ("int8", 0.3, 0.03)])
def test_fewer_bits_change_little(tmp_path, model, precision, share, bound):
    told = converting.convert(model, tmp_path / "narrow", precision)
    assert told.n_bytes < share * told.n_bytes_before
    assert 0 <= told.mean < bound * told.deviation and told.agreement > 0.98
    again = assemble.segmenter(str(tmp_path / "narrow")).parts.net
    assert all(value.dtype == torch.float32 for value in again.parameters())


def _tuned(model, folder, *, by=0.02):
    """A model folder as `segwise adapt` writes it, every trained number moved a little."""
    own = assemble.segmenter(model).parts.net
    torch.manual_seed(3)
    moved = {name: p + by * torch.randn_like(p) for name, p in own.named_parameters() if p.requires_grad}
    said = {"dataset": "eggs", "subjects": {"train": ["ann", "bob"], "val": []}}
    folders.write(folder, spec=model, files={ADAPTER_FILE: moved}, data=said, trained={"steps": 7})
    return str(folder)


@pytest.mark.parametrize(
    ("adapter", "by"),
    [("lora", 0.5), ("qlora", 0.5), ("samed", 0.03), ("ssf(place=both)", 0.03), ("decoder", 0.03), ("lora+norm", 0.1)],
)
def test_an_adapter_is_merged_and_its_training_data_stay_named(tmp_path, adapter, by):
    adapted = _tuned(f"{TEACHER}+{adapter}", tmp_path / "adapted", by=by)
    told = converting.convert(adapted, tmp_path / "whole", "bf16")
    assert told.mean < 0.02 * told.deviation and told.agreement > 0.98
    base = converting.logits(assemble.segmenter(TEACHER))
    answers = converting.logits(assemble.segmenter(str(tmp_path / "whole")))
    assert np.abs(answers - base).mean() > 5 * told.mean  # it is the adapted model, not its base
    info = assemble.model_info(str(tmp_path / "whole"))
    assert info.spec.plus == () and info.spec.name == "sam"
    assert "eggs" in info.card.training_sets and "ann, bob" in info.card.training_note
    again = converting.convert(str(tmp_path / "whole"), tmp_path / "eighth", "int8")  # and what it wrote, further
    assert again.mean < 0.05 * again.deviation
    assert folders.read(tmp_path / "eighth").subjects == ("ann", "bob")


def test_what_was_merged_over_another_folder_names_both_data_sets(tmp_path):
    first = _tuned(f"{TEACHER}+decoder", tmp_path / "first")
    own = assemble.segmenter(first + "+lora").parts.net
    moved = {name: p + 0.02 for name, p in own.named_parameters() if p.requires_grad}
    files = {ADAPTER_FILE: moved}
    folders.write(tmp_path / "second", spec="../first+lora", files=files, data={"dataset": "hens"})
    converting.convert(str(tmp_path / "second"), tmp_path / "whole", "bf16")
    assert folders.read(tmp_path / "whole").datasets == ("hens", "eggs")


def test_default_takes_biases_behind_its_plain_convolutions(tmp_path):
    adapted = _tuned("default+ssf(place=both)", tmp_path / "adapted", by=0.01)
    told = converting.convert(adapted, tmp_path / "whole", "bf16")
    assert told.agreement > 0.98 and told.mean < 0.02 * told.deviation
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["biases"] and all(name.endswith(".bias") for name in config["biases"])
    net = assemble.segmenter("default").parts.net
    with pytest.raises(WeightsError, match="no such layer without a bias"):
        biased(net, ["no.such.bias"])
    with pytest.raises(WeightsError, match="expected a list of names"):
        biased(net, config["biases"][0])


def test_a_merged_folder_is_compared_like_any_model(data, tmp_path):
    adapted = _tuned(f"{TEACHER}+lora", tmp_path / "adapted")
    code, said = cli("convert", adapted, "-o", tmp_path / "whole")
    assert code == 0 and "use it like any model" in said
    words = ("compare", data, "-m", adapted, "-m", tmp_path / "whole", "-p", "box2d", "-c", "case000")
    code, said = cli(*words, "-o", tmp_path / "run")
    assert code == 0, said
    masks = {}
    kept = Masks(tmp_path / "run" / "masks")
    for record in Run.read(tmp_path / "run").records():
        masks.setdefault(record.model, {})[record.target] = kept.get(record.mask)[0]
    one, other = masks.values()
    for target in labelled_cases.NAMES:
        a, b = one[target], other[target]
        assert a.sum() and 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.98


# --- what a user can do wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distill", "threshold", "DATA"), "has no student"),
        (("distill", "sam2(size=nano)", "DATA"), "has no student"),
        (("distill", "default(untrained=1)", "DATA"), "has no student"),
        (("distill", TEACHER), "give a folder of them"),
        (("distill", TEACHER, "NOWHERE"), "no such folder"),
        (("distill", TEACHER, "DATA", "--student", "huge"), "expected small or tiny"),
        (("distill", TEACHER, "DATA", "--target", "pancreas"), 'no training case has a structure "pancreas"'),
        (("distill", TEACHER, "DATA", "--leave-out", "bob"), "no subject bob to leave out"),
        (("convert", "threshold"), "cannot be written in fewer bits"),
        (("convert", f"{TEACHER}+flips"), "without wrappers"),
        (("convert", f"{TEACHER}+med-sa"), "med-sa adds branches of its own"),
        (("convert", f"{TEACHER}+ma-sam+decoder"), "lora, qlora, samed and ssf can be merged"),
        (("convert", TEACHER, "--precision", "int4"), "expected bf16 or int8"),
    ],
)
def test_wrong_input_gets_one_message(data, tmp_path, words, said):
    places = {"DATA": data, "NOWHERE": tmp_path / "none"}
    code, found = cli(*(places.get(word, word) for word in words), "-o", tmp_path / "out")
    assert code == 2
    assert said in " ".join(found.split())


def test_default_needs_labels_or_no_scans(data, tmp_path):
    with pytest.raises(TrainingError, match="have no labels"):
        distilling.distillation("default", Who(data=data / "imagesTr"), tmp_path / "out", Budget(steps=1))
    with pytest.raises(SpecError, match="expected small or tiny"):
        distilling.distillation("default", None, tmp_path / "out", Budget(steps=1), student="huge")
