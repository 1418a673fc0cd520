"""The base opened: four tables of published figures in memory, with views that join them, asked in SQL through DuckDB.

`survey/*.parquet` hold what the survey's tables say (`docs/evidence.py` writes them); `added.toml` holds what was added
since, one entry a row; files of a user's own may follow. Nothing is written back, and what is asked can reach no file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from segwise import anatomy
from segwise.errors import FileError
from segwise.evidence.schema import SQL, TABLES, all_checked, prompt_kind

# SAM and SAM 2 are what many of the survey's generalists are made of; it does not count them among its 48
SURVEY_MODELS = (
    "kind = 'model' and in_survey in ('db', 'db+readme') and hidden_in_survey_app = 'no' and id not in ('sam', 'sam2')"
)
_WIDE = """
select results.*, models.name as model, family, year, fusion_level, adaptation, dims, base, train_gpu_memory_gb,
       paper, datasets.name as dataset, anatomy_region
from results join models on models.id = model_id join datasets on datasets.id = dataset_id
"""
_COMPUTE = """
select compute.*, models.name as model, family, year, fusion_level, adaptation, dims
from compute join models on models.id = model_id
"""
ONCE = ("model_id", "dataset_id", "target", "metric", "variant", "setting", "prompt", "reported_by", "source")
_VIEWS = {
    "survey_models": f"select * from models where {SURVEY_MODELS}",
    "survey_datasets": "select * from datasets where source like 'survey database%sqlite)'",
    "survey_results": "select * from figures where survey_table is not null",
    "survey_best": "select * from figures where survey_best = 'yes' and metric = 'DSC' and target = 'mean'",
}


class Base:
    """Published figures, ready to be asked. Open one with `open_base`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """What SQL answers, a mapping a row; `values` stand for its question marks."""
        answer = self.connection.execute(sql, list(values))
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def values(self, table: str, column: str) -> list[str]:
        """The different values of a column as text, sorted; blanks left out."""
        sql = f'select distinct "{column}"::varchar as value from "{table}" where "{column}" is not null order by 1'
        return [str(row["value"]) for row in self.rows(sql)]


def open_base(more: Sequence[Path | str] = ()) -> Base:
    """The shipped base, with the rows of further files.

    Args:
        more: TOML files as `added.toml`: `[[model]]`, `[[dataset]]`, `[[result]]` and `[[compute]]`.

    Raises:
        FileError: a file cannot be read, or a row of it has no source, no such column, or a wrong unit, value, model
            or data set.
    """
    room = resources.files(__package__)
    connection = duckdb.connect(":memory:", config={"threads": 1, "autoinstall_known_extensions": False})
    for table, columns in TABLES.items():
        with resources.as_file(room / "survey" / f"{table}.parquet") as path:
            names = ", ".join(f'"{column.name}"' for column in columns)
            connection.execute(f'create table "{table}" as select {names} from read_parquet(?)', [str(path)])
    connection.execute("set enable_external_access = false")
    base = Base(connection)
    with resources.as_file(room / "added.toml") as path:
        _add(base, path, path.name)
    for extra in more:
        _add(base, Path(extra), str(extra))
    connection.execute(f"create view figures as {_WIDE}")
    connection.execute(f"create view costs as {_COMPUTE}")
    for name, sql in _VIEWS.items():
        connection.execute(f"create view {name} as {sql}")
    return base


def read_rows(path: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Table -> checked rows of a TOML file; `name` begins the messages.

    Raises:
        FileError: see `open_base`.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{name}: cannot be read ({error}); expected figures in TOML, [[result]] and so on") from error
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{name}: not TOML: {error}") from error
    kinds = {"compute" if table == "compute" else table.removesuffix("s"): table for table in TABLES}
    found: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for kind, rows in content.items():
        if kind not in kinds:
            raise FileError(f"{name}: {kind}: no such table; there are {', '.join(f'[[{k}]]' for k in kinds)}")
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise FileError(f"{name}: {kind}: expected one [[{kind}]] for each row")
        found[kinds[kind]] = all_checked(kinds[kind], rows, f"{name}: {kind}")
    return found


def _add(base: Base, path: Path, name: str) -> None:
    rows = read_rows(path, name)
    if not any(rows.values()):
        raise FileError(f"{name}: holds no row; expected [[result]] and so on, see docs/how-to/evidence.md")
    for table in ("models", "datasets"):
        known = set(base.values(table, "id"))
        for number, row in enumerate(rows[table], start=1):
            if row["id"] in known:
                raise FileError(f'{name}: {table[:-1]}[{number}]: id: "{row["id"]}" is in the base already')
        _insert(base, table, rows[table])
    _structures(base, rows["results"], name)
    for table, keys in {
        "results": {"model_id": "models", "dataset_id": "datasets"},
        "compute": {"model_id": "models"},
    }.items():
        for key, other in keys.items():
            known = set(base.values(other, "id"))
            for number, row in enumerate(rows[table], start=1):
                if row[key] not in known:
                    kind = table.removesuffix("s")
                    raise FileError(
                        f'{name}: {kind}[{number}]: {key}: "{row[key]}" is not in the base; '
                        f"add it as [[{other[:-1]}]], or see: segwise evidence {other}"
                    )
        rows_ = [_completed(row) if table == "results" else row for row in rows[table]]
        if table == "results":
            _each_once(base, rows_, name)
        _insert(base, table, rows_)


def _structures(base: Base, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse a target that neither the vocabulary nor the base knows: no filter would find it."""
    columns = [("results", "target"), ("results", "structure"), ("datasets", "structures")]
    known = {word.strip().lower() for at in columns for text in base.values(*at) for word in text.split(";")}
    for number, row in enumerate(rows, start=1):
        word = row["structure"] or row["target"]
        found = anatomy.resolve(word)
        if not found.known and word.lower() not in known and not word.startswith("mean"):
            hint = f"; did you mean {' or '.join(found.near)}" if found.near else ""
            raise FileError(
                f'{name}: result[{number}]: target: "{word}" is no structure that Segwise knows{hint}; expected a '
                'common name such as "liver", or "mean"'
            )


def _each_once(base: Base, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse a figure that is there already: it would be ranked against itself."""
    columns = ", ".join(f'"{column}"' for column in ONCE)
    known = {tuple(row.values()) for row in base.rows(f"select {columns} from results")}
    for number, row in enumerate(rows, start=1):
        key = tuple(row[column] for column in ONCE)
        if key in known:
            raise FileError(
                f"{name}: result[{number}]: {row['model_id']} on {row['dataset_id']}, {row['target']}, {row['metric']} "
                f'from "{row["source"]}" is there already; leave it out, or say in variant or setting what differs'
            )
        known.add(key)


def _completed(row: dict[str, Any]) -> dict[str, Any]:
    """A result with what follows from the rest: its structure, the kind of its prompt, and where it was printed."""
    word = row["structure"] or ("" if row["target"].startswith("mean") else row["target"])
    structure = anatomy.resolve(word).name if word else None
    kind = row["prompt_kind"] or prompt_kind(row["prompt"])
    return {**row, "structure": structure, "prompt_kind": kind, "printed_in": row["printed_in"] or row["source"]}


def _insert(base: Base, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    marks = ", ".join(f"cast(? as {SQL[column.kind]})" for column in TABLES[table])
    for row in rows:
        base.rows(f'insert into "{table}" values ({marks})', list(row.values()))
