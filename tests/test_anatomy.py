"""The vocabulary: every data set's names lead to common ones, and nothing is guessed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segwise import anatomy

TOTALSEGMENTATOR = (  # what is not made by the rules for ribs and vertebrae
    "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left "
    "lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right "
    "esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left "
    "kidney_cyst_right sacrum heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right "
    "subclavian_artery_left common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left "
    "brachiocephalic_vein_right atrial_appendage_left superior_vena_cava inferior_vena_cava "
    "portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right humerus_left "
    "humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right hip_left hip_right "
    "spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right "
    "gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain "
    "skull sternum costal_cartilages lung_left lung_right vertebrae intervertebral_discs"
)
OTHERS = {
    "BTCV": "spleen|right kidney|left kidney|gallbladder|esophagus|liver|stomach|aorta|inferior vena cava|"
    "portal vein and splenic vein|pancreas|right adrenal gland|left adrenal gland",
    "AMOS": "spleen|right kidney|left kidney|gall bladder|esophagus|liver|stomach|arota|postcava|pancreas|"
    "right adrenal gland|left adrenal gland|duodenum|bladder|prostate/uterus",
    "FLARE": "Liver|Right Kidney|Spleen|Pancreas|Aorta|IVC|RAG|LAG|Gallbladder|Esophagus|Stomach|Duodenum|Left kidney",
    "ACDC": "RV cavity|myocardium|LV cavity|Left Ventricle|MYO|RV",
    "MSD": "edema|non-enhancing tumor|enhancing tumour|left atrium|PZ|TZ|Posterior hippocampus|colon cancer primaries",
    "FreeSurfer": "Left-Cerebral-White-Matter|Left-Inf-Lat-Vent|Left-Thalamus|Left-Thalamus-Proper|3rd-Ventricle|"
    "4th-Ventricle|Brain-Stem|CSF|Left-Accumbens-area|Left-VentralDC|Left-vessel|Left-choroid-plexus|WM-hypointensities"
    "|Optic-Chiasm|CC_Mid_Anterior|ctx-lh-bankssts|ctx-rh-superiorfrontal|ctx_rh_insula|5th-Ventricle",
}


def test_totalsegmentators_classes_are_known() -> None:
    names = [*TOTALSEGMENTATOR.split(), *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13))]
    names += [f"vertebrae_{letter}{n}" for letter, top in (("C", 7), ("T", 12), ("L", 5)) for n in range(1, top + 1)]
    names.append("vertebrae_S1")
    assert [name for name in names if not anatomy.resolve(name).known] == []


@pytest.mark.parametrize("where", OTHERS)
def test_names_of_other_sets_are_known(where: str) -> None:
    assert [name for name in OTHERS[where].split("|") if not anatomy.resolve(name).known] == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("kidney_left", "left kidney"),
        ("L kidney", "left kidney"),
        ("Kidney (R)", "right kidney"),
        ("kidneys", "kidney"),
        ("RightKidney", "right kidney"),
        ("lung_upper_lobe_left", "left lung upper lobe"),
        ("Upper lobe of the left lung", "left lung upper lobe"),
        ("lung_middle_lobe_right", "right lung middle lobe"),
        ("vertebrae_L1", "vertebra L1"),
        ("L1", "vertebra L1"),
        ("rib_right_7", "right rib 7"),
        ("Left-Thalamus-Proper*", "left thalamus"),
        ("thalamus L", "left thalamus"),
        ("ctx-lh-superiorfrontal", "left superior frontal cortex"),
        ("ctx-superiorfrontal", "superior frontal cortex"),
        ("Left-VentralDC", "left ventral diencephalon"),
        ("Inferior-Lateral-Ventricle", "inferior lateral ventricle"),
        ("left_inf_lat_vent", "left inferior lateral ventricle"),
        ("heart_ventricle_left", "left ventricle"),
        ("postcava", "inferior vena cava"),
        ("arota", "aorta"),
        ("Grey Matter", "gray matter"),
        ("hepatic tumour", "liver tumor"),
        ("gross_tumor_volume", "tumor"),
        ("oesophagus", "esophagus"),
        ("autochthon_left", "left deep back muscle"),
        ("gluteus maximus muscle left", "left gluteus maximus"),
    ],
)
def test_names_lead_to_one_common_name(words: str, name: str) -> None:
    assert anatomy.resolve(words).name == name
    assert anatomy.resolve(name).name == name


@pytest.mark.parametrize(
    "words",
    [
        "Liver_v2",
        "liver 1",
        "not liver",
        "left liver",
        "liver and tumor",
        "liver/tumor",
        "liver+tumor",
        "left and right kidney",
        "heart muscle",
        "eye muscle",
        "label 1",
        "background",
        "Unknown",
        "BG",
        "structure",
        "the",
        "",
        "L",
        "rib 13",
        "vertebrae_C8",
        "left",
        "ET",
        "肝臓",
    ],
)
def test_nothing_is_guessed(words: str) -> None:
    found = anatomy.resolve(words)
    assert not found.known
    assert found.name == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("liver", "liver tumor"),
        ("kidney", "left kidney"),
        ("left kidney", "right kidney"),
        ("kidney tumor", "kidney"),
        ("left lung", "left lung upper lobe"),
        ("tumor", "lesion"),
        ("left ventricle", "left lateral ventricle"),
        ("lateral ventricle", "inferior lateral ventricle"),
        ("enhancing tumor", "non-enhancing tumor"),
        ("vertebrae", "vertebra L1"),
        ("spinal_gray_matter", "gray_matter"),
        ("white matter", "cerebral white matter"),
        ("corpus callosum", "cc_anterior"),
        ("iliac artery", "iliac vena"),
        ("vertebrae_T1", "vertebrae_T11"),
        ("aorta", "aorta true lumen"),
    ],
)
def test_names_that_share_words_stay_apart(one: str, other: str) -> None:
    assert anatomy.resolve(one).known and anatomy.resolve(other).known
    assert anatomy.resolve(one).name != anatomy.resolve(other).name


def test_unknown_names_show_near_ones() -> None:
    assert anatomy.resolve("lver").near[0] == "liver"
    assert anatomy.resolve("Liver_v2").near[0] == "liver"
    assert "left rib" in anatomy.resolve("7th left rib").near
    assert anatomy.resolve("qqqq").near == ()


def test_sides() -> None:
    assert anatomy.union_of("thalamus") == ("left thalamus", "right thalamus")
    assert anatomy.union_of("Kidneys") == ("left kidney", "right kidney")
    assert anatomy.union_of("left kidney") is None
    assert anatomy.union_of("liver") is None
    assert anatomy.union_of("nothing known") is None
    assert anatomy.side("Left-Caudate") == "left"
    assert anatomy.side("left ventricle") == ""
    assert anatomy.side("right lung middle lobe") == "right"
    assert anatomy.without_side("kidney_left") == "kidney"
    assert anatomy.without_side("what is this") == "what is this"
    assert anatomy.mirrored("Left-Caudate") == "right caudate"
    assert anatomy.mirrored("right rib 3") == "left rib 3"
    assert anatomy.mirrored("left ventricle") == "left ventricle"
    assert anatomy.mirrored("right lung middle lobe") == "right lung middle lobe"


def test_the_table_is_sound() -> None:
    seen: dict[tuple[str, ...], str] = {}
    terms, also = anatomy._terms()
    for name, term in terms.items():
        assert name == term.name == name.strip()
        assert name[:1].islower()
        assert term.region in ("", *anatomy.REGIONS)
        assert term.sct == "" or (term.sct.isdigit() and _verhoeff(term.sct)), (name, term.sct)
        for words in (name, *also.get(name, ())):
            assert seen.setdefault(anatomy._key(words), name) == name, words
    assert len(anatomy.REGIONS) == 14


def _verhoeff(code: str) -> bool:
    """Whether the check digit of a SNOMED CT identifier is right (Verhoeff's scheme over the dihedral group D5)."""
    state = 0
    for i, digit in enumerate(reversed([int(c) for c in code])):
        step = digit
        for _ in range(i % 8):
            step = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[step]
        a, b = state, step
        state = ((a + b) % 5 if a < 5 else 5 + (a - b) % 5) if b < 5 else (5 + (a + b) % 5 if a < 5 else (a - b) % 5)
    return state == 0


@given(st.sampled_from(sorted(anatomy.terms())), st.randoms())
def test_writing_does_not_matter(name: str, random: object) -> None:
    words = name.replace("-", " ").split()
    random.shuffle(words)  # type: ignore[attr-defined]
    for written in ("_".join(words), " ".join(words).upper(), "-".join(words).title()):
        assert anatomy.resolve(written).name == name


@given(st.text(max_size=30))
def test_any_text_is_taken(words: str) -> None:
    found = anatomy.resolve(words)
    assert found.known or found.name == words


def test_names_of_the_real_cases_are_known(data: Path) -> None:
    unknown = []
    for path in sorted(data.glob("*/case.json")):
        case = json.loads(path.read_text())
        unknown += [n for n in (case["label_map"].values() if isinstance(case, dict) else []) if not anatomy.term(n)]
    assert unknown == []


def test_names_of_meshnet_are_known(shared: Path) -> None:
    for path in sorted((shared / "weights" / "meshnet").glob("*/colormap*.json")):
        labels = json.loads(path.read_text())["labels"][1:]
        assert [name for name in labels if not anatomy.term(name)] == []
        assert len({anatomy.resolve(name).name for name in labels}) == len(labels)


def test_targets_of_the_survey_are_known(shared: Path) -> None:
    with (shared / "survey" / "results.csv").open(encoding="utf-8") as file:
        targets = {row["target"] for row in csv.DictReader(file)}
    unknown = {name for name in targets if not anatomy.term(name)}
    assert unknown == {"best reported", "mean", "mean of 9 organs", "nodule"}
