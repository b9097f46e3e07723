"""The command ``nextscale``: one verb per file. Nothing here imports torch; a verb does, once it runs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from nextscale import __version__
from nextscale.cli.bench import bench
from nextscale.cli.calibrate import calibrate
from nextscale.cli.console import one_sentence
from nextscale.cli.convert import convert
from nextscale.cli.data import data
from nextscale.cli.decode import decode
from nextscale.cli.doctor import doctor
from nextscale.cli.edit import edit
from nextscale.cli.encode import encode
from nextscale.cli.evaluate import evaluate
from nextscale.cli.generate import generate
from nextscale.cli.info import info
from nextscale.cli.plan import plan
from nextscale.cli.push import push
from nextscale.cli.reconstruct import reconstruct
from nextscale.cli.runs import runs
from nextscale.cli.selftest import selftest
from nextscale.cli.serve import serve
from nextscale.cli.train import train
from nextscale.cli.verify import verify
from nextscale.errors import InputError, NextscaleError

app = typer.Typer(name="nextscale", no_args_is_help=True, pretty_exceptions_enable=False)

COMMANDS: tuple[Callable[..., None], ...] = (
    generate,
    edit,
    reconstruct,
    encode,
    decode,
    plan,
    calibrate,
    train,
    runs,
    evaluate,
    bench,
    serve,
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that a terminal's encoding lacks are spelled out
            stream.reconfigure(errors="backslashreplace")
    try:
        _refuse_empty(sys.argv[1:])
        command = typer.main.get_command(app)
        _refuse_repeated(command, sys.argv[1:])
        code = command(standalone_mode=False)  # the exit code, or None where a verb came to its end
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get("NEXTSCALE_DEBUG"):
            raise
        if sentence:
            typer.echo("\n".join([f"nextscale: {sentence}", *getattr(error, "__notes__", ())]), err=True)
        code = 2
    sys.exit(code)


def _refuse_empty(words: list[str]) -> None:
    """No option and no argument of any verb may be empty; a shell makes such of a variable that is not set."""
    for i, word in enumerate(words):
        option, sign, value = word.partition("=")
        if not word.strip():
            before = words[i - 1] if i and words[i - 1].startswith("-") else "an argument"
            raise InputError(f"{before} is {word!r}; expected a value")
        if option.startswith("--") and sign and not value.strip():
            raise InputError(f"{option} is {value!r}; expected a value")


def _refuse_repeated(verb: Any, words: list[str]) -> None:
    """No option may have two values unless it takes several; the first would be lost without a word."""
    ends = words.index("--") if "--" in words else len(words)
    for word in words[:ends]:
        if not word.startswith("-") and word in getattr(verb, "commands", {}):
            verb = verb.commands[word]
    for option in verb.params:
        names = set(getattr(option, "opts", ())) if option.nargs == 1 else set()
        given = [word for word in words[:ends] if word.startswith("-") and word.partition("=")[0] in names]
        if len(given) > 1 and not (option.multiple or option.is_flag):
            raise InputError(f"{option.opts[-1]} was given {len(given)} times; expected one value")


def _sentence(error: Exception) -> str | None:
    """One line for an error, long quotations cut: the library's own sentence, what the operating system says about a
    file, or what Typer says about an option (nothing where it has shown the help instead). None for a fault of ours.
    """
    found = _said(error)
    return None if found is None else one_sentence(found)


def _said(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    if isinstance(error, NextscaleError | OSError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return "there is not enough memory for this; expected something smaller, or fewer at a time"
    if isinstance(error, RecursionError):
        return "a file or argument is nested too deeply to be read; expected one that nextscale wrote"
    if isinstance(error, OverflowError):
        return f"a number is too large ({error}); expected a smaller one"
    if isinstance(error, UnicodeEncodeError):
        return f"a name cannot be written in this machine's encoding ({error}); set PYTHONUTF8=1"
    if isinstance(error, UnicodeDecodeError):
        return f"a file is no text in UTF-8 ({error}); expected one that is"
    typers: Callable[[], str] | None = getattr(error, "format_message", None)
    return None if typers is None else typers().rstrip(".")
