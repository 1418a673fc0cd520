"""Which members there are, what they declare, and how to get one. Nothing is imported before `load`.

A member is a file of `segwise/<kind>/`, found by its name ("_" in files, "-" in specs), or a module named by an entry
point of the group `segwise.<kind>`. Its card and the keyword-only arguments of its entry function are read from the
source, so `segwise list` and the checks of a spec need neither torch nor numpy.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from segwise import card as cards
from segwise.errors import CatalogError, SpecError
from segwise.spec import Spec, Value, fault

ENTRY = {  # the function whose keyword-only arguments a spec sets
    "models": "load",
    "adapters": "apply",
    "wrappers": "wrap",
    "datasets": "cases",
    "prompters": "first",
    "metrics": "score",
}
KINDS = (*ENTRY, "plans")
_CARDS = {
    name: value for name, value in vars(cards).items() if isinstance(value, type) and value.__module__ == cards.__name__
}
_REQUIRED: Any = object()
_TYPES = ("int", "float", "bool", "str", "None")


@dataclass(frozen=True)
class Parameter:
    """An argument of a member.

    Attributes:
        name: as in the spec.
        types: names of the accepted types: "int", "float", "bool", "str", "None".
        choices: the accepted values, or () for any.
        default: its value when not given.
        required: it has no default.
    """

    name: str
    types: tuple[str, ...]
    choices: tuple[Value, ...]
    default: Value
    required: bool

    def __str__(self) -> str:
        kind = "|".join(map(str, self.choices)) if self.choices else "|".join(t for t in self.types if t != "None")
        return f"{self.name}: {kind}" if self.required else f"{self.name}: {kind} = {self.default}"


@dataclass(frozen=True)
class Member:
    """A member as far as its source tells.

    Attributes:
        kind, name: where it is found.
        card: what it declares.
        parameters: by name.
        module: dotted name to import.
        path: its source file.
    """

    kind: str
    name: str
    card: Any
    parameters: Mapping[str, Parameter]
    module: str
    path: Path

    def arguments(self, spec: Spec) -> dict[str, Value]:
        """All arguments, given and default, after checking.

        Raises:
            SpecError: an unknown argument, a wrong type or value, or a required one missing.
        """
        for name in spec.args:
            if name not in self.parameters:
                raise SpecError(
                    f'{spec}: {self.name} has no argument "{name}"{_near(name, self.parameters)}; '
                    f"it takes {', '.join(map(str, self.parameters.values())) or 'none'}"
                )
        return {p.name: _value(spec, p) for p in self.parameters.values()}

    def load(self) -> ModuleType:
        """Import it."""
        return importlib.import_module(self.module)


def names(kind: str) -> tuple[str, ...]:
    """All members of a kind, sorted.

    Raises:
        CatalogError: no such kind.
    """
    return tuple(sorted(_sources(kind)))


def member(kind: str, name: str) -> Member:
    """A member by name, read from its source.

    Raises:
        CatalogError: no such member (with the nearest names), or its file does not keep the rules of a member.
    """
    sources = _sources(kind)
    if name not in sources:
        raise CatalogError(f'no {kind.removesuffix("s")} "{name}"{_near(name, sources)}; see: segwise list {kind}')
    module, path = sources[name]
    return _read(kind, name, module, path)


def card(kind: str, spec: Spec | str) -> Any:
    """The card of a member."""
    return member(kind, spec if isinstance(spec, str) else spec.name).card


def load(kind: str, spec: Spec) -> tuple[ModuleType, dict[str, Value]]:
    """The imported module of a member and its checked arguments."""
    found = member(kind, spec.name)
    arguments = found.arguments(spec)
    return found.load(), arguments


def plan_path(name: str) -> Path:
    """The file of a shipped plan.

    Raises:
        CatalogError: no such plan.
    """
    paths = {path.stem: path for path in (Path(__file__).parent / "plans").glob("*.toml")}
    if name not in paths:
        raise CatalogError(f'no plan "{name}"{_near(name, paths)}; see: segwise list plans')
    return paths[name]


@functools.cache
def _sources(kind: str) -> Mapping[str, tuple[str, Path]]:
    if kind not in KINDS:
        raise CatalogError(f'no kind "{kind}"{_near(kind, KINDS)}; there are {", ".join(KINDS)}')
    folder = Path(__file__).parent / kind
    if kind == "plans":
        return {path.stem: ("", path) for path in folder.glob("*.toml")}
    found = {
        path.stem.replace("_", "-"): (f"segwise.{kind}.{path.stem}", path)
        for path in folder.glob("*.py")
        if not path.stem.startswith("_")
    }
    for point in metadata.entry_points(group=f"segwise.{kind}"):
        path = _located(point.value)
        if path is None:
            raise CatalogError(f"entry point {point.name} of segwise.{kind}: no module {point.value}")
        found.setdefault(point.name, (point.value, path))
    return found


def _located(module: str) -> Path | None:
    """The file of a module without importing it (its parent packages may be)."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found and found.origin else None


