"""The catalogue: cards and arguments read from the source, nothing imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import members
from segwise import catalog
from segwise.errors import CatalogError, SpecError
from segwise.spec import Spec, parse


@pytest.mark.parametrize("kind", [k for k in catalog.KINDS if k != "plans"])
def test_every_member_has_a_card_with_words(kind):
    for name in catalog.names(kind):
        card = catalog.card(kind, name)
        assert card.title
        assert card.summary.endswith(".")
        assert "_" not in name


def test_every_model_says_what_it_takes_and_whose_weights_it_has():
    for name in catalog.names("models"):
        card = catalog.card("models", name)
        assert set(card.takes) <= {"points", "box", "stroke", "mask", "text"}
        assert card.takes
        assert card.family in ("floor", "generalist", "specialist")
        assert card.licence_weights or not card.weights  # weights that only the user has: a licence and no file
        assert not card.licence_weights or card.family != "floor"
        assert all(len(file.sha256) in (0, 64) and file.n_bytes >= 0 for file in card.weights)  # 0: not stated


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("geodesik", 'did you mean "geodesic"'),
        ("litemedsam(lift=propagete)", r"lift is 'propagete', expected lift: slices\|propagate"),
        ("litemedsam(lifts=slices)", 'no argument "lifts"; did you mean "lift"'),
        ("meshnet(variant=7)", "variant is '7', expected variant: subcortical"),
    ],
)
def test_a_wrong_spec_says_what_came_and_what_was_expected(spec, message):
    parsed = parse(spec)
    with pytest.raises((CatalogError, SpecError), match=message):
        catalog.member("models", parsed.name).arguments(parsed)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400])
def test_a_number_from_code_is_finite_too(value):
    with pytest.raises(SpecError, match=r"tolerance_mm is .*, expected a finite number: tolerance_mm: float"):
        catalog.member("metrics", "surface").arguments(Spec("surface", {"tolerance_mm": value}))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("width: float = 1e999", r"width is inf by default, expected a finite number, or None"),
        ("width: Width = 20.0", r"width is annotated Width; a spec's values are checked against int, float, bool, str"),
    ],
)
def test_a_member_whose_argument_cannot_be_checked_is_refused(tmp_path, argument, message):
    """An alias of a type would make every value of it a wrong one."""
    source = members.STATEFUL.replace("width: float = 20.0", argument)
    with (
        members.installed(tmp_path, {"models/endless.py": source}, package="endless"),
        pytest.raises(CatalogError, match=r"endless\.py: " + message),
    ):
        catalog.card("models", "endless")


def test_every_parameter_of_every_member_takes_its_own_choices():
    for kind in (k for k in catalog.KINDS if k != "plans"):
        for name in catalog.names(kind):
            member = catalog.member(kind, name)
            for parameter in member.parameters.values():
                needed = {p.name: p.choices[0] for p in member.parameters.values() if p.required and p.choices}
                for choice in parameter.choices:
                    assert catalog._value(Spec(name, {**needed, parameter.name: choice}), parameter) == choice


def test_an_unknown_kind_is_named():
    with pytest.raises(CatalogError, match='no kind "modles"; did you mean "models"'):
        catalog.names("modles")


def test_listing_and_help_need_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'scipy', 'SimpleITK', 'matplotlib'): sys.modules[name] = None\n"
        "from segwise.cli.app import app\n"
        "from typer.testing import CliRunner\n"
        "for words in (['--help'], ['compare', '--help'], ['list', 'models'], ['list', 'prompters', '--json'], "
        "['show', 'models', 'litemedsam'], ['list', 'plans'], ['list', 'adapters']):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, (words, result.output, result.exception)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_quick():
    """CPU seconds of the child, not wall time: well under the half second promised, whatever else runs."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (3, 3)); from segwise.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "Usage" in result.stdout
    assert not loaded & {"torch", "numpy", "scipy", "pydantic", "SimpleITK", "matplotlib", "transformers"}
