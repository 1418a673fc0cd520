"""Writes docs/reference/*.md and the tables of README.md from the catalogue and the command line's own help.

python docs/generate.py            write
python docs/generate.py --check    exit 1 if anything would change (a test runs this)
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segwise import catalog

ROOT = Path(__file__).parent.parent
TITLES = {
    "models": "Models",
    "prompters": "Prompters: simulated users",
    "metrics": "Metrics",
    "datasets": "Data set layouts",
    "adapters": "Adapters",
    "wrappers": "Wrappers",
}
LEAD = {
    "models": "What runs; as `segwise show models NAME`. Arguments go in brackets: `litemedsam(lift=propagate)`.",
    "prompters": "Who says what is to be segmented. Prompters compose: `box3d+name`.",
    "metrics": "What is measured, with the rule for empty masks.",
    "datasets": "Folders that are recognised; `--layout NAME` overrides.",
    "adapters": "Adaptations of a model, composed with `+`: `litemedsam+lora(rank=4)`. "
    "[Which one for what](../how-to/adapting.md).",
    "wrappers": "Segmenters made from a Segmenter, composed with `+`: `litemedsam+flips(axes=xy)`. More looks at "
    "inference; the plan `test_time_scaling` measures what they cost.",
}


def main() -> int:
    pages = dict(pages_())
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what `make docs` writes")
        return int(bool(stale))
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def pages_() -> Iterator[tuple[Path, str]]:
    for kind, title in TITLES.items():
        body = "\n".join(section(kind, name) for name in catalog.names(kind))
        yield ROOT / "docs" / "reference" / f"{kind}.md", f"# {title}\n\n{LEAD[kind]}\n\n{body}".rstrip() + "\n"
    yield ROOT / "docs" / "reference" / "plans.md", plans()
    yield ROOT / "docs" / "reference" / "command-line.md", commands()
    readme = ROOT / "README.md"
    yield readme, filled(readme.read_text(encoding="utf-8"), "models", models_table())


def section(kind: str, name: str) -> str:
    member = catalog.member(kind, name)
    card = member.card
    lines = [f"## {name}", "", f"{card.title}. {card.summary}", ""]
    if member.parameters:
        lines += [f"- arguments: {', '.join(f'`{p}`' for p in member.parameters.values())}"]
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        if field.name in ("title", "summary", "seconds_hint") or value in ("", (), {}, None, 0.0):
            continue
        lines += [f"- {field.name.replace('_', ' ')}: {written(value)}"]
    return "\n".join([*lines, ""])


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"**{key}** {written(inner)}" for key, inner in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(written, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in fields.items() if v not in ("", None, ()))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def plans() -> str:
    blocks = []
    for name in catalog.names("plans"):
        text = catalog.plan_path(name).read_text(encoding="utf-8")
        blocks.append(f"## {name}\n\n```toml\n{text.strip()}\n```\n")
    return "# Plans\n\nExperiments as files: `segwise run NAME --data DIR -o RUN`.\n\n" + "\n".join(blocks)


def commands() -> str:
    import typer
    from typer.main import get_command

    from segwise.cli.app import app

    root = get_command(app)
    blocks = []
    for name, command in leaves(root):
        context = typer.Context(command, info_name=f"segwise {name}")
        rows = []
        for parameter in command.get_params(context):
            if parameter.name == "help":
                continue
            label = ", ".join(parameter.opts) if parameter.param_type_name == "option" else str(parameter.name).upper()
            rows.append(f"| `{label}` | {getattr(parameter, 'help', None) or ''} |")
        table = "\n".join(["| | |", "|---|---|", *rows])
        blocks.append(f"## segwise {name}\n\n{(command.help or '').strip()}\n\n{table}\n")
    lead = "Exit codes: 0 done, 1 internal error, 2 bad input with one message, 130 stopped."
    return f"# Command line\n\n{lead}\n\n" + "\n".join(blocks)


def leaves(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from leaves(inner, f"{prefix}{name} ")
        else:
            yield prefix + name, inner


def models_table() -> str:
    rows = ["| model | kind | prompts | what it is | licence of weights |", "|---|---|---|---|---|"]
    for name in catalog.names("models"):
        card = catalog.card("models", name)
        weights = card.licence_weights or "no weights"
        rows.append(f"| `{name}` | {card.family} | {', '.join(card.takes)} | {card.summary} | {weights} |")
    return "\n".join(rows)


def filled(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name}: generated by make docs -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


if __name__ == "__main__":
    sys.exit(main())
