"""Writes src/segwise/evidence/survey/*.parquet from a folder with the survey's tables as CSV.

python docs/evidence.py FOLDER            write; FOLDER holds models.csv, datasets.csv, results.csv and compute.csv
python docs/evidence.py FOLDER --check    exit 1 if what ships holds other rows (a test runs this where the folder is)

Left out: figures that were computed here from files under CC BY-NC-ND 4.0 (Touchstone 1.0's per-case results). Added to
what the CSV say, each by a rule that stands below: the common name of a structure, the kind of a prompt, and, as far as
setting and note state them, split, edition and definition of the metric. What no text states stays blank.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from segwise import anatomy
from segwise.errors import FileError
from segwise.evidence.schema import TABLES, checked, prompt_kind

OUT = Path(__file__).parent.parent / "src" / "segwise" / "evidence" / "survey"
ARROW = {"text": pyarrow.string(), "int": pyarrow.int64(), "number": pyarrow.float64(), "flag": pyarrow.bool_()}
NOT_OURS_TO_SHIP = "github MrGiovanni/Touchstone @f32135a totalsegmentator_results/"
SPLITS = (  # how a setting says on which cases a figure was measured; {} is the source, whose own choice it was
    (r"external test JHH", "external test JHH"),
    (r"^5-fold cross-validation", "5-fold cross-validation by {}"),
    (r"^trained, (fold \d of 5)$", r"\1 by {}"),
    (r"own test split", "test split of {}"),
    (r"per 2D image", "images of BiomedParse's per-image files"),
    (r"unseen challenge set", "challenge set unseen in training, by {}"),
)
EDITION = re.compile(r"^(AMOS 2022|FeTA 2021|FLARE 2021|FLARE23|KiTS23|BraTS 2021|ToothFairy 2023|MRI only)\b")
MIXED = re.compile(
    r"^mean (?:of|over) ((?:BraTS\d{4} and BraTS\d{4})|(?:BraTS2023 .*)|(?:.*\bCT\b.*\bMRI\b.*)|(?:MRI .* and CT .*))"
)


def main() -> int:
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("--")]
    if len(folders) != 1:
        print(__doc__)
        return 2
    made = dict(tables(folders[0]))
    if "--check" in sys.argv:
        stale = [name for name, table in made.items() if not parquet.read_table(OUT / f"{name}.parquet").equals(table)]
        print("".join(f"{name}.parquet is not what docs/evidence.py writes\n" for name in stale), end="")
        return int(bool(stale))
    OUT.mkdir(exist_ok=True)
    for name, table in made.items():
        parquet.write_table(table, OUT / f"{name}.parquet", compression="zstd", compression_level=19)
        print(f"wrote {name}.parquet: {table.num_rows} rows, {(OUT / f'{name}.parquet').stat().st_size:,} bytes")
    return 0


def tables(folder: Path) -> Iterator[tuple[str, pyarrow.Table]]:
    """(name, table) of each CSV in the folder, every row checked."""
    rows = {name: list(read(folder / f"{name}.csv", name)) for name in TABLES}
    only = {
        row["id"]: row["structures"] for row in rows["datasets"] if row["structures"] and ";" not in row["structures"]
    }
    rows["results"] = [told(row, only) for row in rows["results"] if not row["source"].startswith(NOT_OURS_TO_SHIP)]
    for name, columns in TABLES.items():
        schema = pyarrow.schema([(column.name, ARROW[column.kind]) for column in columns])
        found = [checked(name, row, f"{name}.csv[{number}]") for number, row in enumerate(rows[name], start=1)]
        yield name, pyarrow.Table.from_pylist(found, schema=schema)


def read(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV with numbers as numbers; of data sets also the common names of their labels."""
    kinds = {column.name: column.kind for column in TABLES[name]}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found: dict[str, Any] = {key: number(value, kinds.get(key, "text")) for key, value in row.items()}
            if name == "datasets":
                labels = [anatomy.resolve(label) for label in (row["labels"] or "").split(";") if label]
                found["structures"] = ";".join(dict.fromkeys(label.name for label in labels)) or None
            yield found


def number(text: str, kind: str) -> Any:
    """A cell in the type of its column, None where it is blank."""
    if text == "" or kind == "text":
        return text or None
    try:
        return float(text) if kind == "number" else int(float(text))
    except ValueError:
        raise FileError(f'"{text}" came, expected a number') from None


def told(row: Mapping[str, Any], only: Mapping[str, str]) -> dict[str, Any]:
    """A result with what its setting, note, prompt and target say, in columns of their own."""
    setting, note = row["setting"] or "", row["note"] or ""
    original = row["source"].partition("original: ")[2].partition(" (")[0]  # what follows is the paper's title
    if original == "not given":
        original = f"not given, {row['model_id']} on {row['dataset_id']}"
    printed_in = original or row["source"]
    splits = [found.expand(text) for pattern, text in SPLITS if (found := re.search(pattern, setting))]
    edition = EDITION.match(note) or MIXED.match(note)
    definition = "mean over 2D images" if "per 2D image" in setting else None
    if note == "readme says HD, percentile and unit not stated":
        definition = "percentile and unit not stated"
    mean = row["target"].startswith("mean")
    return {
        **row,
        "structure": only.get(row["dataset_id"]) if mean else anatomy.resolve(row["target"]).name,
        "prompt_kind": prompt_kind(row["prompt"]),
        "split": splits[0].format(re.split(r" table| main| supp| fine| as in|,", printed_in)[0]) if splits else None,
        "edition": editions(edition[0]) if edition else None,
        "definition": definition,
        "printed_in": printed_in,
    }


def editions(words: str) -> str:
    """Which data a mean is over, without the single values."""
    return re.sub(r"\s+\d+\.\d+", "", words)


if __name__ == "__main__":
    sys.exit(main())
