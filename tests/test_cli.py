"""The command line on tiny files: what a newcomer types, what is printed, and what every mistake answers."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from segwise.cli import app as program

AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])  # NIfTI (i, j, k)
SHAPE = (16, 14, 10)


def scan(subject: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright block and a darker one in noise, (i, j, k)."""
    rng = np.random.default_rng(subject)
    image, labels = rng.normal(0, 5, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    labels[3:8, 3:9, 2:7] = 1
    labels[10:14, 4:9, 3:8] = 2
    return image + 100 * (labels == 1) + 50 * (labels == 2), labels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for n in range(2):
        folder = root / f"case_{n}"
        folder.mkdir()
        image, labels = scan(n)
        nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / "image.nii.gz")
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / "labels.nii.gz")
        about = {
            "id": f"case_{n}",
            "subject": f"person_{n}",
            "modality": "CT",
            "label_map": {"1": "liver", "2": "spleen"},
        }
        (folder / "case.json").write_text(json.dumps(about))
    return root


@pytest.fixture
def segwise(monkeypatch, capfd):
    """Run the program; (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segwise", *map(str, words)])
        monkeypatch.delenv("SEGWISE_DEBUG", raising=False)
        code = 0
        try:
            program.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def compared(segwise, dataset, out, *more):
    words = ("compare", dataset, "-m", "box-fill", "-m", "threshold", "-p", "box3d", "-p", "box-points(n=2)", *more)
    return segwise(*words, "-o", out)


def test_compare_runs_to_a_report_and_resumes(segwise, dataset, tmp_path):
    code, out, err = compared(segwise, dataset, tmp_path / "run")
    assert code == 0, err
    assert "6 tasks over 2 cases of 2 subjects" in out
    assert "box-fill does not take points" in out.replace("\n", " ") or "points" in out
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    code, table, _ = segwise("export", tmp_path / "run")
    assert code == 0
    code, _, _ = compared(segwise, dataset, tmp_path / "run")
    assert code == 0
    assert segwise("export", tmp_path / "run")[1] == table
    rows = list(csv.reader(io.StringIO(table)))
    columns = {"model", "dataset", "case", "subject", "target", "prompter", "seed", "round", "metric", "value"}
    assert columns | {"reason", "status", "encode_s", "decode_s", "peak_bytes", "weights"} <= set(rows[0])
    statuses = {row[rows[0].index("status")] for row in rows[1:]}
    assert statuses == {"done", "skipped"}


def test_encoded_scans_are_kept_for_other_runs(segwise, dataset, tmp_path):
    words = ("compare", dataset, "-m", "sam(size=nano)", "-p", "box2d", "-t", "liver", "--metric", "overlap")
    kept = tmp_path / "kept" / "features"
    for name, n in (("one", 0), ("two", 1)):
        before = {path: path.stat().st_ino for path in kept.glob("*.npz")}
        assert bool(before) == bool(n)
        assert segwise(*words, "-o", tmp_path / name, "--features", kept)[0] == 0
        assert not n or {path: path.stat().st_ino for path in kept.glob("*.npz")} == before  # none was made again
    assert (tmp_path / "two" / "report.html").is_file()


def test_encoded_scans_need_a_folder_to_lie_in(segwise, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d", "-o", tmp_path / "run")
    code, _, err = segwise(*words, "--features", tmp_path / "file")
    assert code == 2 and "encoded scans cannot be kept in" in err and "give another one" in err
    assert not (tmp_path / "run").exists()


def test_export_formats_hold_the_same_rows(segwise, dataset, tmp_path):
    compared(segwise, dataset, tmp_path / "run")
    lines = [json.loads(line) for line in segwise("export", tmp_path / "run", "--format", "jsonl")[1].splitlines()]
    segwise("export", tmp_path / "run", "--format", "parquet", "-o", tmp_path / "t.parquet")
    from pyarrow import parquet

    assert parquet.read_table(tmp_path / "t.parquet").num_rows == len(lines)
    dsc = [r["value"] for r in lines if r["metric"] == "DSC" and r["model"] == "box-fill"]
    assert dsc == pytest.approx([1.0] * 4)


def test_dry_run_computes_nothing(segwise, dataset, tmp_path):
    code, out, _ = compared(segwise, dataset, tmp_path / "run", "--dry-run")
    assert code == 0
    assert "6 tasks" in out
    assert not (tmp_path / "run").exists()


def test_cases_as_json_is_data_only(segwise, dataset):
    code, out, _ = segwise("cases", dataset, "--json")
    first = json.loads(out)[0]
    assert code == 0
    assert (first["id"], first["subject"], first["layout"], first["modality"]) == (
        "case_0",
        "person_0",
        "case-json",
        "CT",
    )
    assert first["shape"] == [10, 14, 16]
    assert first["spacing_mm"] == pytest.approx([3.0, 1.5, 2.0])
    liver = next(t for t in first["targets"] if t["name"] == "liver")
    assert (liver["value"], liver["voxels"]) == (1, 5 * 6 * 5)
    assert liver["centroid_ras_mm"] == pytest.approx([5 * 2.0, 5.5 * 1.5, 4 * 3.0])


@pytest.mark.parametrize(("flag", "box"), [((), "2,3,3,7,9,8"), (("--mm",), "5,3.75,4.5,15,12.75,19.5")])
def test_segment_writes_a_mask_on_the_exact_grid(segwise, dataset, tmp_path, flag, box):
    out = tmp_path / "mask.nii.gz"
    code, text, err = segwise(
        "segment", dataset / "case_0/image.nii.gz", "-m", "box-fill", "--box", box, *flag, "-o", out
    )
    assert code == 0, err
    assert "150 voxels" in text
    mask = nib.load(out)
    assert np.array_equal(np.asarray(mask.dataobj), scan(0)[1] == 1)
    assert np.array_equal(mask.affine, AFFINE)
    assert mask.get_data_dtype() == np.uint8


def test_segment_answers_json(segwise, dataset, tmp_path):
    words = ("segment", dataset / "case_0/image.nii.gz", "-m", "threshold", "--point", "4,5,5,+", "--json")
    code, out, err = segwise(*words, "-o", tmp_path / "m.nrrd")
    assert code == 0, err
    assert json.loads(out)["voxels"]["target"] > 0


def test_a_mask_never_replaces_its_own_scan(segwise, dataset, tmp_path):
    scan_file = tmp_path / "scan.nii.gz"
    scan_file.write_bytes((dataset / "case_0/image.nii.gz").read_bytes())
    before = scan_file.read_bytes()
    (tmp_path / "link.nii.gz").symlink_to(scan_file)
    for out in (scan_file, tmp_path / "link.nii.gz"):
        code, _, err = segwise("segment", scan_file, "-m", "box-fill", "--box", "2,3,3,7,9,8", "-o", out)
        assert (code, scan_file.read_bytes()) == (2, before)
        assert "is the scan itself" in err


def test_a_failed_export_writes_nothing(segwise, tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("mine")
    assert segwise("export", tmp_path / "no_run")[:2] == (2, "")
    assert segwise("export", tmp_path / "no_run", "-o", kept)[0] == 2
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("words", [("export",), ("export", "--format", "jsonl"), ("report",), ("score",)])
def test_a_run_without_a_finished_task_is_refused(segwise, tmp_path, words):
    from segwise.records.run import Run

    with Run.write(tmp_path / "r") as run:
        run.describe({})
    code, told, err = segwise(words[0], tmp_path / "r", *words[1:])
    assert (code, told) == (2, "") and err.count("holds no finished task") == 1 and "Traceback" not in err


def test_a_measure_names_its_metric(segwise, dataset, tmp_path):
    run = tmp_path / "r"
    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d", "-t", "liver", "-o", run)
    code, _, err = segwise(*words, "--metric", "DSC", "--metric", "iou")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(segwise("export", run)[1])))
    assert sorted(row["metric"] for row in rows if row["case"] == "case_0") == [
        "DSC",
        "IoU",
        "precision",
        "sensitivity",
    ]


def test_a_dry_run_needs_no_folder_but_a_run_does(segwise, dataset):
    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d")
    code, out, err = segwise(*words, "--dry-run")
    assert (code, " tasks over 2 cases" in out) == (0, True), (out, err)
    code, _, err = segwise(*words)
    assert (code, "-o RUN" in err) == (2, True)


def test_kinds_may_stand_in_the_singular(segwise):
    assert segwise("show", "model", "geodesic") == segwise("show", "models", "geodesic")
    assert segwise("list", "model")[1] == segwise("list", "models")[1]


def test_piped_tables_shorten_no_name(dataset, tmp_path):
    name = "a_case_with_a_very_long_name_" + "x" * 60
    about = tmp_path / "case"
    about.mkdir()
    for file in ("image.nii.gz", "labels.nii.gz"):
        (about / file).symlink_to(dataset / "case_0" / file)
    (about / "case.json").write_text(json.dumps({"id": name, "modality": "CT", "label_map": {"1": "liver"}}))
    words = [sys.executable, "-m", "segwise.cli.app", "cases", str(about)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert name in found.stdout


def test_a_moved_data_set_blocks_no_run(segwise, dataset, tmp_path):
    old, new, run = tmp_path / "old", tmp_path / "new", tmp_path / "r"
    shutil.copytree(dataset, old)
    words = ("-m", "box-fill", "-p", "box3d", "-t", "liver", "--metric", "overlap", "-o", run)
    assert segwise("compare", old, *words)[0] == 0
    old.rename(new)
    assert segwise("score", run)[0] == 0  # nothing is left to score
    code, _, err = segwise("score", run, "--metric", "volume")
    assert (code, "--data DIR" in err) == (2, True)
    code, out, err = segwise("score", run, "--metric", "volume", "--data", new)
    assert (code, out.startswith("0 scores")) == (0, False), err
    code, _, err = segwise("compare", new, *words)
    assert code == 0, err


def test_a_finding_says_what_was_done(segwise, tmp_path):
    image = np.stack([scan(0)[0], scan(1)[0]], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "two.nii.gz")
    words = ("segment", tmp_path / "two.nii.gz", "-m", "box-fill", "--box", "2,3,3,7,9,8", "-o", tmp_path / "m.nii.gz")
    code, _, err = segwise(*words)
    assert (code, "the first is read" in " ".join(err.split())) == (0, True), err


def test_a_place_that_cannot_be_written_is_said(segwise, dataset):
    code, _, err = segwise("compare", dataset, "-m", "box-fill", "-p", "box3d", "-o", "/proc/no_run")
    assert (code, "/proc/no_run" in err, "internal error" in err) == (2, True, False), err


def test_a_model_without_weights_has_nothing_to_pull(segwise):
    code, out, err = segwise("weights", "pull", "box-fill")
    assert (code, "needs no weights" in out) == (0, True), err


def test_no_message_advises_to_load_unsafely(segwise, tmp_path):
    (tmp_path / "odd.pth").write_text("x")
    code, _, err = segwise("weights", "import", tmp_path / "odd.pth")
    assert (code, "weights_only" in err, "plain tensors" in " ".join(err.split())) == (2, False, True), err


def test_what_is_doubtful_in_an_answer_is_said(dataset, tmp_path):
    from segwise import asked, assemble
    from segwise import io as files

    volume = files.read(dataset / "case_0/image.nii.gz", modality="CT").volume
    said = asked.doubts(assemble.model_info("meshnet"), volume, {"thalamus": 0, "brainstem": 7}, {})
    assert said == ["meshnet is made for MR; this looks like CT", "nothing was found of 1 of 2 targets: thalamus"]
    assert asked.doubts(assemble.model_info("threshold"), volume, {"liver": 7}, {"liver": None}) == []
    sure = {"liver": 0.031, "spleen": 0.9, "aorta": None}
    absent = asked.doubts(assemble.model_info("segvol"), volume, {"liver": 0, "spleen": 5, "aorta": 0}, sure)
    assert absent[-2:] == [
        "absent from this scan, says the model, so left empty: liver (presence 0.03)",
        "nothing was found of 1 of 3 targets: aorta",
    ]


BAD = [
    (("compare", "{data}", "-m", "geodesik", "-p", "box3d", "-o", "{tmp}/r"), 'did you mean "geodesic"'),
    (("compare", "{data}", "-m", "box-fill", "-p", "box4d", "-o", "{tmp}/r"), 'did you mean "box3d"'),
    (("compare", "{data}", "-m", "box-fill", "-p", "points", "-o", "{tmp}/r"), "box-fill"),
    (("compare", "{data}", "-m", "box-fill", "-p", "box3d", "-t", "livr", "-o", "{tmp}/r"), "livr"),
    (("compare", "{tmp}", "-m", "box-fill", "-p", "box3d", "-o", "{tmp}/r"), "layout"),
    (("compare", "{tmp}/nowhere", "-m", "box-fill", "-p", "box3d", "-o", "{tmp}/r"), "nowhere"),
    (("run", "zero_shoot", "--data", "{data}", "-o", "{tmp}/r"), 'did you mean "zero_shot"'),
    (("run", "{tmp}/absent.toml", "--data", "{data}", "-o", "{tmp}/r"), "absent.toml"),
    (("report", "{data}"), "run"),
    (("score", "{tmp}/nowhere"), "nowhere"),
    (("export", "{data}"), "run"),
    (("list", "modles"), 'did you mean "models"'),
    (("show", "models", "sma"), "sma"),
    (("cases", "{data}", "--layout", "btcvv"), "btcvv"),
    (("segment", "{image}", "-m", "box-fill", "-o", "{tmp}/m.nii.gz"), "expected --box"),
    (("segment", "{image}", "-m", "box-fill", "--text", "liver", "-o", "{tmp}/m.nii.gz"), "does not take text"),
    (("segment", "{image}", "-m", "box-fill", "--box", "1,2,3", "-o", "{tmp}/m.nii.gz"), "expected 6 numbers"),
    (("segment", "{image}", "-m", "box-fill", "--box", "1,2,3,1,4,5", "-o", "{tmp}/m.nii.gz"), "empty on an axis"),
    (
        ("segment", "{image}", "-m", "box-fill", "--box", "90,90,90,99,99,99", "-o", "{tmp}/m.nii.gz"),
        "outside the scan",
    ),
    (("segment", "{image}", "-m", "threshold", "--point", "1,1,nan,+", "-o", "{tmp}/m.nii.gz"), "expected 3 numbers"),
    (("segment", "{image}", "-m", "box-fill", "--box", "2,3,3,7,9,8", "-o", "{tmp}/m.tif"), ".nii.gz"),
    (("segment", "{image}", "-m", "box-fill", "--box", "2,3,3,7,9,8", "-o", "{tmp}/no/m.nii.gz"), "not a folder"),
    (("segment", "{tmp}/none.nii", "-m", "box-fill", "--box", "2,3,3,7,9,8", "-o", "{tmp}/m.nii.gz"), "none.nii"),
    (("inspect", "{tmp}/none.nii"), "none.nii"),
    (("weights", "import", "{tmp}/none.pth"), "none.pth"),
    (("weights", "pull", "box-fil"), "box-fill"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda x: " ".join(x)[:60] if isinstance(x, tuple) else None)
def test_every_mistake_gets_one_message_and_exit_code_2(segwise, dataset, tmp_path, words, message):
    names = {"data": dataset, "tmp": tmp_path, "image": dataset / "case_0" / "image.nii.gz"}
    code, out, err = segwise(*(word.format(**names) for word in words))
    assert code == 2, (out, err)
    assert message in (err + out).replace("\n", " ")
    assert "Traceback" not in err
    assert not (tmp_path / "m.nii.gz").exists()


def test_piped_lists_are_one_name_a_line(segwise):
    out = segwise("list", "prompters")[1]
    assert "box-points" in out.splitlines()
    assert all(" " not in line for line in out.splitlines())


def test_missing_weights_say_what_to_type(segwise, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "empty"))
    code, _, err = segwise("compare", dataset, "-m", "litemedsam", "-p", "box2d", "-o", tmp_path / "r")
    assert code == 2
    assert "segwise weights pull litemedsam" in err.replace("\n", " ")


def test_a_closed_pipe_is_not_an_error(dataset, tmp_path):
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m segwise.cli.app list prompters --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env, check=True)
    assert "Traceback" not in done.stderr


def test_the_version_is_told():
    assert "segwise 0." in CliRunner().invoke(program.app, ["--version"]).output


def test_control_c_says_that_it_stopped(dataset, tmp_path, monkeypatch, capsys):
    from segwise import api
    from segwise.cli import app as program

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "segment", interrupted)
    image = str(dataset / "case_0/image.nii.gz")
    monkeypatch.setattr("sys.argv", ["segwise", "segment", image, "-m", "box-fill", "-o", str(tmp_path / "m.nii.gz")])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 130 and "stopped" in capsys.readouterr().err


def test_progress_in_a_log_has_no_estimate_where_a_count_begins(monkeypatch, capsys):
    from segwise.cli import show

    clock = iter([0.0, 11.0, 12.0, 23.0, 40.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    with show.working("segmenting"):
        from segwise import segmenter

        segmenter.expect(4, "slices", part="axial plane")
        segmenter.step()
        segmenter.step()
        segmenter.expect(0, "slices", part="coronal plane")
        segmenter.step()
        segmenter.step()
    assert capsys.readouterr().err.splitlines() == [
        "1/4  about 33 s left  slices of the axial plane, segmenting",
        "1  slices of the coronal plane, segmenting",
        "2  slices of the coronal plane, segmenting",
    ]


def test_progress_says_what_is_expected_of_the_rest_and_what_nobody_timed(monkeypatch, capsys):
    from segwise.cli import show

    clock = iter([0.0, 11.0, 23.0, 40.0, 60.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    with show.progress() as tick:
        tick(1, 9, "a on one")
        tick.expect(33.0, 5)
        tick(2, 9, "a on two")
        tick.expect(240.0, 0)
        tick(3, 9, "b on one")
        tick(1, 4, "scoring one")
    assert capsys.readouterr().err.splitlines() == [
        "1/9  about 88 s left  a on one",
        "2/9  about 33 s left and 5 of a kind that none is timed of yet  a on two",
        "3/9  about 240 s left  b on one",
        "1/4  scoring one",
    ]


def test_the_rest_takes_as_long_as_tasks_of_its_kind():
    from types import SimpleNamespace

    from segwise.evaluate import pace

    fast, slow = (SimpleNamespace(model=name, prompter="box3d") for name in ("fast", "slow"))
    times = pace.Pace([fast, fast, fast, slow, slow], workers=1)
    times.done(fast, 2.0)
    assert times.left() == (4.0, 2)
    times.done(fast, 4.0)
    assert times.left() == (3.0, 2)
    times.done(slow, 30.0)
    assert times.left() == (3.0 + 30.0, 0)
    shared = pace.Pace([fast, slow, slow, slow], workers=2)
    shared.done(fast, 1.0)  # while the other worker is at a slow one
    shared.done(slow, 30.0)
    assert shared.left() == (30.0, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_says_what_it_expects_of_the_rest(dataset, tmp_path, workers):
    from segwise import api

    found = api.preview(api.compare_plan(("box-fill", "threshold"), ("box3d",), targets=("liver",)), dataset)
    told = []
    api.run(found, tmp_path / "run", workers=workers, expect=lambda *words: told.append(words))
    assert len(told) == len(found.tasks)
    assert told[0][1] > 0 and told[-1] == (0.0, 0)  # others of no kind yet, and nothing at the end
    assert all(seconds >= 0 for seconds, _ in told)


def test_a_bar_shows_how_long_the_rest_takes(monkeypatch):
    from rich.console import Console

    from segwise.cli import show

    screen = io.StringIO()
    monkeypatch.setattr(show, "_err", Console(file=screen, force_terminal=True, width=140))
    with show.progress() as tick:
        tick.expect(75.0, 3)
        tick(1, 8, "a on [one]")
    assert "about 75 s left and 3 of a kind that none is timed of yet" in screen.getvalue()
    assert "a on [one]" in screen.getvalue()


def test_a_study_refuses_a_place_for_encoded_scans_before_it_trains(segwise, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    words = ("run", "leave_one_out", "--data", dataset, "-o", tmp_path / "run", "--features", tmp_path / "file")
    code, _, err = segwise(*words)
    assert code == 2 and "encoded scans cannot be kept in" in err and not (tmp_path / "run-models").exists()


def test_scores_of_an_older_edition_are_made_again(segwise, dataset, tmp_path, monkeypatch):
    from segwise.evaluate import score
    from segwise.records.run import Run

    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d", "-t", "liver", "-o", tmp_path / "run")
    assert segwise(*words, "--metric", "failures")[0] == 0
    n = len(Run.read(tmp_path / "run").scores())
    assert segwise("score", tmp_path / "run")[1].startswith("0 scores written")
    older = next(s.reference for s in Run.read(tmp_path / "run").scores() if s.measure == "blind_leak")
    assert older.endswith("edition 3")
    monkeypatch.setattr(score, "_edition", lambda metric, digest: f"{digest}, edition 4")
    assert not segwise("score", tmp_path / "run")[1].startswith("0 scores written")
    assert len(Run.read(tmp_path / "run").scores()) == n  # in their place


def test_failures_of_a_run_look_at_the_image(segwise, dataset, tmp_path, monkeypatch):
    from segwise.evaluate import score

    pairs = []

    def kept(*args):
        pairs.append(real(*args))
        return pairs[-1]

    real = score.Pair
    monkeypatch.setattr(score, "Pair", kept)
    words = ("compare", dataset, "-m", "box-fill", "-p", "box3d", "-t", "liver", "-o", tmp_path / "run")
    assert segwise(*words, "--metric", "failures")[0] == 0
    assert pairs and all(p.image.shape == (1, *p.grid.shape) and p.image.std() > 0 for p in pairs)
