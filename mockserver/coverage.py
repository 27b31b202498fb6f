"""Which messages have behaviour, which follow from the data model, and which answer `NOT_IMPLEMENTED`, told by the verbs.

`python -m mockserver --coverage` prints the table, with `--markdown` as it stands in `docs/coverage.md`. A message that is
served but removed answers `MESSAGE_REMOVED` and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenctl import datamodel, releases
from xenctl.releases import has_removed, serves

from . import classes
from .classes.generic import KINDS, plain

if TYPE_CHECKING:
    from xenctl.datamodel import Class, Message
    from xenctl.releases import Release

HEADER = ("class", "behaviour", "generic", "not implemented", "explicit", "missing")
LEGEND = """\
behaviour        messages that do what xapi's do
generic          messages that follow from the data model: fields, records, queries
not implemented  messages that answer NOT_IMPLEMENTED; their names are under missing
explicit         how many of all these are more than reading and writing fields"""
"""What the columns of the table are, for those who read it."""


@dataclass(frozen=True)
class Covered:
    """How the messages of one class are answered: those with a verb of their own, those made from the data model, those
    not implemented; and how many are explicit, which no data model can answer."""

    name: str
    behaviour: tuple[str, ...]
    generic: tuple[str, ...]
    missing: tuple[str, ...]
    explicit: int


def live(cls: Class, release: Release | None) -> Iterator[Message]:
    """The messages of a class that a host of `release` serves, or any host where no release is given, removed ones apart."""
    for message in cls.messages.values():
        if release is None:
            if message.removed is None:
                yield message
        elif serves(release, message) and not has_removed(release, message):
            yield message


def how(message: Message) -> str:
    """`behaviour`, `generic` or `missing`."""
    if message.wire_name in classes.VERBS:
        return "behaviour"
    return "generic" if message.kind in KINDS or plain(message) is not None else "missing"


def covered(release: Release | None = None) -> list[Covered]:
    """Every class that has live messages, in alphabetical order."""
    classes.load()
    out: list[Covered] = []
    for name, cls in sorted(datamodel.load().classes.items(), key=lambda item: item[0].lower()):
        messages = list(live(cls, release))
        ways: dict[str, list[str]] = {"behaviour": [], "generic": [], "missing": []}
        for message in messages:
            ways[how(message)].append(message.name)
        explicit = sum(message.kind == "explicit" for message in messages)
        if messages:
            out.append(
                Covered(name, tuple(ways["behaviour"]), tuple(ways["generic"]), tuple(ways["missing"]), explicit)
            )
    return out


def table(release: Release | None = None) -> str:
    """The coverage as a table in plain text, one line a class, with the names of the messages that are missing."""
    found = covered(release)
    counts = [(len(row.behaviour), len(row.generic), len(row.missing), row.explicit) for row in found]
    sums = [sum(column) for column in zip(*counts, strict=True)]
    lines: list[list[str]] = [list(HEADER)]
    for row, numbers in zip(found, counts, strict=True):
        lines.append([row.name, *map(str, numbers), " ".join(sorted(row.missing))])
    lines.append(["all", *map(str, sums), ""])
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(_line(line, widths) for line in lines)


def later(release: Release) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The messages that came after `release`, by class and then by the version of the toolstack that brought them, oldest
    version first."""
    model = datamodel.load()
    for name, cls in sorted(model.classes.items(), key=lambda item: item[0].lower()):
        found: dict[str, list[str]] = {}
        came = [message for message in cls.messages.values() if not serves(release, message)]
        for message in sorted(came, key=lambda message: (model.order(message.lifecycle.since), message.name)):
            found.setdefault(message.lifecycle.since, []).append(message.name)
        if found:
            yield name, found


PAGE = """\
# Coverage

Which messages of {release} the fake answers, told by the fake itself:
`python -m mockserver --coverage --release {version} --markdown` makes this page, and a test holds it in step.

*Behaviour* is a verb of its own, whose declared writes are tested; *generic* follows from the data model: fields, records,
queries, plain constructors. The rest answers `NOT_IMPLEMENTED`: nothing succeeds without its effect. *Explicit* messages are
those that no data model can answer.

"""


LATER = """\
## Later than {release}

{count} messages came with later versions of the toolstack than {toolstack}, whose data model {release} has.
That is where the table of releases ends: no newer one is known by its product version, platform version and schema. The data
model names one more, XenServer 9, without these; and updates bring later versions of the toolstack to hosts that keep their
product version, but which of them is not told. So no host of the fake serves these messages. It answers
`MESSAGE_METHOD_UNKNOWN`, as {release} did when it came out. The typed client knows them, and the version that each
came with; a live pool that is newer is taken for the nearest older release.

"""


def page(release: Release) -> str:
    """The coverage of one release as a page of Markdown: the counts by class, the names of what is missing, and what came
    after the release."""
    found = covered(release)
    lines = [_row(*HEADER[:5]), "|---|--:|--:|--:|--:|"]
    lines += [_row(row.name, len(row.behaviour), len(row.generic), len(row.missing), row.explicit) for row in found]
    sums = [sum(len(getattr(row, way)) for row in found) for way in ("behaviour", "generic", "missing")]
    lines.append(_row("all", *sums, sum(row.explicit for row in found)))
    lines += ["", "## Not implemented", ""]
    lines += [f"- `{row.name}`: {', '.join(sorted(row.missing))}" for row in found if row.missing]
    head = PAGE.format(release=release.name, version=release.product_version)
    return head + "\n".join(lines) + _later(release)


def _later(release: Release) -> str:
    """The end of the page of the newest release; other releases have none."""
    found = list(later(release)) if release.order == max(known.order for known in releases.known()) else []
    if not found:
        return ""
    count = sum(len(names) for _, by_version in found for names in by_version.values())
    lines = [
        f"- `{name}`: {'; '.join(f'{version}: ' + ', '.join(names) for version, names in by_version.items())}"
        for name, by_version in found
    ]
    toolstack = ".".join(map(str, release.order[1:3]))
    return "\n\n" + LATER.format(release=release.name, count=count, toolstack=toolstack) + "\n".join(lines)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _line(cells: list[str], widths: list[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:5], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[5]]).rstrip()
