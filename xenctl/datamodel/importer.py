"""Brings `table.json` up to date: `python -m xenctl.datamodel.importer xenapi.json`.

Reads the data model in the shape in which upstream publishes it (xapi's JSON backend: a list of classes) or as a
mapping of classes by name, and rewrites the table. What upstream does not publish stays as the table has it: hidden
messages and columns, relations, defaults of optional parameters, which messages have an asynchronous form, what is
stored and told to `event.from`. Where the table has nothing to keep (a new class, a new optional parameter) a guess is
made and said aloud.

`--release-info` adds code names from upstream's `release_info.json`; `--hidden-messages`, `--errors` and `--releases`
merge tab-separated tables of those facts. At the end every implicit message that upstream published is compared with
what the model derives, and differences are stored, so that the table says exactly what was published.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .model import Class, Message, Model, parse_lifecycle
from .types import Enum, Map, Scalar, Set, Type, enums_in, parse
from .upstream import InvalidInput, Json, parse_default, read_classes, spelled

Table = dict[str, Any]

CORRECTIONS: Final = {
    "VTPM": (0, "rio", "dumps of 4.0.1 and 4.1.0 have the table; upstream dates it from its new implementation"),
    "VM.memory_overhead": (2, "midnight-ride", "dumps of 4.0.1 and 4.1.0 lack the column; it came with 5.6"),
    "host.memory_overhead": (2, "midnight-ride", "dumps of 4.0.1 and 4.1.0 lack the column; it came with 5.6"),
    "pool.coordinator_bias": (2, "prototyped:22.37.0", "dumps of 4.0.1 and 4.1.0 lack the column"),
    "event.id": (0, "string", "the server sends text"),
    "event.timestamp": (0, "string", "the server sends text, and not a date"),
}
"""What upstream publishes wrongly: of a class the lifecycle, of a field its type (0) or lifecycle (2); and how we know."""

SETTABLE: Final = {
    "VM.HVM_shadow_multiplier": "miami",
    **dict.fromkeys(("VM.VCPUs_at_startup", "VM.VCPUs_max"), "rio"),
    **{f"VM.memory_{name}": "rio" for name in ("static_max", "static_min", "dynamic_max", "dynamic_min")},
    "pool.uefi_certificates": "quebec",
    "task.other_config": "miami",
}
"""Fields that could be written like others, since the release here, before messages were made that do it: upstream dates
these messages from then, but hosts have answered to their names all the time."""
SETTERS: Final = ("set_", "add_to_", "remove_from_")


@dataclass
class Report:
    """What an import did: `notes` are guesses to check by hand."""

    notes: list[str] = field(default_factory=list)


# Merging it into the table


def merge_classes(table: Table, published: Mapping[str, Json], report: Report) -> None:
    """Put the published classes into `table`, keeping what is not published."""
    known = table["classes"]
    table["classes"] = {
        name: _merge_class(table, name, entry, known.get(name), report) for name, entry in published.items()
    }
    for name in known.keys() - published.keys():
        report.notes.append(f"class {name} is published no more; it has been dropped")
    for label, (place, text, _) in CORRECTIONS.items():
        name, _, member = label.partition(".")
        entry = table["classes"].get(name)
        if entry is not None and not member:
            entry["lifecycle"] = text
        elif entry is not None and member in entry["fields"]:
            entry["fields"][member][place] = text
    _date_setters(table)
    _check_references(table)
    _keep_relations(table, report)
    _store_exceptions(table, published)


def _date_setters(table: Table) -> None:
    """Say since when hosts have answered to the messages that write a field."""
    for label, since in SETTABLE.items():
        name, _, member = label.partition(".")
        for setter in SETTERS:
            spec = table["classes"].get(name, {"messages": {}})["messages"].get(setter + member)
            if spec is not None:
                spec["lifecycle"] = " ".join([since, *spec["lifecycle"].split()[1:]])


def _keep_relations(table: Table, report: Report) -> None:
    """Drop relations and literal sets whose fields are gone, and name sets of references that have neither."""

    def there(end: str) -> bool:
        name, _, member = end.partition(".")
        return name in table["classes"] and member in table["classes"][name]["fields"]

    for pair in table["relations"]:
        if not all(map(there, pair)):
            report.notes.append(f"the relation between {' and '.join(pair)} has lost an end; it has been dropped")
    table["relations"] = [pair for pair in table["relations"] if all(map(there, pair))]
    table["literal_sets"] = [end for end in table["literal_sets"] if there(end)]
    placed = {end for pair in table["relations"] for end in pair} | set(table["literal_sets"])
    for name, entry in table["classes"].items():
        for member, spec in entry["fields"].items():
            if spec[0].endswith(" ref set") and f"{name}.{member}" not in placed:
                table["literal_sets"].append(f"{name}.{member}")
                report.notes.append(f"{name}.{member} is new: assumed to be stored as it is, without a relation")


def _merge_class(table: Table, name: str, entry: Json, present: Json, report: Report) -> Json:
    old: Mapping[str, Json] = present or {"fields": {}, "messages": {}, "enums": {}}
    implicit = {key: message for key, message in entry["messages"].items() if message["implicit"]}
    explicit = {key: message for key, message in entry["messages"].items() if not message["implicit"]}
    merged: dict[str, Json] = {"lifecycle": entry["lifecycle"]}
    if present is None:
        merged["flags"] = _guess_flags(implicit)
        report.notes.append(f"class {name} is new: assumed {merged['flags'] or 'not stored'}")
        merged["namespaces"] = "name" if "get_by_name_label" in implicit else ""
    else:
        merged["flags"], merged["namespaces"] = present["flags"], present.get("namespaces", "")
    writer, reader = _class_roles(table, implicit)
    merged["roles"], merged["reader"] = writer, reader
    fields = {}
    for field_name, spec in entry["fields"].items():
        more = {**(spec[3] if len(spec) > 3 else {}), **_field_roles(table, implicit, field_name, writer, reader)}
        before = old["fields"].get(field_name, [])
        more.update({key: before[3][key] for key in ("persistent",) if len(before) > 3 and key in before[3]})
        fields[field_name] = [*spec[:3], more] if more else spec[:3]
    hidden = {key: spec for key, spec in old["fields"].items() if len(spec) > 3 and spec[3].get("hidden")}
    merged["fields"] = {**fields, **{key: spec for key, spec in hidden.items() if key not in fields}}
    messages = {
        key: _message(table, f"{name}.{key}", message, old["messages"].get(key, {}), report)
        for key, message in explicit.items()
    }
    kept = {key: spec for key, spec in old["messages"].items() if spec.get("hidden") and key not in entry["messages"]}
    merged["messages"] = dict(sorted({**messages, **kept}.items()))
    merged["enums"] = {**entry["enums"], **_enums_kept(merged, entry["enums"], old["enums"])}
    return {key: value for key, value in merged.items() if value or key in ("enums", "fields", "messages", "flags")}


def _guess_flags(implicit: Mapping[str, Json]) -> str:
    words = ["persistent", "events", "database"] if "get_record" in implicit else []
    words += ["get_all"] if "get_all" in implicit else []
    words += ["constructor"] if "create" in implicit else []
    return " ".join(words)


def _enums_kept(merged: Json, published: Mapping[str, Json], old: Mapping[str, Json]) -> dict[str, Json]:
    """The enums that only hidden fields and messages use."""
    spellings = [spec[0] for spec in merged["fields"].values()]
    for message in merged["messages"].values():
        spellings += [message.get("result", "void"), *(param[1] for param in message.get("params", ()))]
    used = {enum for text in spellings for enum in enums_in(parse(text))}
    return {enum: old[enum] for enum in old if enum in used and enum not in published}


def _class_roles(table: Table, implicit: Mapping[str, Json]) -> tuple[str, str]:
    """The roles that most writers and most readers of a class have."""
    writers = [message["roles"] for key, message in implicit.items() if key in ("create", "destroy")]
    if not writers:
        writers = [message["roles"] for key, message in implicit.items() if not key.startswith("get_")]
    readers = [message["roles"] for key, message in implicit.items() if key.startswith("get_")]
    return _common_roles(table, writers, "pool-admin"), _common_roles(table, readers, "read-only")


def _common_roles(table: Table, lists: Iterable[Sequence[str]], otherwise: str) -> str:
    counts = Counter(roles_text(table, roles) for roles in lists)
    return min(counts, key=lambda text: (-counts[text], text)) if counts else otherwise


def _field_roles(
    table: Table, implicit: Mapping[str, Json], field_name: str, writer: str, reader: str
) -> dict[str, str]:
    found = {}
    getter, setter = implicit.get(f"get_{field_name}"), implicit.get(f"set_{field_name}")
    if getter and roles_text(table, getter["roles"]) != reader:
        found["reader"] = roles_text(table, getter["roles"])
    if setter and roles_text(table, setter["roles"]) != writer:
        found["writer"] = roles_text(table, setter["roles"])
    return found


def roles_text(table: Table, roles: Sequence[str]) -> str:
    """A list of roles as the table spells it: the least of an unbroken line from the top, then others after `+`."""
    order: list[str] = table["roles"]
    unknown = [role for role in roles if role not in order]
    if unknown:
        raise InvalidInput(f"unknown role {unknown[0]!r}: the table knows {', '.join(order)}")
    length = 0
    while length < len(order) and order[length] in roles:
        length += 1
    return "+".join([order[length - 1] if length else "", *(role for role in order[length:] if role in roles)])


def _message(table: Table, label: str, published: Json, old: Mapping[str, Json], report: Report) -> Json:
    known = {param[0]: param[2] for param in old.get("params", ()) if len(param) > 2}
    params: list[list[Json]] = []
    for name, spelling, optional in published["params"]:
        told = optional if isinstance(optional, dict) and _is_release(table, optional.get("since")) else None
        if told is None and optional is not False:
            told = known.get(name)
        if told is None and optional:
            told = {"default": _zero(table, parse(spelling)), "since": parse_lifecycle(published["lifecycle"])[-1][1]}
            report.notes.append(f"{label}: assumed {told} for the optional parameter {name}")
        params.append([name, spelling, *([told] if told else [])])
    has_async = published.get("async", old.get("async", True))
    if "async" not in published and not old:
        report.notes.append(f"{label} is new: assumed to have an asynchronous form")
    return compact_message(
        params=params,
        result=published["result"],
        roles=roles_text(table, published["roles"]),
        lifecycle=published["lifecycle"],
        errors=list(published["errors"]),
        session=published["session"],
        has_async=has_async,
    )


def _is_release(table: Table, name: Json) -> bool:
    return isinstance(name, str) and (name[:1].isdigit() or any(row["code_name"] == name for row in table["releases"]))


def compact_message(
    *,
    params: list[list[Json]],
    result: str,
    roles: str,
    lifecycle: str,
    errors: list[str],
    session: bool,
    has_async: bool,
    **marks: bool,
) -> Json:
    """A message as the table stores it: what is usual is left out."""
    spec: dict[str, Json] = {"params": params} if params else {}
    spec |= {"result": result} if result != "void" else {}
    spec |= {"roles": roles, "lifecycle": lifecycle}
    spec |= {"errors": errors} if errors else {}
    spec |= {key: False for key, value in (("session", session), ("async", has_async)) if not value}
    return spec | {key: value for key, value in marks.items() if value != (key == "params_known")}


def _zero(table: Table, type_: Type) -> Json:
    if isinstance(type_, Enum):
        return next(
            (entry["enums"][type_.name][0] for entry in table["classes"].values() if type_.name in entry["enums"]), ""
        )
    zeros: dict[str, Json] = {"int": 0, "float": 0.0, "bool": False, "datetime": "19700101T00:00:00Z"}
    if isinstance(type_, Scalar):
        return zeros.get(type_.name, "")
    return [] if isinstance(type_, Set) else {} if isinstance(type_, Map) else "OpaqueRef:NULL"


def _check_references(table: Table) -> None:
    """Every release and enum that the table names must be known."""
    model = Model(table)
    for class_name, entry in table["classes"].items():
        places = [(class_name, entry["lifecycle"])]
        places += [(f"{class_name}.{key}", spec[2]) for key, spec in entry["fields"].items()]
        places += [(f"{class_name}.{key}", spec["lifecycle"]) for key, spec in entry["messages"].items()]
        for label, text in places:
            for _, release in parse_lifecycle(text):
                try:
                    model.order(release)
                except ValueError as error:
                    raise InvalidInput(f"{label}: {error}; new code names come with --release-info") from None
        for label, spelling in _spellings(class_name, entry):
            for enum in enums_in(parse(spelling)):
                if enum not in model.enums:
                    raise InvalidInput(f"{label}: the values of enum {enum} are not given")


def _spellings(class_name: str, entry: Json) -> Iterator[tuple[str, str]]:
    for key, spec in entry["fields"].items():
        yield f"{class_name}.{key}", spec[0]
    for key, spec in entry["messages"].items():
        for spelling in (spec.get("result", "void"), *(param[1] for param in spec.get("params", ()))):
            yield f"{class_name}.{key}", spelling


def _store_exceptions(table: Table, published: Mapping[str, Json]) -> None:
    """Compare the implicit messages as published with those that the model derives, and store what differs."""
    model = Model(table)
    for name, class_ in model.classes.items():
        entry = table["classes"][name]
        implicit = {key: spec for key, spec in published[name]["messages"].items() if spec["implicit"]}
        derived = {key: message for key, message in class_.messages.items() if message.kind != "explicit"}
        absent = sorted(key for key, message in derived.items() if key not in implicit and not message.hidden)
        if absent:
            entry["absent"] = absent
        for key, spec in implicit.items():
            if key in derived and _same(class_, derived[key], spec, table):
                continue
            kind, field_name = (derived[key].kind, derived[key].field) if key in derived else ("explicit", "")
            stored = compact_message(
                params=[param[:2] for param in spec["params"]],
                result=spec["result"],
                roles=roles_text(table, spec["roles"]),
                lifecycle=spec["lifecycle"],
                errors=list(spec["errors"]),
                session=spec["session"],
                has_async=spec.get("async", kind in ("create", "destroy")),
            )
            entry["messages"][key] = stored | {"kind": kind} | ({"field": field_name} if field_name else {})


def _same(class_: Class, message: Message, spec: Json, table: Table) -> bool:
    corrected = (f"{class_.name}.{message.field}" if message.field else class_.name) in CORRECTIONS
    return (
        [[param.name, str(param.type)] for param in message.params] == [param[:2] for param in spec["params"]]
        and str(message.result) == spec["result"]
        and list(message.roles) == list(spec["roles"])
        and message.session == spec["session"]
        and message.has_async == spec.get("async", message.has_async)
        and not spec["errors"]
        and (corrected or message.lifecycle.transitions == parse_lifecycle(spec["lifecycle"]))
    )


# Merging tables of facts


def merge_release_info(table: Table, document: Json) -> None:
    """Add code names that `release_info.json` has and the table has not, each after the one before it."""
    if not isinstance(document, dict):
        raise InvalidInput("release information should be a mapping from code names to changes")
    rows = table["releases"]
    place = 0
    for name in document:
        if not re.match(r"[a-z]", name):
            continue
        at = next((index for index, row in enumerate(rows) if row["code_name"] == name), None)
        if at is None:
            rows.insert(place, {"code_name": name, "api_version": "0.0", "product": ""})
            at = place
        place = at + 1


def merge_releases(table: Table, rows: Iterable[Mapping[str, str]]) -> None:
    """Replace the list of products."""
    columns = ("code_name", "product_version", "product_brand", "api_version", "schema", "platform_version")
    table["products"] = [[_cell(row, column, "release") for column in columns] for row in rows]


def merge_errors(table: Table, rows: Iterable[Mapping[str, str]]) -> None:
    """Add error codes and the names of their parameters; codes that are not in `rows` stay."""
    for row in rows:
        names = [name.strip() for name in _cell(row, "params", "error").split(",")]
        table["errors"][_cell(row, "code", "error")] = [name for name in names if name]
    table["errors"] = dict(sorted(table["errors"].items()))


def merge_hidden_messages(table: Table, rows: Iterable[Mapping[str, str]]) -> None:
    """Replace what is known of messages that upstream keeps out of its documents.

    Columns: class, message, session, async, pool_internal, params (`self: VM ref, value: bool = false since 24.35.0`),
    and optionally result, roles, lifecycle, errors, params_known. Without them a message is taken to be as old as its
    class, and to be for the local root alone; a result is `any`.
    """
    classes = table["classes"]
    names = {name.lower(): name for name in classes}
    for row in rows:
        class_name, name = _cell(row, "class", "hidden message"), _cell(row, "message", "hidden message")
        label = f"{class_name}.{name}"
        if class_name not in classes:
            raise InvalidInput(f"hidden message {label}: there is no class {class_name}")
        rich = bool(row.get("result"))
        params_known = row.get("params_known", "true") != "false"
        classes[class_name]["messages"][name] = compact_message(
            params=[_hidden_param(label, text, names) for text in _split(_cell(row, "params", label))],
            result=row["result"] if rich else "any",
            roles=row.get("roles") or "",
            lifecycle=row.get("lifecycle") or classes[class_name]["lifecycle"],
            errors=(row.get("errors") or "").split(),
            session=row["session"] == "true",
            has_async=row["async"] == "true",
            hidden=True,
            pool_internal=row["pool_internal"] == "true",
            params_known=params_known and (rich or bool(row["params"])),
        )
    for entry in classes.values():
        entry["messages"] = dict(sorted(entry["messages"].items()))
    _check_references(table)


def _split(text: str) -> list[str]:
    """The parts between commas that are not within brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


