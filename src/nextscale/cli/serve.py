"""``nextscale serve``: pictures over HTTP, by the API that OpenAI's clients speak, and a page."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import DEFAULT_MODEL, TEXT_MODEL, Dtype, remark
from nextscale.errors import InputError, missing

KEY = "NEXTSCALE_KEY"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Bundled models, checkpoint folders, published models or repositories on the hub; the first one draws "
            "where a request names none. By default all bundled models.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; another than 127.0.0.1 demands a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")] = 8000,
    opened: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    device: Annotated[
        list[str] | None, typer.Option(help="Where to compute; given several times, a process for each.")
    ] = None,
    dtype: Dtype = "auto",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most pictures drawn together.")] = 16,
    memory: Annotated[
        float | None,
        typer.Option(min=0.001, help="GiB that one drawing may take beside the weights; half of what is free."),
    ] = None,
    max_cost: Annotated[
        float, typer.Option(min=1, help="Most computing of a request, in pictures of the model's largest trained size.")
    ] = 100.0,
    queue: Annotated[int, typer.Option(min=1, help="Most pictures that wait; more are answered 429.")] = 256,
    deadline: Annotated[float, typer.Option(min=0.1, max=86_400, help="Most seconds that a request takes.")] = 300.0,
    key_file: Annotated[
        Path | None, typer.Option(help=f"A file with the key that requests must have; or the variable {KEY}.")
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Others may reach this server without a key.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further name that clients know it by.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
) -> None:
    """Draw over HTTP for OpenAI's clients, and show a page: http://127.0.0.1:8000."""
    for package in ("fastapi", "uvicorn", "prometheus-client", "python-multipart"):
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise InputError(missing(package, "a server", "serve"))
    from nextscale.checkpoints.load import bundled_names
    from nextscale.serve.server import bound, serve
    from nextscale.serve.service import Service, fronts_of
    from nextscale.serve.settings import Settings

    key, names = _key(key_file), _names(host)
    if names is None and key is None and not no_key:
        raise InputError(f"others can reach {host}, so a key is needed: --key-file or {KEY}; --no-key does without")
    everywhere = host in ("0.0.0.0", "::")
    hosts = {*(names or {_bracketed(host), *(["localhost"] if everywhere else [])}), *(allow_host or [])}
    settings = Settings(
        batch=batch,
        memory=None if memory is None else int(memory * 2**30),
        cost=max_cost,
        queue=queue,
        deadline=deadline,
        key=key,
        hosts=frozenset(one.lower() for one in hosts),
        literal=everywhere,
        log_prompts=log_prompts,
    )
    listening = bound(host, port)
    bundled = sorted(bundled_names(), key=lambda name: (name != TEXT_MODEL, name != DEFAULT_MODEL))
    devices = device or ["auto"]
    service = Service(fronts_of(models or bundled, devices[0], dtype), devices, dtype, settings)
    address = f"http://{_bracketed(host)}:{listening.getsockname()[1]}"
    remark(f"loading {', '.join(service.fronts)}")

    def ready() -> None:
        for one in service.devices:
            if one.ready is not None:
                remark(f"drawing on {one.ready.about}")
        typer.echo(f"nextscale serves {address}")
        if opened:
            typer.launch(address)

    serve(service, listening, ready)


def _key(file: Path | None) -> str | None:
    """The key of a file, or of the environment."""
    if file is None:
        return os.environ.get(KEY) or None
    from nextscale.documents import read_text

    key = read_text(file, largest=10_000).strip()
    if not key or any(not " " < letter < "\x7f" for letter in key):
        raise InputError(f"{file} holds no key; expected one line of printable letters without spaces")
    return key


def _names(host: str) -> set[str] | None:
    """The names of a host that nobody else reaches; None for any other."""
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return {"localhost", "127.0.0.1", "[::1]", _bracketed(host)} if loopback else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
