"""Model folders: written whole, taken like any model, known by what they were trained on; wrong ones are refused."""

from __future__ import annotations

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from adapter_bases import stirred
from segwise import assemble, weights
from segwise.errors import PlanError, SpecError, WeightsError
from segwise.evaluate import expand, inventory
from segwise.nets.tuned import tuned
from segwise.records.types import Plan
from segwise.spec import parse
from segwise.weights import folders
from segwise.weights.local import PACKAGED

BASE = "sam(size=nano)"
DATA = {"dataset": "Our liver CT", "subjects": {"train": ["s1", "s2"], "val": ["s3"]}}


def lora(place, *, spec=f"{BASE}+lora(rank=2)", by=0.05, **said):
    parts = stirred(assemble.segmenter(spec).parts, by=by)
    return folders.write(place, spec=spec, files={folders.ADAPTER_FILE: tuned(parts.net)}, **said), parts


def named(place):
    return f"./{place.name}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_adapters_folder_is_a_model(tmp_path):
    made, parts = lora(tmp_path / "liver", title="Liver LoRA", data=DATA, trained={"steps": 3})
    assert made.subjects == ("s1", "s2") and made.trained == {"steps": 3}
    assert folders.read(tmp_path / "liver") == made
    info = assemble.model_info("./liver")
    assert str(info.spec) == "sam(size=nano)+lora(checkpoint=./liver, rank=2)"
    assert info.card.title == "Liver LoRA"
    assert info.card.training_sets == (*assemble.model_info(BASE).card.training_sets, "Our liver CT")
    assert info.card.training_note.endswith("lora trained on Our liver CT: 2 subjects (s1, s2)")
    assert info.digest != assemble.model_info(f"{BASE}+lora(rank=2)").digest
    assert assemble.model_info(str(info.spec)).card == info.card  # a record's spec says the same
    assert assemble.base_name("./liver") == "sam"
    built = assemble.build("./liver")
    state, own = built.segmenter.parts.net.state_dict(), parts.net.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in state.items())
    assert built.weights == built.segmenter.parts.weights != assemble.build(f"{BASE}+lora(rank=2)").weights


def test_a_net_that_was_trained_whole_has_its_own_size_and_an_adapter_that_of_its_base(tmp_path):
    size = {"parameters": 2_280_614}
    folders.write(tmp_path / "net", spec="unet", files={"plan.json": b"{}"}, trained=size)
    assert assemble.model_info("./net").card.parameters_m == 2.28 != assemble.model_info("unet").card.parameters_m
    lora(tmp_path / "liver", trained={"parameters": 2_048})
    assert assemble.model_info("./liver").card.parameters_m == assemble.model_info(BASE).card.parameters_m


def test_arguments_go_to_the_base_and_more_may_follow(tmp_path):
    lora(tmp_path / "a")
    info = assemble.model_info("./a(lift=propagate, stop=empty)+norm")
    assert str(info.spec) == "sam(lift=propagate, size=nano, stop=empty)+lora(checkpoint=./a, rank=2)+norm"
    assert any("norm" in key for key in tuned(assemble.build("./a(lift=propagate)+norm").segmenter.parts.net))
    assert str(assemble.model_info(f"{tmp_path}/a").spec) == str(
        parse(f'sam(size=nano)+lora(checkpoint="{tmp_path}/a", rank=2)')
    )
    with pytest.raises(SpecError, match='sam has no argument "lifft"'):
        assemble.model_info("./a(lifft=slices)")


def test_a_whole_nets_folder_is_a_model(tmp_path):
    net = assemble.segmenter(BASE).parts.net
    tensors = {key: value + 0.01 for key, value in net.state_dict().items()}
    folders.write(
        tmp_path / "whole", spec=BASE, files={"checkpoint.pth": tensors, "config.json": _config(net)}, data=DATA
    )
    assert str(assemble.model_info("./whole").spec) == "sam(checkpoint=./whole, size=nano)"
    built = assemble.build("./whole")
    state = built.segmenter.parts.net.state_dict()
    assert all(torch.equal(value, tensors[key]) for key, value in state.items())
    assert not built.weights.startswith("unknown")  # its model.json states it
    assert "sam trained on Our liver CT: 2 subjects" in built.info.card.training_note
    with pytest.raises(SpecError, match="leave out checkpoint="):
        assemble.model_info("./whole(checkpoint=other.pth)")
    (tmp_path / "whole" / "model.json").unlink()
    assert assemble.build("sam(checkpoint=./whole)").weights.startswith("unknown")


def _config(net):
    """What no key tells, beside the checkpoint."""
    heads = net.mask_decoder.transformer.layers[0].self_attn.heads
    return json.dumps({"decoder_num_heads": heads}).encode()


def test_an_adapter_on_an_adapted_folder(tmp_path):
    lora(tmp_path / "first", data=DATA)
    parts = stirred(assemble.segmenter("./first+decoder").parts)
    other = {"dataset": "Second", "subjects": {"train": ["t"]}}
    files = {folders.ADAPTER_FILE: tuned(parts.net)}
    folders.write(tmp_path / "second", spec="../first+decoder", files=files, data=other)
    info = assemble.model_info("./second")
    assert info.card.training_sets[-2:] == ("Our liver CT", "Second")
    assert [plus.name for plus in info.spec.plus] == ["lora", "decoder"]
    state = assemble.build("./second").segmenter.parts.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in parts.net.state_dict().items())
    folders.write(tmp_path / "loop", spec="../loop+decoder", files=files)
    with pytest.raises(WeightsError, match="leads back to itself"):
        assemble.model_info("./loop")


