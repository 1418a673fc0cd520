"""How a member is named with its arguments: `litemedsam(lift=propagate)+flips` ↔ `Spec`.

Canonical form: arguments sorted by name, defaults left as given, numbers and booleans in Python's shortest form (`true`
and `false` in lower case), strings bare where they are one word and quoted otherwise.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from segwise.errors import SpecError

Value = int | float | bool | str | None

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*|\.{0,2}/[^()+\t\r\n]*")
_STRANGE = "+()\"'\t\r\n"  # in a path: they stand for more than a name
_BARE = re.compile(r"[A-Za-z_./~][A-Za-z0-9_./~:-]*")
_TOKEN = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,()"'\s][^,()"']*))\s*""")


@dataclass(frozen=True)
class Spec:
    """A member by name with arguments, and what is composed onto it.

    Attributes:
        name: the member, e.g. "litemedsam"; file names use "_" where specs use "-".
        args: argument values as given.
        plus: adapters, wrappers or further prompters, in order.
    """

    name: str
    args: Mapping[str, Value] = field(default_factory=dict)
    plus: tuple[Spec, ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={_written(value)}" for key, value in sorted(self.args.items()))
        own = f"{self.name}({inner})" if inner else self.name
        return "+".join([own, *map(str, self.plus)])

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and str(self) == str(other)

    @property
    def digest(self) -> str:
        """Hash of the canonical form."""
        return hashlib.blake2b(str(self).encode(), digest_size=8).hexdigest()

    @property
    def base(self) -> Spec:
        """Without what is composed onto it."""
        return Spec(self.name, self.args)


def parse(text: str) -> Spec:
    """A spec from its written form.

    Raises:
        SpecError: the text is not `name(arg=value, ...)+name(...)`, or a value in it is no finite number and no UTF-8
            text; the message points at the place.
    """
    parts = [_one(part, text) for part in _split(text)]
    return Spec(parts[0].name, parts[0].args, tuple(parts[1:]))


def of_folder(folder: Path) -> str:
    """A model folder as a spec names it: a path that no member could be.

    Raises:
        SpecError: a character of the path stands for more than a name.
    """
    if strange := sorted({c for c in str(folder) if c in _STRANGE}):
        raise SpecError(
            f"{folder} has {' '.join(map(repr, strange))} in its path, which stand for more than a name: rename it"
        )
    return str(folder) if folder.is_absolute() or str(folder).startswith("../") else f"./{folder}"


def seen_from(folder: Path, spec: Spec) -> Spec:
    """A spec whose paths hold wherever the program starts: a model folder's as seen from `folder`, files whole.

    A way that no spec can name (a "+" in a folder above) stays as it was given.
    """
    parts = [
        replace(part, args={key: _whole(value) if key == "checkpoint" else value for key, value in part.args.items()})
        for part in (spec.base, *spec.plus)
    ]
    name = spec.name
    if "/" in name and not Path(name).is_absolute():
        way = os.path.relpath(Path(name).resolve(), folder.resolve())
        name = name if set(way) & set(_STRANGE) else of_folder(Path(way))
    return Spec(name, parts[0].args, tuple(parts[1:]))


def _whole(value: Value) -> Value:
    path = Path(value) if isinstance(value, str) else None
    return str(path.resolve()) if path is not None and path.exists() else value


def seed_of(*words: object) -> int:
    """A stable seed in [0, 2**63) from any printable values; equal on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def fault(value: Value) -> str:
    """What keeps a value out of a record, "" if nothing: JSON has no inf and no nan, UTF-8 no half characters."""
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return "expected text in UTF-8"
    return ""


def _split(text: str) -> list[str]:
    depth, quote, start, parts, escaped = 0, "", 0, [], False
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote and not escaped else quote
            escaped = c == "\\" and not escaped
        elif c in "\"'":
            quote = c
        elif c in "()":
            depth += 1 if c == "(" else -1
        elif c == "+" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth or quote:
        raise SpecError(f'"{text}": a {"quote" if quote else "bracket"} is not closed; expected name(arg=value, ...)')
    return [*parts, text[start:]]


def _one(part: str, text: str) -> Spec:
    part = part.strip()
    match = _NAME.match(part)
    if not match:
        raise SpecError(f'"{text}": expected a name where "{part}" stands, as in name(arg=value)+name')
    name, rest = match.group().strip(), part[match.end() :].strip()
    if not rest:
        return Spec(name)
    if not (rest.startswith("(") and rest.endswith(")")):
        raise SpecError(f'"{text}": after "{name}" came "{rest}", expected (arg=value, ...)')
    return Spec(name, _arguments(rest[1:-1], text))


def _arguments(inner: str, text: str) -> dict[str, Value]:
    args: dict[str, Value] = {}
    place = 0
    while inner[place:].strip(" ,"):
        match = re.compile(r"[\s,]*([A-Za-z_][A-Za-z0-9_]*)\s*=").match(inner, place)
        token = _TOKEN.match(inner, match.end()) if match else None
        if not match or not token:
            raise SpecError(f'"{text}": "{inner[place:].strip()}" is not arg=value')
        if match.group(1) in args:
            raise SpecError(f'"{text}": {match.group(1)} is given twice')
        double, single, bare = token.groups()
        quoted = double if double is not None else single
        value = _read(bare.strip()) if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if wrong := fault(value):
            raise SpecError(f"{text!r}: {match.group(1)} is {token.group().strip()!r}, {wrong}")
        args[match.group(1)] = value
        place = token.end()
    return args


def _read(word: str) -> Value:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() in ("none", "null"):
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _written(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if _BARE.fullmatch(value) and value.lower() not in ("true", "false", "none", "null", "inf", "nan", "infinity"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
