"""The commands of `xenctl`, as click knows them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from xenctl.cli.commands import cli


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)
    else:
        yield " ".join(path), command


COMMANDS = dict(commands(cli))