def test_ranked_only_if_stated_and_the_base_is_known(tmp_path):
    lora(tmp_path / "a")
    assert not assemble.build("./a").weights.startswith("unknown")
    (tmp_path / "a" / "model.json").unlink()
    assert assemble.build(f"{BASE}+lora(rank=2, checkpoint=./a)").weights.startswith("unknown:")
    (tmp_path / "other").mkdir()
    torch.save(assemble.build(BASE).segmenter.parts.net.state_dict(), tmp_path / "other" / "checkpoint.pth")
    said = weights.read(PACKAGED / "sam_nano" / "sam_nano.safetensors").config
    (tmp_path / "other" / "config.json").write_text(json.dumps(dict(said)))
    unknown = f'sam(checkpoint="{tmp_path}/other")'  # no card states its digest
    lora(tmp_path / "b", spec=f"{unknown}+lora(rank=2)")
    assert assemble.build("./b").weights.startswith("unknown:")


@pytest.mark.parametrize(
    "break_it, says",
    {
        "gone": "a is not there; expected a folder that segwise train or segwise adapt wrote",
        "empty": r"holds no model\.json",
        "file": r"adapter\.safetensors is not there, and model\.json names it",
        "bytes": r"adapter\.safetensors is not the file that model\.json names",
        "json": r"model\.json is damaged",
        "newer": "is of a newer Segwise",
        "strange": "segwise_model is missing",
        "fields": "spec or files is missing",
        "spec": "does not know the spec in its model.json: no adapter or wrapper",
        "outside": 'files names "../x", expected names of files in this folder',
    }.items(),
)
def test_what_is_wrong_is_said(tmp_path, break_it, says):
    lora(tmp_path / "a")
    card, file = tmp_path / "a" / "model.json", tmp_path / "a" / folders.ADAPTER_FILE
    said = json.loads(card.read_text())
    if break_it == "gone":
        (tmp_path / "a").rename(tmp_path / "b")
    elif break_it == "empty":
        card.unlink()
    elif break_it == "file":
        file.unlink()
    elif break_it == "bytes":
        file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    elif break_it == "json":
        card.write_text(card.read_text()[:40])
    else:
        change = {
            "newer": {"segwise_model": 2},
            "strange": {"segwise_model": "one"},
            "fields": {"files": ["a"]},
            "spec": {"spec": "sam(size=nano)+lorra"},
            "outside": {"files": {"../x": "0"}},
        }[break_it]
        card.write_text(json.dumps(said | change))
    with pytest.raises(WeightsError, match=says):
        assemble.build("./a")


def test_a_folder_is_written_whole_or_not(tmp_path, monkeypatch):
    first, _ = lora(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        with pytest.raises(WeightsError, match="cannot be written"):
            folders.write(tmp_path / "a", spec="sam+lora", files={folders.ADAPTER_FILE: {"x": torch.ones(1)}})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    with pytest.raises(WeightsError, match="should lie there"):
        folders.write(tmp_path / "a", spec="sam+lora", files={"nothing.bin": None})
    assert folders.read(tmp_path / "a") == first
    again = folders.write(tmp_path / "a", spec=first.spec, files={folders.ADAPTER_FILE: None}, title="New")
    assert again.title == "New" and again.files == first.files


def test_reading_a_card_needs_no_torch(tmp_path):
    import subprocess
    import sys

    lora(tmp_path / "a", title="Liver")
    code = "import sys; sys.modules['torch'] = None; from segwise import assemble; "
    code += "print(assemble.model_info('./a').card.title)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "Liver\n", done.stderr


def test_a_folder_is_compared_like_any_model(tmp_path):
    volume = np.random.default_rng(0).normal(0, 30, (20, 22, 4)).astype(np.float32)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    labels[5:15, 6:16, 1:3] = 1
    place = tmp_path / "data" / "a"
    place.mkdir(parents=True)
    for name, array in {"image": volume + 150 * labels, "labels": labels}.items():
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), place / f"{name}.nii.gz")
    said = {"modality": "CT", "subject": "a", "label_map": {"1": "liver"}}
    (place / "case.json").write_text(json.dumps(said))
    lora(tmp_path / "ours", spec=f"{BASE}+decoder", by=0.0, title="Ours", data=DATA)
    models = ("./ours(lift=propagate)", "sam(size=nano, lift=propagate)", BASE)
    plan = Plan(name="p", models=models, prompters=("box2d",))
    expansion = expand.expand(plan, [_source(tmp_path / "data")])
    written = "sam(lift=propagate, size=nano)+decoder(checkpoint=./ours)"
    assert {task.model for task in expansion.tasks} == {written, "sam(lift=propagate, size=nano)", BASE}
    with pytest.raises(PlanError, match=r"models\[0\]: nowhere is not there"):
        expand.expand(dataclasses.replace(plan, models=("./nowhere",)), [_source(tmp_path / "data")])
    with pytest.raises(PlanError, match=r"\./ours has nothing to do: no prompter was given"):
        expand.expand(dataclasses.replace(plan, models=("./ours",), prompters=()), [_source(tmp_path / "data")])


def _source(root):
    layout, cases = inventory.find(root)
    return expand.Source(root, layout, tuple(cases))
