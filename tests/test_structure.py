"""The house keeps its plan: arrows never turn back, members import no member, names and help need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from segwise import catalog

SOURCE = Path(catalog.__file__).parent
MEMBERS = tuple(catalog.ENTRY)
CORE = {"errors", "geometry", "prompt"}
MAY_KNOW = {  # room -> rooms; every room may know `errors`
    "errors": set(),
    "geometry": set(),
    "prompt": {"geometry"},
    "anatomy": set(),
    "case": {"geometry"},
    "spec": set(),
    "card": set(),
    "catalog": {"spec", "card"},
    "segmenter": CORE,
    "store": {"segmenter", "geometry"},
    "pair": {"geometry", "prompt"},
    "signatures": {"pair", "geometry"},
    "records": {"spec"},
    "io": {"geometry"},
    "nets": set(),
    "lifts": {"segmenter", "nets", "geometry", "prompt"},
    "models": {"card", "lifts", "nets", "segmenter", "geometry", "prompt", "anatomy", "weights"},
    "adapters": {"card", "nets", "segmenter", "weights"},  # weights: they read their own file, as models do
    "wrappers": {"card", "segmenter", "geometry", "prompt", "anatomy", "spec"},
    "datasets": {"card", "io", "case", "anatomy", "geometry"},
    "prompters": {"card", "case", "prompt", "geometry", "anatomy"},  # anatomy: what a structure is called
    "metrics": {"card", "pair", "geometry", "signatures"},
    "assemble": {"catalog", "segmenter", "spec", "card", "case", "prompt", "geometry", "weights"},  # model folders
    "session": {"segmenter", "prompt", "geometry", "spec"},
    "weights": {"catalog", "card"},
    "synth": {"geometry", "case"},
    "training": {"assemble", "case", "segmenter", "nets", "synth", "geometry", "prompt", "spec", "records"},
    "engine": {"records"},
    "evaluate": {
        *("assemble", "session", "store", "engine", "records", "case", "synth", "catalog"),
        *("anatomy", "pair", "segmenter", "geometry", "prompt", "spec", "signatures"),
    },
    "evidence": {"anatomy"},  # what a figure is of is a structure
    "report": {"records", "evidence", "catalog", "card", "spec"},
    "decide": {"records", "report", "catalog", "card", "spec"},  # what a finished comparison means: above report
}
TOP = {
    "annotate",
    "api",
    "asked",
    "cli",
    "converting",
    "demo",
    "distilling",
    "in_context",
    "learn",
    "nnunet_package",
    "persons",
    "pretrain",
    "server",
    "study",
    "teaching",
}  # thin: may know all that is above, and api
FILES = sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> list[str]:
    """Dotted names below segwise that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("segwise.") for name in found if name.startswith("segwise.")]


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_never_turn_back(path):
    room = _room(path)
    if room == "__init__":
        assert not _imports(path)
        return
    allowed = MAY_KNOW.get(room, set(MAY_KNOW) | TOP)
    for name in _imports(path):
        other = name.split(".")[0]
        new = other not in {*allowed, room, "errors", "__version__"}
        assert not new, f"{path.relative_to(SOURCE)} imports segwise.{name}: {room} may know {sorted(allowed)}"


def test_the_table_has_every_room():
    rooms = {_room(path) for path in FILES} - {"__init__"}
    assert rooms <= set(MAY_KNOW) | TOP, "add the new room with what it may know"


def test_the_table_itself_has_no_circle():
    order: list[str] = []
    while len(order) < len(MAY_KNOW):
        ready = [room for room, known in MAY_KNOW.items() if room not in order and known <= set(order)]
        assert ready, f"a circle among {set(MAY_KNOW) - set(order)}"
        order += ready


@pytest.mark.parametrize("room", ["models", "lifts", "wrappers", "adapters", "nets"])
def test_what_answers_cannot_reach_a_reference(room):
    """Rule 3: neither itself nor through what it imports, and it imports nothing by a name made up while it runs."""
    known, new = {room}, {room}
    while new:
        new = {other for one in new for other in MAY_KNOW[one]} - known
        known |= new
    assert not known & {"case", "pair", "datasets", "prompters", "metrics", "synth", "evaluate", "records", "io"}
    for path in (SOURCE / room).glob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)
        }
        assert not names & {"importlib", "__import__", "eval", "exec"}, path.name


@pytest.mark.parametrize("kind", MEMBERS)
def test_members_import_no_member(kind):
    for path in (SOURCE / kind).glob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            other = parts[0] in MEMBERS and len(parts) > 1 and not parts[1].startswith("_")
            assert not other, f"{path.name} imports the member segwise.{name}"


@pytest.mark.parametrize("room", ["evaluate", "session", "server", "report", "engine.py", "records"])
def test_nobody_asks_what_kind_of_model_it_is(room):
    """No `hasattr`, no `isinstance` of a contract, no member's name."""
    names = {name for kind in ("models", "wrappers", "adapters") for name in catalog.names(kind)}
    contracts = {"Segmenter", "Learned", "Prediction", "State", "Frame", "Parts"}
    for path in [SOURCE / room] if room.endswith(".py") else (SOURCE / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "hasattr", f"{path.name}, line {node.lineno}"
                if node.func.id == "isinstance":
                    asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                    assert not asked & contracts, f"{path.name}, line {node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.name}, line {node.lineno} names {node.value}"


def _without_torch(code: str) -> str:
    whole = f"import sys\nsys.modules['torch'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cards_and_arguments_need_neither_torch_nor_numpy():
    code = """
sys.modules["numpy"] = None
from segwise import catalog
for kind in catalog.ENTRY:
    for name in catalog.names(kind):
        catalog.member(kind, name)
print(*catalog.names("models"))
"""
    assert _without_torch(code).split() == list(catalog.names("models"))


def test_the_command_line_lists_and_helps_without_torch():
    run = "from segwise.cli.app import app\nsys.argv = ['segwise', *{}]\napp(standalone_mode=False)"
    assert "compare" in _without_torch(run.format(["--help"]))
    listed = _without_torch(run.format(["list", "models"])).splitlines()
    assert [line.split()[0] for line in listed] == list(catalog.names("models"))


def test_what_scores_and_reports_needs_no_torch():
    _without_torch("import segwise.evaluate.compare, segwise.report, segwise.session, segwise.assemble")


def test_a_model_in_one_short_file_is_listed_and_tested(tmp_path):
    """One file of at most 60 lines in a package of its own: the catalogue and the contract tests take it in."""
    import members

    source = members.TEXTUAL
    assert len(source.strip().splitlines()) <= 60
    with members.installed(tmp_path, {"models/short_one.py": source}, package="alone"):
        assert "short-one" in catalog.names("models")
        assert catalog.card("models", "short-one").title == "Textual"
        import test_contracts_models as contracts

        for test in contracts.EVERY:
            test("short-one")
