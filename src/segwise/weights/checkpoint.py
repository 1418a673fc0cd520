"""A checkpoint as a model loads it: from the weights folder by its card, or any file by `checkpoint=PATH`.

The sizes of a net come from the keys and shapes of its tensors; what no shape tells (numbers of heads, pixel means)
comes from a `config.json` beside the file, if there is one, else from the published model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import CatalogError, WeightsError
from segwise.weights import folders
from segwise.weights.local import CONFIG_LIMIT, accepted, digest, require, vouched
from segwise.weights.recognise import recognise
from segwise.weights.tensors import flat, held

UNKNOWN = "unknown"  # begins the digest of weights that no card and no model folder of ours names: never ranked
_SIDES = ("image_size", "img_size", "size", "crop_size", "spatial_size")  # names of a net's image size
_LONGEST = 16_384


@dataclass(frozen=True)
class Checkpoint:
    """One or several weight files, read.

    Attributes:
        path: of the first file.
        content: what the file holds, plain containers and tensors.
        config: what `config.json` beside it says; {} without.
        digest: SHA-256 of the file (of several: of their digests); begins with "unknown" if no card names it and
            Segwise did not train it here.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    digest: str

    @property
    def tensors(self) -> dict[str, Any]:
        """Name -> tensor: the state dict, taken out of "model", "state_dict" and the like.

        Raises:
            WeightsError: there is none.
        """
        return flat(self.content, self.path.name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the state dict."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def opened(
    name: str,
    card: ModelCard,
    *,
    checkpoint: str | None = None,
    variant: str = "",
    file: str = "",
    accept_non_commercial: bool = False,
) -> Checkpoint:
    """The weights of a model.

    Args:
        name: the model, as in specs.
        card: its card.
        checkpoint: a file anywhere, or a folder that holds "checkpoint.pth"; None for the released weights.
        variant: with None, which of the card's variants.
        file: with None, which of the card's files if it names several for the variant.
        accept_non_commercial: the user says that the use is non-commercial.

    Raises:
        WeightsError: missing, damaged, not a file of plain tensors, or non-commercial and not accepted.
    """
    if card.non_commercial and not (accept_non_commercial or accepted(name)):
        raise WeightsError(
            f"the weights of {card.title} are for non-commercial use only ({card.licence_weights}). If your use is, "
            f"say so: {name}(accept_non_commercial=true), or once for this machine: segwise weights accept {name}"
        )
    if checkpoint is not None:
        return _plain(read(Path(checkpoint)), name, card)
    files = require(name, card, variant=variant)
    return read(files[file] if file else next(iter(files.values())))


def _plain(found: Checkpoint, name: str, card: ModelCard) -> Checkpoint:
    """A checkpoint whose tensors have the model's own names: a trainer's prefix ("module.") is taken off."""
    if not card.keys:
        return found
    try:
        own = recognise(found.content, found.path.name, only=name)
    except WeightsError:
        return found  # the model says what it lacks
    return replace(found, content=dict(own.state)) if own and "before all names" in own.change else found


def read(path: Path) -> Checkpoint:
    """A checkpoint from a file or a folder with "checkpoint.pth"; its config.json is read if it is there.

    Raises:
        WeightsError: as `opened`.
    """
    path = _file(path.expanduser())
    content = held(path)
    sha = digest(path)
    ours = folders.stated(path) or known(sha)
    return Checkpoint(path, content, _config(path.with_name("config.json")), sha if ours else f"{UNKNOWN}:{sha}")


def _file(path: Path) -> Path:
    """The file itself, or "checkpoint.pth" of a folder."""
    wanted = "expected a checkpoint (checkpoint=FILE), as its authors publish it"
    if path.is_dir():
        if not (path / "checkpoint.pth").is_file():
            raise WeightsError(f"{path} is a folder without checkpoint.pth; {wanted}, or a folder that holds one")
        return path / "checkpoint.pth"
    if path.is_symlink() and not path.exists():
        raise WeightsError(f"{path} is a link that leads to no file; {wanted}")
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is no regular file; {wanted}")
    if not path.is_file():
        raise WeightsError(f"{path} is not there; {wanted}")
    return path


def known(sha: str) -> bool:
    """Whether a card names these bytes, or a folder of ours vouches for them."""
    return vouched(sha) or any(file.sha256 == sha for name in catalog.names("models") for file in _files_of(name))


def _files_of(name: str) -> tuple[WeightFile, ...]:
    """The files on a model's card; () for a broken one, which must not keep others from loading."""
    try:
        card: ModelCard = catalog.card("models", name)
    except CatalogError:
        return ()
    return card.weights


def together(*checkpoints: Checkpoint) -> str:
    """One digest of several checkpoints; "unknown" if one of them is."""
    sha = hashlib.sha256("".join(c.digest for c in checkpoints).encode()).hexdigest()
    return f"{UNKNOWN}:{sha}" if any(c.digest.startswith(UNKNOWN) for c in checkpoints) else sha


def fill(net: Any, tensors: Mapping[str, Any], *, what: str, unused: tuple[str, ...] = ()) -> None:
    """Load tensors into a net, every one of them.

    Args:
        net: a torch module.
        tensors: by the net's own keys.
        what: the model, for the message.
        unused: prefixes of keys that the published files hold and the model never uses.

    Raises:
        WeightsError: a key is missing, left over, or has another shape; names the first of each.
    """
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    came = {key: value for key, value in tensors.items() if not key.startswith(unused)} if unused else dict(tensors)
    missing = sorted(set(wanted) - set(came))
    extra = sorted(set(came) - set(wanted))
    shaped = sorted(key for key in set(wanted) & set(came) if wanted[key] != tuple(came[key].shape))
    if missing or extra or shaped:
        parts = [f"{len(missing)} missing (as {missing[0]})"] if missing else []
        parts += [f"{len(extra)} not of this model (as {extra[0]})"] if extra else []
        parts += [f"{shaped[0]} is {tuple(came[shaped[0]].shape)}, expected {wanted[shaped[0]]}"] if shaped else []
        raise WeightsError(f"these weights do not fit {what}: {'; '.join(parts)}; expected a published file of {what}")
    broken = next((key for key, value in came.items() if value.is_floating_point() and value.isnan().any()), "")
    if broken:
        raise WeightsError(f"{broken} of {what} holds values that are no numbers (NaN): a broken file; get it again")
    net.load_state_dict(came)


def _config(path: Path) -> dict[str, Any]:
    beside = f"{path} beside the checkpoint"
    if path.is_symlink() and not path.exists():
        raise WeightsError(f"{beside} is a link that leads to no file; mend or remove it")
    if not path.is_file():
        return {}
    if path.stat().st_size > CONFIG_LIMIT:
        raise WeightsError(f"{beside} has {path.stat().st_size:,} bytes, expected at most {CONFIG_LIMIT:,}; remove it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(f"{beside} is not JSON: {reason}; mend or remove it") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{beside} holds a {type(found).__name__}, expected names with values; mend or remove it")
    for name in _SIDES:
        sides = found[name] if isinstance(found.get(name), list) else [found.get(name)]
        if any(isinstance(side, int | float) and not 0 < side <= _LONGEST for side in sides):
            raise WeightsError(
                f"{beside} has {name} {found[name]}, expected 1 to {_LONGEST:,} pixels; mend or remove it"
            )
    return found
