"""Plan → tasks → records → scores on toy data, with three strangers from a temporary package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

import members
import toys
from segwise import catalog
from segwise.errors import PlanError, RunError, SpecError, WeightsError
from segwise.evaluate import compare, inventory
from segwise.evaluate.crops import name_of
from segwise.evaluate.ledger import Ledger
from segwise.evaluate.masks import Masks
from segwise.prompt import Prompt
from segwise.records.run import Run
from segwise.records.types import STAGES
from segwise.session import Session
from segwise.store import FeatureStore

FAILING = '''
"""Breaks on the spleen's box, and says nothing of the liver."""

import numpy as np

from segwise.card import ModelCard
from segwise.errors import NoSuchStructure, WeightsError
from segwise.segmenter import Prediction, Segmenter, State

CARD = ModelCard(title="Failing", summary="Breaks.", family="floor", takes=("text",))


class Failing(Segmenter):
    digest, encoder = "failing", "failing"

    def encode(self, volume, *, store):
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        found = []
        for ask in asks:
            words = ask.prompt.on(state.grid).words[-1]
            if words == "spleen":
                raise ZeroDivisionError("spleen")
            if words == "liver":
                raise NoSuchStructure("never heard of liver")
            found.append(Prediction(ask.prompt, np.ones((1, *state.grid.shape), np.float32), state.grid))
        return found


def load(*, missing: bool = False) -> Failing:
    if missing:
        raise WeightsError("failing.pth is not there; type: segwise weights pull failing")
    return Failing()
'''


@pytest.fixture
def data(tmp_path):
    with members.installed(tmp_path / "pkg", {**members.THREE, "models/failing.py": FAILING}):
        yield toys.make(tmp_path / "data")


def _done(data, out, models, prompters=(), **more):
    compare.compare(data, models, prompters, out=out, metrics=more.pop("metrics", ["overlap"]), **more)
    return Run.read(out).records()


def _dsc(out):
    return {
        (r["model"], r["prompter"], r["case"], r["target"], r["round"]): r["value"]
        for r in compare.export_rows(out)
        if r["metric"] == "DSC"
    }


def test_three_strangers_are_compared_without_an_edit(data, tmp_path):
    out = tmp_path / "run"
    found = compare.compare(
        data, ["closed", "textual", "stateful"], ["box3d", "clicks(n=3)"], out=out, metrics=["overlap", "curve"]
    )
    arms = Counter((task.model, task.prompter) for task in found.tasks)
    assert arms == {
        ("closed", "name"): 2,
        ("textual", "name"): 2,
        ("stateful", "box3d"): 2,
        ("stateful", "clicks(n=3)"): 2,
    }
    values = _dsc(out)
    assert values["closed", "name", "c0", "liver", 0] > 0.8
    assert values["stateful", "box3d", "c1", "spleen", 0] > 0.8
    assert ("stateful", "clicks(n=3)", "c0", "spleen", 2) in values
    assert all(r.status in ("done", "skipped") for r in Run.read(out).records())
    assert {r["round"] for r in compare.export_rows(out) if r["metric"] == "DSC_AUC"} <= {-1}


def test_a_record_says_what_happened(data, tmp_path):
    record = next(r for r in _done(data, tmp_path / "run", ["stateful(width=5)"], ["box3d"]) if r.target == "liver")
    assert (record.status, record.round, record.n_interactions, record.modality) == ("done", 0, 1, "CT")
    assert set(record.seconds) == set(STAGES) and all(s >= 0 for s in record.seconds.values())
    assert record.peak_bytes > 1 << 20
    assert (record.given, record.resolved) == ({"width": 5}, {"width": 5.0})
    assert record.quality == pytest.approx(0.8)
    provenance = record.provenance
    assert provenance["card"]["title"] == "Stateful" and provenance["segmenter"] == "stateful-5.0"
    assert set(provenance["versions"]) >= {"python", "numpy", "segwise"}
    assert {"reference", "seeds", "git", "weights", "warm_up", "quality"} <= set(provenance)


def test_every_model_gets_the_same_first_prompt_and_equal_predictions_get_equal_clicks(data, tmp_path):
    records = _done(data, tmp_path / "run", ["stateful", "stateful(width=5)", "stateful(width=20)"], ["clicks(n=3)"])
    prompts = {(r.model, r.case, r.target, r.round): r.prompt for r in records}
    for (model, *where), prompt in prompts.items():
        if where[-1] == 0:
            assert prompts["stateful", *where] == prompt
        if model == "stateful(width=20)":
            assert prompts["stateful", *where] == prompt
    assert any(prompts["stateful", *w] != p for (m, *w), p in prompts.items() if m == "stateful(width=5)")
    entries = Ledger(tmp_path / "run/ledger").entries()
    assert len({json.dumps(e, sort_keys=True) for e in entries}) == len(entries)
    assert all(e["marks"] is None or Prompt.from_json(e["marks"]).digest == e["hash"] for e in entries)


HEAVY = '''
"""Keeps features that are large, and fills everything."""

