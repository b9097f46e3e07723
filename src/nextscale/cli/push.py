"""``nextscale push``: put a checkpoint folder and its card on the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from nextscale.cli.console import AsJson, answer, answer_json, remarks


def push(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, such as RUN/export, or a bundled model.")],
    repo: Annotated[str, typer.Argument(help="Where to put it, as org/name; made if it is not there.")],
    licence: Annotated[
        str | None, typer.Option("--license", help="The terms of use, by the hub's name: apache-2.0, mit, cc-by-4.0.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="What it was trained on, by the hub's name; may be given several times."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made, nobody else sees it.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to, made if it is not there.")] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="What the commit is called.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a checkpoint on the hub as it stands, in one commit; log in first with: hf auth login."""
    from nextscale.checkpoints.load import checkpoint_folder
    from nextscale.checkpoints.publish import publish

    folder = checkpoint_folder(model)
    with remarks():
        address = publish(
            folder,
            repo,
            license=licence,
            datasets=datasets or (),
            private=private or None,
            revision=revision,
            commit_message=message,
        )
    if as_json:
        answer_json({"repository": repo, "address": address})
    else:
        answer(f"{folder} is published: {address}")