_PARAM: Final = re.compile(r"(\w+): (.+?)(?: = (\S.*?) since (\S+))?")


def _hidden_param(label: str, text: str, names: Mapping[str, str]) -> list[Json]:
    match = _PARAM.fullmatch(text)
    if match is None:
        raise InvalidInput(f"hidden message {label}: {text!r} is no parameter such as 'vm: VM ref'")
    name, type_text, default, since = match.groups()
    type_ = parse(spelled(label, _plain_spelling(type_text, names)))
    if default is None:
        return [name, str(type_)]
    return [name, str(type_), {"default": parse_default(label, type_, default), "since": since}]


def _plain_spelling(text: str, names: Mapping[str, str]) -> str:
    """The usual spelling of a type that may be spelled as in xapi's sources: `Ref _vm`, `Set (Ref _vdi)`, `Map (a, b)`."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if text.startswith("Ref _"):
        return f"{names.get(text[5:].lower(), text[5:])} ref"
    if text.startswith("Set "):
        return f"{_plain_spelling(text[4:], names)} set"
    if text.startswith("Map "):
        key, item = _split(text[4:].strip()[1:-1])
        return f"({_plain_spelling(key, names)} -> {_plain_spelling(item, names)}) map"
    return {"SecretString": "string"}.get(text, text.lower() if text.isalpha() else text)


def _cell(row: Mapping[str, str], column: str, what: str) -> str:
    value = row.get(column)
    if value is None:
        raise InvalidInput(f"the table of facts has no column {column!r} for {what}")
    return value


# Files


def dump(table: Table) -> str:
    """The table as text: one line a field, message, error and release, so that differences read well."""
    lines = ["{"]
    for key, value in table.items():
        if key != "classes":
            lines += [f'"{key}": {_block(value)},']
    lines.append('"classes": {')
    for name, entry in table["classes"].items():
        lines.append(f'"{name}": {{')
        for key in ("lifecycle", "flags", "namespaces", "roles", "reader", "absent"):
            if key in entry:
                lines.append(f'"{key}": {_line(entry[key])},')
        lines += [f'"{key}": {_block(entry[key])},' for key in ("enums", "fields")]
        lines += [f'"messages": {_block(entry["messages"])}', "},"]
    lines[-1] = "}"
    return "\n".join([*lines, "}", "}", ""])


def _line(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _block(value: Json) -> str:
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {_line(key)}: {_line(item)}" for key, item in value.items()) + "\n}"
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return "[\n" + ",\n".join(f"  {_line(item)}" for item in value) + "\n]"
    return _line(value)


def read_json(path: str) -> Json:
    """The JSON document in a file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from None


