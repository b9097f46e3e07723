"""The command ``nextscale``: one verb per file. Nothing here imports torch; a verb does, once it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from nextscale import __version__
from nextscale.cli.convert import convert
from nextscale.cli.data import data
from nextscale.cli.doctor import doctor
from nextscale.cli.evaluate import evaluate
from nextscale.cli.generate import generate
from nextscale.cli.info import info
from nextscale.cli.plan import plan
from nextscale.cli.push import push
from nextscale.cli.reconstruct import reconstruct
from nextscale.cli.runs import runs
from nextscale.cli.selftest import selftest
from nextscale.cli.train import train
from nextscale.cli.verify import verify
from nextscale.errors import NextscaleError

app = typer.Typer(name="nextscale", no_args_is_help=True, pretty_exceptions_enable=False)

COMMANDS: tuple[Callable[..., None], ...] = (
    generate,
    reconstruct,
    plan,
    train,
    runs,
    evaluate,
    convert,
    push,
    verify,
    selftest,
    info,
    doctor,
)
VERBS = (*(command.__name__ for command in COMMANDS), "data")

for command in COMMANDS:
    app.command()(command)
app.add_typer(data)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nextscale {__version__}")
        raise typer.Exit


@app.callback()
def nextscale(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Next-scale image generation: pictures drawn coarse to fine, one token map at a time."""


def main() -> None:
    """Run the command line. What a user can put right ends in one sentence and exit code 2, never in a traceback.

    Set NEXTSCALE_DEBUG=1 to see the traceback all the same.
    """
    try:
        sys.exit(app(standalone_mode=False))  # the exit code, or None where a verb came to its end
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get("NEXTSCALE_DEBUG"):
            raise
        if sentence:
            typer.echo("\n".join([f"nextscale: {sentence}", *getattr(error, "__notes__", ())]), err=True)
        sys.exit(2)


def _sentence(error: Exception) -> str | None:
    """The library's own sentence, what the operating system says about a file, or what Typer says about an option
    (nothing where it has shown the help instead); None for a fault of ours.
    """
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    if isinstance(error, NextscaleError | OSError):
        return " ".join(str(error).split())
    typers: Callable[[], str] | None = getattr(error, "format_message", None)
    return None if typers is None else typers().rstrip(".")
