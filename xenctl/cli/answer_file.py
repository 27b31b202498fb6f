"""`xenctl answer-file`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .endings import ending, print_json
from .runs import JSON

if TYPE_CHECKING:
    from ..releases import Release


@click.command("answer-file")
@click.option("--release", metavar="RELEASE", help="The release that is installed; needed to make a file.")
@click.option("--disk", metavar="DEV", help="The disk of the installation, such as sda; of the backup with restore.")
@click.option("--source", "sources", multiple=True, metavar="local|URL", help="Where to install from; may be repeated.")
@click.option(
    "--mode",
    type=click.Choice(["upgrade", "restore", "reinstall", "fresh"]),
    default="upgrade",
    show_default=True,
    help="Only upgrade preserves settings and guests; reinstall and fresh are refused.",
)
@click.option("--driver-source", "drivers", multiple=True, metavar="local|URL", help="A disk of drivers.")
@click.option("--to", "path", type=click.Path(), metavar="FILE", help="Where to write it; standard output if left out.")
@click.option(
    "--read", "existing", type=click.Path(), metavar="FILE", help="Read a file instead, and say what it means."
)
@JSON
def answer_file(
    release: str | None,
    disk: str | None,
    sources: tuple[str, ...],
    mode: str,
    drivers: tuple[str, ...],
    path: str | None,
    existing: str | None,
    as_json: bool,
) -> None:
    """Make the answer file of an unattended installation that preserves settings and guests, or read one.

    With --read the exit status is 1 for a file after which they would be gone.
    """
    from ..releases import find

    making = disk or sources or drivers or path
    if existing is not None and making:
        raise click.UsageError("--read goes with --release and --json alone")
    if existing is None and release is None:
        raise click.UsageError("give --release RELEASE: installers differ in what they know")
    with ending():
        if existing is not None:
            _show(existing, find(release) if release else None, as_json=as_json)
        assert release is not None
        _make(release, disk or "", sources, mode, drivers, path, as_json=as_json)


def _show(file: str, release: Release | None, *, as_json: bool) -> None:
    from ..procedures import answer_file as files

    answer = files.read(Path(file).read_bytes(), source=file, release=release)
    if as_json:
        print_json({"ok": answer.preserves, **answer.as_dict()})
    else:
        for name, value in answer.as_dict().items():
            for item in value if isinstance(value, list) else [value]:
                said = " ".join(str(part) for part in item.values() if part) if isinstance(item, dict) else item
                click.echo(f"{name.replace('_', ' ')}: {said}")
        kept = "are preserved" if answer.preserves else "are NOT preserved as they are"
        click.echo(f"settings and guests {kept}")
    sys.exit(0 if answer.preserves else 1)


def _make(
    release: str,
    disk: str,
    sources: tuple[str, ...],
    mode: str,
    drivers: tuple[str, ...],
    path: str | None,
    *,
    as_json: bool,
) -> None:
    from ..aside import written_aside
    from ..procedures import answer_file as files
    from ..releases import find

    places = tuple(files.place_of(text) for text in sources)
    answer = files.AnswerFile(mode, disk, places, driver_sources=tuple(files.place_of(text) for text in drivers))
    data = files.write(answer, find(release))
    if path is not None:
        with written_aside(path) as file:
            file.write(data)
    if as_json:
        print_json({"ok": True, "path": path, "text": data.decode(), **answer.as_dict()})
    elif path is None:
        click.echo(data.decode(), nl=False)
    else:
        click.echo(f"{path}: mode {mode}, for the installer of {find(release).name}")


COMMANDS = (answer_file,)