def read_rows(path: str) -> list[dict[str, str]]:
    """The rows of a tab-separated table whose first line names the columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the importer; 0 if the table was written, 1 with one message if it could not be."""
    here = os.path.join(os.path.dirname(__file__), "table.json")
    parser = argparse.ArgumentParser(
        prog="python -m xenctl.datamodel.importer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", nargs="?", metavar="FILE", help="the data model that upstream publishes, xenapi.json")
    parser.add_argument("--release-info", metavar="FILE", help="upstream's release_info.json, for new code names")
    parser.add_argument("--hidden-messages", metavar="FILE", help="tab-separated: messages that are not documented")
    parser.add_argument("--errors", metavar="FILE", help="tab-separated: error codes and their parameters")
    parser.add_argument("--releases", metavar="FILE", help="tab-separated: products with their versions")
    parser.add_argument("--table", metavar="FILE", default=here, help="the table to update (default: the one in use)")
    options = parser.parse_args(arguments)
    try:
        table, report = read_json(options.table), Report()
        if options.releases:
            merge_releases(table, read_rows(options.releases))
        if options.release_info:
            merge_release_info(table, read_json(options.release_info))
        if options.model:
            merge_classes(table, read_classes(read_json(options.model)), report)
        if options.errors:
            merge_errors(table, read_rows(options.errors))
        if options.hidden_messages:
            merge_hidden_messages(table, read_rows(options.hidden_messages))
    except InvalidInput as error:
        print(f"not imported: {error}", file=sys.stderr)
        return 1
    with open(options.table, "w", encoding="utf-8") as file:
        file.write(dump(table))
    print("\n".join(report.notes + [f"wrote {options.table}; now run python -m xenctl.datamodel.generate"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