import numpy as np

from segwise.card import ModelCard
from segwise.segmenter import Prediction, Segmenter, State

CARD = ModelCard(title="Heavy", summary="Keeps much.", family="floor", takes=("box",))


class Heavy(Segmenter):
    digest, encoder = "heavy", "heavy"

    def encode(self, volume, *, store):
        store.get([f"heavy{volume.digest}"], lambda places: [np.ones(30_000_000)])  # 240 MB
        return State(volume, volume.grid, store)

    def segment(self, state, asks):
        shape = (1, *state.grid.shape)
        return [Prediction(ask.prompt, np.ones(shape, np.float32), state.grid) for ask in asks]


def load() -> Heavy:
    return Heavy()
'''


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux' peak memory begun anew")
def test_the_memory_of_a_model_is_not_that_of_the_one_before(tmp_path):
    with members.installed(tmp_path / "pkg", {**members.THREE, "models/heavy.py": HEAVY}):
        data = toys.make(tmp_path / "data")
        peaks = {r.model: r.peak_bytes for r in _done(data, tmp_path / "run", ["heavy", "box-fill"], ["box3d"])}
    assert peaks["heavy"] - peaks["box-fill"] > 200_000_000


def test_masks_do_not_depend_on_the_reference(data, tmp_path):
    """Predict from recorded prompts with another reference in place: bit-equal."""
    out = tmp_path / "run"
    records = [r for r in _done(data, out, ["stateful"], ["clicks(n=3)"]) if r.status == "done"]
    said = {e["hash"]: Prompt.from_json(e["marks"]) for e in Ledger(out / "ledger").entries() if e["marks"]}
    for i in range(2):
        np.save(data / f"c{i}.npy", np.random.default_rng(i).integers(0, 5, (6, 9, 11)).astype(np.uint8))
    cases = {case.id: case for case in inventory.find(data)[1]}
    module, arguments = catalog.load("models", compare.assemble.model_info("stateful").spec)
    sessions = {}
    for r in sorted(records, key=lambda r: r.round):
        place = (r.case, r.target)
        volume = cases[r.case].volume()
        seed = r.provenance["seeds"]["session"]
        session = sessions.setdefault(place, Session(module.load(**arguments), volume, store=FeatureStore(), seed=seed))
        answer = session.say({r.target: said[r.prompt]})[r.target]
        assert np.array_equal(answer.mask(volume.grid), Masks(out / "masks").get(r.mask)[0])


def test_a_union_is_scored_where_a_model_knows_both_sides_only_together(data, tmp_path):
    out = tmp_path / "run"
    records = _done(data, out, ["closed", "stateful"], ["clicks(n=2)"])
    closed = {r.target: r for r in records if r.model == "closed" and r.case == "c0"}
    assert closed["thalamus"].status == "done"
    assert "knows both sides only together" in closed["left thalamus"].reason
    masks = Masks(out / "masks")
    own = {(r.target, r.round): r for r in records if r.model == "stateful" and r.case == "c0"}
    for number in (0, 1):
        sides = [masks.get(own[f"{side} thalamus", number].mask)[0] for side in ("left", "right")]
        union = own["thalamus", number]
        assert np.array_equal(masks.get(union.mask)[0], sides[0] | sides[1])
        sizes = [own[f"{side} thalamus", number].provenance["reference_ml"] for side in ("left", "right")]
        assert union.provenance["reference_ml"] == pytest.approx(sum(sizes))
        assert union.n_interactions == 2 * (number + 1) and union.seconds == {}
    assert ("stateful", "clicks(n=2)", "c0", "thalamus", 1) in _dsc(out)


def test_a_union_asked_for_by_name_brings_its_sides(data, tmp_path):
    records = _done(data, tmp_path / "run", ["stateful"], ["box3d"], targets=["thalamus"])
    assert {r.target for r in records} == {"thalamus", "left thalamus", "right thalamus"}
    records = _done(data, tmp_path / "closed", ["closed"], targets=["thalamus"])
    assert {r.target for r in records if r.status == "done"} == {"thalamus"}


def test_an_absent_target_is_skipped_by_boxes_and_asked_by_name(tmp_path):
    with members.installed(tmp_path / "pkg", members.THREE):
        data = toys.make(tmp_path / "data", empty="spleen")
        records = _done(data, tmp_path / "run", ["stateful", "textual"], ["box3d"])
    by = {(r.model, r.case, r.target): r for r in records}
    assert by["stateful", "c0", "spleen"].status == "skipped"
    assert "the reference is empty" in by["stateful", "c0", "spleen"].reason
    assert by["textual", "c0", "spleen"].status == "done"
    rows = [r for r in compare.export_rows(tmp_path / "run") if r["case"] == "c0" and r["target"] == "spleen"]
    assert {(r["model"], r["metric"], r["reason"]) for r in rows if r["value"] is None} >= {
        ("textual", "DSC", "both empty"),
        ("stateful", "", "the reference is empty: nothing to prompt"),
    }


def test_pairs_that_do_not_fit_are_left_out_with_a_reason(data, tmp_path):
    found = compare.compare(data, ["stateful"], ["box3d", "box3d+name"], out=tmp_path / "run", metrics=["overlap"])
    reason = "stateful does not take text (it takes points, box), which box3d+name gives"
    assert found.left_out == {reason: 8}
    rows = [r for r in compare.export_rows(tmp_path / "run") if r["status"] == "skipped"]
    assert len(rows) == 8 and {(r["prompter"], r["reason"], r["value"]) for r in rows} == {("box3d+name", reason, None)}


def test_a_modality_a_model_is_not_made_for_is_left_out(tmp_path):
    with members.installed(tmp_path / "pkg", members.THREE):
        data = toys.make(tmp_path / "data", modality="MR")
        with pytest.raises(PlanError, match="stateful has nothing to do: stateful is made for CT, not for MR"):
            compare.preview(compare.plan_of(["closed", "stateful"], ["box3d"]), data)


@pytest.mark.parametrize(
    ("models", "prompters", "more", "message"),
    [
        (["stateful"], ["name"], {}, "stateful has nothing to do: stateful does not take text"),
        (["stateful"], [], {}, r"stateful has nothing to do: no prompter was given \(-p\)"),
        (["closed"], [], {"targets": ["left thalamus"]}, "closed does not know left thalamus"),
        (["closed"], [], {"targets": ["livr"]}, "targets: no case has livr; did you mean liver"),
        (["closed"], [], {"cases": ["c9"]}, "cases: no case c9 in these data; there are c0, c1"),
        (["closd"], [], {}, r'models\[0\]: no model "closd"; did you mean "closed"'),
        (["stateful(wide=1)"], ["box3d"], {}, r'models\[0\]: .* has no argument "wide"'),
        (["stateful+lorra"], ["box3d"], {}, 'no adapter or wrapper "lorra"'),
        (["stateful"], ["box9"], {}, r'prompters\[0\]: no prompter "box9"'),
        (["stateful"], ["box3d"], {"metrics": ["dice"]}, r'metrics\[0\]: no metric "dice"'),
    ],
)
def test_what_cannot_run_is_said_before_anything_runs(data, models, prompters, more, message):
    with pytest.raises(PlanError, match=message):
        compare.preview(compare.plan_of(models, prompters, **more), data)


def test_all_mistakes_are_said_together(data):
    with pytest.raises(PlanError) as caught:
        compare.preview(compare.plan_of(["nope", "stateful"], ["nobody"], metrics=["never"]), data)
    assert all(word in str(caught.value) for word in ("nope", "nobody", "never"))


def test_one_target_that_breaks_does_not_take_the_others(data, tmp_path):
    records = _done(data, tmp_path / "run", ["failing"])
    by = {r.target: r for r in records if r.case == "c0"}
    assert (by["spleen"].status, by["spleen"].reason) == ("failed", "ZeroDivisionError: spleen")
    assert "Traceback" in by["spleen"].traceback
    assert (by["liver"].status, by["liver"].reason) == ("skipped", "never heard of liver")
    assert by["left thalamus"].status == "done"


def test_failed_is_tried_again_and_done_is_not(data, tmp_path, monkeypatch):
    _done(data, tmp_path / "run", ["failing"])
    asked = []
    real = Session.say
    monkeypatch.setattr(Session, "say", lambda self, prompts: asked.append(tuple(prompts)) or real(self, prompts))
    _done(data, tmp_path / "run", ["failing"])
    assert set(asked) == {("spleen",)}


def test_another_plan_adds_to_a_run(data, tmp_path):
    out = tmp_path / "run"
    before = {r.key: r for r in _done(data, out, ["stateful"], ["box3d"], targets=["liver"])}
    after = {r.key: r for r in _done(data, out, ["stateful", "closed"], ["box3d"])}
    assert {key: after[key] for key in before} == before
    assert len(Run.read(out).about()["plans"]) == 2
    assert {r.target for r in after.values() if r.model == "stateful" and r.status == "done"} >= {"liver", "spleen"}


def test_a_corrected_label_gets_new_prompts_and_scores(data, tmp_path):
    out = tmp_path / "run"
    before = {r.key: r for r in _done(data, out, ["stateful"], ["box3d"], targets=["liver", "spleen"])}
    labels = np.load(data / "c0.npy")
    labels[labels == 2] = 0
    labels[3:5, 6:8, 2:5] = 2
    np.save(data / "c0.npy", labels)
    after = {r.key: r for r in _done(data, out, ["stateful"], ["box3d"], targets=["liver", "spleen"])}
    changed = {(after[k].case, after[k].target) for k in after if after[k].prompt != before[k].prompt}
    assert changed == {("c0", "spleen")}
    again = {(s.task, s.target): s.reference for s in Run.read(out).scores()}
    assert all(again[r.task, r.target] == r.provenance["reference"] for r in after.values())


def test_missing_weights_are_said_together_before_anything_runs(data, tmp_path):
    found = compare.preview(compare.plan_of(["closed", "failing(missing=true)"], ["name"]), data)
    assert len(found.tasks) == 4
    with pytest.raises(WeightsError, match=r"failing\(missing=true\): failing.pth is not there; type: segwise weights"):
        compare.run(found, tmp_path / "run")
    assert not (tmp_path / "run/run.json").exists()
    _done(data, tmp_path / "run", ["closed"])


def test_score_works_later_without_models_and_torch(data, tmp_path):
    out = tmp_path / "run"
    _done(data, out, ["stateful"], ["box3d"])
    code = f"""
import sys
sys.modules["torch"] = None
sys.path.insert(0, {str(tmp_path / "pkg")!r})
from segwise import assemble
from segwise.evaluate import compare
assemble.build = None
print(compare.score({str(out)!r}, ["surface(tolerance_mm=3)", "overlap"]))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    n_measures = len(catalog.card("metrics", "surface").measures)
    assert int(printed) == 8 * n_measures
    assert compare.score(out, ["surface(tolerance_mm=3)"]) == 0
    assert any(s.metric == "surface(tolerance_mm=3.0)" for s in Run.read(out).scores())


def test_scoring_counts_answers_not_cases(data, tmp_path):
    _done(data, tmp_path / "run", ["box-fill", "threshold"], ["box3d"])
    ticks = []
    compare.score(tmp_path / "run", ["volume"], progress=lambda *tick: ticks.append(tick))
    answers = sum(record.status == "done" for record in Run.read(tmp_path / "run").records())
    counts = [done for done, _, _ in ticks]
    assert answers > 4
    assert {total for _, total, _ in ticks} == {answers}
    assert set(counts) == set(range(answers + 1))
    assert counts == sorted(counts)


def test_score_says_where_data_or_records_are_missing(data, tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        compare.score(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    out = tmp_path / "run"
    _done(data, out, ["stateful"], ["box3d"])
    data.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"case c0 of toy is no longer in .*; say where the data are now"):
        compare.score(out, ["volume"])
    assert compare.score(out, ["volume"], data=tmp_path / "moved") > 0
    with pytest.raises(RunError, match="nowhere is no folder; expected where the data of"):
        compare.score(out, ["volume"], data=tmp_path / "nowhere")  # though nothing is left to score


def test_crops_are_small_and_whole(data, tmp_path):
    out = tmp_path / "run"
    record = next(r for r in _done(data, out, ["stateful"], ["box3d"]) if r.target == "left thalamus")
    path = out / "crops" / name_of(record.task, record.target, record.round)
    assert path.name == f"{record.task}-left thalamus-0.npz" and path.stat().st_size < 30_000
    with np.load(path) as crop:
        for axis in range(3):
            assert crop[f"image{axis}"].dtype == np.uint8 and crop[f"reference{axis}"].dtype == bool
            shape = crop[f"image{axis}"].shape
            assert crop[f"prediction{axis}"].shape == crop[f"reference{axis}"].shape == shape
            assert crop[f"spacing{axis}"].shape == (2,)
        assert crop["reference0"].any()
        assert json.loads(str(crop["meta"]))["target"] == "left thalamus"


def test_a_prompter_that_draws_runs_with_every_seed(data, tmp_path):
    found = compare.preview(compare.plan_of(["stateful"], ["box3d", "points(n=2)"], seeds=3), data)
    assert Counter(task.prompter for task in found.tasks) == {"box3d": 2, "points(n=2)": 6}
    compare.run(found, tmp_path / "run")
    prompts = {r.seed: r.prompt for r in Run.read(tmp_path / "run").records() if (r.case, r.target) == ("c0", "liver")}
    assert len(set(prompts.values())) == 3


def test_two_runs_draw_the_same_prompts(data, tmp_path):
    a, b = (_done(data, tmp_path / name, ["stateful"], ["points(n=2)"], seeds=2) for name in "ab")
    assert [(r.key, r.prompt, r.mask) for r in a] == [(r.key, r.prompt, r.mask) for r in b]


def test_a_sides_plane_reaches_the_prompter():
    from segwise import assemble

    assert str(assemble.on_plane("box2d", "coronal")) == "box2d(plane=coronal)"
    assert str(assemble.on_plane("box2d", "axial")) == "box2d"
    assert str(assemble.on_plane("box2d(plane=sagittal)+name", "coronal")) == "box2d(plane=sagittal)+name"
    assert str(assemble.on_plane("box3d", None)) == "box3d"
    with pytest.raises(SpecError):
        assemble.metric_info("overlap+surface")


def test_a_choice_of_cases_and_targets(data):
    plan = compare.plans.build(
        {"models": ["closed"], "cases": [{"case": "c1", "targets": ["liver"]}]}, name="x", source="x.toml"
    )
    (task,) = compare.preview(plan, data).tasks
    assert (task.case, task.targets) == ("c1", ("liver",))
    plan = compare.plans.build(
        {"models": ["closed"], "cases": [{"case": "c1", "targets": ["hat"]}]}, name="x", source="x.toml"
    )
    with pytest.raises(PlanError, match="c1 has no hat; it has liver, spleen"):
        compare.preview(plan, data)