@functools.cache
def _read(kind: str, name: str, module: str, path: Path) -> Member:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise CatalogError(f"{path.name} of {kind} is not Python: {error}") from error
    found: Any = None
    parameters: dict[str, Parameter] | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CARD" for t in node.targets):
            found = _literal(node.value, path)
        if isinstance(node, ast.FunctionDef) and node.name == ENTRY[kind]:
            parameters = _parameters(node, tree, path)
    if found is None or parameters is None:
        raise CatalogError(f"{path.name}: a member of {kind} needs CARD = ...Card(...) and def {ENTRY[kind]}(...)")
    return Member(kind, name, found, parameters, module, path)


def _literal(node: ast.expr, path: Path) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CARDS and not node.args:
        return _CARDS[node.func.id](**{str(k.arg): _literal(k.value, path) for k in node.keywords})
    if isinstance(node, ast.Tuple | ast.List):
        items = [_literal(item, path) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict):
        keys = [_literal(key, path) for key in node.keys if key is not None]
        return dict(zip(keys, (_literal(value, path) for value in node.values), strict=True))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise CatalogError(f"{path.name}, line {node.lineno}: a card holds literals only") from error


def _parameters(function: ast.FunctionDef, tree: ast.Module, path: Path) -> dict[str, Parameter]:
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {}
    for arg, given in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        default = assigned.get(given.id, given) if isinstance(given, ast.Name) else given  # a constant of the module
        value = _REQUIRED if default is None else _literal(default, path)
        types, choices = _annotation(arg.annotation)
        if strange := sorted(set(types) - set(_TYPES)):
            raise CatalogError(
                f"{path.name}: {arg.arg} is annotated {', '.join(strange)}; a spec's values are checked against "
                f"{', '.join(_TYPES)} and Literal[...], written out"
            )
        required = value is _REQUIRED
        if not required and (wrong := fault(value)):
            raise CatalogError(f"{path.name}: {arg.arg} is {value} by default, {wrong}, or None for no limit")
        found[arg.arg] = Parameter(arg.arg, types, choices, None if required else value, required)
    return found


def _annotation(node: ast.expr | None) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    if node is None:
        return _TYPES, ()
    if isinstance(node, ast.BinOp):  # X | Y
        left, right = _annotation(node.left), _annotation(node.right)
        return left[0] + right[0], left[1] + right[1]
    if isinstance(node, ast.Subscript):  # Literal["a", "b"]
        inner = ast.literal_eval(node.slice)
        choices = inner if isinstance(inner, tuple) else (inner,)
        return tuple(dict.fromkeys(type(c).__name__ for c in choices)), choices
    if isinstance(node, ast.Constant) and node.value is None:
        return ("None",), ()
    return (ast.unparse(node),), ()


def _value(spec: Spec, parameter: Parameter) -> Value:
    if parameter.name not in spec.args:
        if parameter.required:
            raise SpecError(f"{spec}: {parameter.name} is missing; expected {parameter}")
        return parameter.default
    value = spec.args[parameter.name]
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and "float" in parameter.types
        and "int" not in parameter.types
    ):
        value = _as_float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and parameter.types == ("str",):
        value = str(value)
    if wrong := fault(value):
        raise SpecError(f"{parameter.name} is {value!r}, {wrong}: {parameter}")
    kind = "None" if value is None else type(value).__name__
    if kind not in parameter.types or (parameter.choices and value not in parameter.choices and value is not None):
        raise SpecError(f"{spec}: {parameter.name} is {value!r}, expected {parameter}")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?".replace("'", '"') if close else ""
