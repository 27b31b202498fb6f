"""`python -m mockserver`: a fake pool on loopback, for programs in any language.

Prints one line of JSON when it serves: `url`, `pid`, and the hosts' names, addresses and URLs. Ends on SIGINT or SIGTERM.
With `--coverage` it prints which messages the fake answers with behaviour, and ends.
`python -m mockserver anonymise IN OUT` makes a pool database dump that can be given away.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from xenctl import database
from xenctl.errors import DatabaseError
from xenctl.releases import find
from xenctl.values import parse_datetime

from .anonymise import anonymise
from .durations import parse
from .pool import START, MockPool
from .transports.server import PoolServer

SHAPE: Mapping[str, Any] = {"hosts": 3, "vms": 12, "release": "8.2"}
"""What a pool is made of that is not told otherwise; one that is loaded has all of it already."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = Parser(prog="mockserver", description="Serve a fake XenServer pool on loopback.", allow_abbrev=False)
    out.add_argument("--hosts", type=int, help=f"hosts of the pool ({SHAPE['hosts']})")
    out.add_argument("--vms", type=int, help=f"VMs of the pool ({SHAPE['vms']})")
    out.add_argument("--nics", type=int, help="network cards of each host (1)")
    out.add_argument(
        "--templates",
        action="store_true",
        default=None,
        help="have templates that come with the release, to make VMs of",
    )
    out.add_argument("--release", help=f"release of its hosts, such as 4.0.1 ({SHAPE['release']})")
    out.add_argument(
        "--coverage",
        action="store_true",
        help="print which messages have behaviour, of all releases or of --release, and serve nothing",
    )
    out.add_argument(
        "--markdown", action="store_true", help="with --coverage of a --release: as a page of Markdown, names and all"
    )
    out.add_argument("--seed", type=int, default=0, help="the same seed gives the same references and uuids")
    out.add_argument("--dump", metavar="FILE", help="load the pool from a pool database dump instead")
    out.add_argument("--listen", default="127.0.0.1", help="address of the first host (127.0.0.1)")
    out.add_argument("--port", type=int, default=0, help="port of every host (any free one)")
    out.add_argument("--tls", action="store_true", help="serve HTTPS; the ready line names the CA file to trust")
    out.add_argument(
        "--time-scale",
        type=float,
        default=0.0,
        metavar="X",
        help="simulated seconds a second; 0 (the default): on to the next thing due whenever no call is served",
    )
    out.add_argument(
        "--duration",
        action="append",
        default=[],
        metavar="NAME=N",
        help="simulated seconds that something takes, or bytes a second: vm_boot=5, migrate_rate=1e9 (again for others; "
        "mockserver.Durations tells them all)",
    )
    out.add_argument(
        "--jitter",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="let each thing take up to this share less or more, by the seed (0: as long each time)",
    )
    out.add_argument(
        "--start",
        metavar="TIME",
        help="when simulated time begins: a date and time such as 2031-05-01T08:00:00Z, or `now` (2008-12-01T00:00:00Z)",
    )
    out.add_argument("--user", default="root", help="the one user (root)")
    out.add_argument("--password", default="secret", help="the user's password (secret)")
    out.add_argument(
        "--control",
        metavar="TOKEN",
        help="answer the control path (/_mockserver/: clock, machine room, faults, invariants, trace) to whoever sends this "
        "token as Authorization: Bearer TOKEN; the ready line names its URL",
    )
    out.add_argument("--ready-file", metavar="F", help="write the ready line to this file too")
    return out


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop, or do another command. Exit status 0, or 2 for arguments or a dump that cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["anonymise"]:
        return anonymised(argv[1:])
    options = parser().parse_args(argv)
    if options.coverage:
        return _coverage(options.release, markdown=options.markdown)
    shape = {name: value for name in (*SHAPE, "nics", "templates") if (value := getattr(options, name)) is not None}
    if options.dump and shape:
        print(
            f"mockserver: --dump and --{next(iter(shape))}: a pool that is loaded is as its dump says", file=sys.stderr
        )
        return 2
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    try:
        durations = replace(parse(options.duration), jitter=options.jitter)
        who = {
            "seed": options.seed,
            "username": options.user,
            "password": options.password,
            "durations": durations,
            "start": _moment(options.start),
        }
        if options.dump:
            pool = MockPool.from_dump(options.dump, **who)
        else:
            pool = MockPool.create(**{**SHAPE, **shape}, **who)
        server = PoolServer(
            pool,
            listen=options.listen,
            port=options.port,
            time_scale=options.time_scale,
            tls=options.tls,
            control=options.control,
        )
        with server:
            _tell(server, options.ready_file)
            done.wait()
    except (DatabaseError, ValueError, ImportError) as error:
        print(f"mockserver: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mockserver: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _moment(text: str | None) -> float:
    """A point in time as seconds since the epoch: a date and time, or `now`. Raises `ValueError`."""
    if text is None:
        return START
    if text == "now":
        return float(int(time.time()))
    try:
        return parse_datetime(text).timestamp()
    except ValueError as error:
        raise ValueError(f"--start is a date and time such as 2031-05-01T08:00:00Z, or now, not {text!r}") from error


def _coverage(release: str | None, *, markdown: bool) -> int:
    from . import coverage

    if markdown and release is None:
        print("mockserver: --markdown is of one release; name it with --release", file=sys.stderr)
        return 2
    try:
        named = find(release) if release else None
        if markdown and named:
            print(coverage.page(named))
        else:
            print(coverage.table(named), coverage.LEGEND, sep="\n\n")
    except ValueError as error:
        print(f"mockserver: {error}", file=sys.stderr)
        return 2
    return 0


def anonymised(argv: list[str]) -> int:
    """Write an anonymous dump: exit status 0, or 2 for arguments or a dump that cannot be used."""
    describe = "Write a pool database dump in which nobody can be recognised, and which behaves as the original."
    options = Parser(prog="mockserver anonymise", description=describe, allow_abbrev=False)
    options.add_argument("dump", metavar="IN", help="a pool database dump")
    options.add_argument("out", metavar="OUT", help="where the anonymous one is written, readable by its owner alone")
    options.add_argument("--seed", default="0", help="the same seed gives the same names and uuids")
    given = options.parse_args(argv)
    if Path(given.out).exists() and Path(given.dump).exists() and Path(given.out).samefile(given.dump):
        options.error(f"{given.out} is the original itself: name another file")
    try:
        dump = anonymise(database.read_file(given.dump), seed=given.seed)
        database.write_file(database.write(dump), given.out)
    except DatabaseError as error:
        print(f"mockserver: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mockserver: cannot write {given.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _tell(server: PoolServer, ready_file: str | None) -> None:
    """Print the ready line, and write it to a file that is there whole or not at all."""
    ready: dict[str, object] = {"url": server.url, "pid": os.getpid(), "hosts": server.hosts()}
    if server.control_url:
        ready["control"] = server.control_url
    if server.cafile:
        ready["cafile"] = server.cafile
    if server.note:
        ready["note"] = server.note
    line = json.dumps(ready)
    if ready_file:
        aside = Path(f"{ready_file}.part")
        try:
            aside.write_text(line + "\n")
            aside.replace(ready_file)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {ready_file}: {error.strerror}") from None
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
