"""Reads the data model that upstream publishes into the shape of `table.json`; see `importer.py` for what is made of
it.

Two shapes are accepted: the list of classes that xapi's JSON backend writes, and a mapping of classes by name with flat
lifecycles. Either way a class becomes a mapping of `lifecycle` (as text), `enums`, `fields` (lists, as in the table)
and `messages`. A parameter is its name, its type, and what is known of being optional: False, True, None if nothing is
said, or a mapping with its default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from .model import first_use, parse_lifecycle
from .types import Enum, Map, Option, Ref, Scalar, Set, Type, parse

Json = Any


class InvalidInput(Exception):
    """The input cannot be imported; says where and why, in one sentence."""


def read_classes(document: Json) -> dict[str, Json]:
    """The classes of either accepted shape, by name, each a mapping with lifecycle, enums, fields and messages."""
    if isinstance(document, list):
        return {_text(entry, "name", "a class"): _from_list(entry) for entry in document}
    if isinstance(document, dict) and isinstance(document.get("classes"), dict):
        return {name: _from_mapping(name, entry) for name, entry in document["classes"].items()}
    raise InvalidInput("this is no data model: expected a list of classes, or a mapping with a member 'classes'")


def _text(entry: Json, key: str, what: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} has no {key}: {json.dumps(entry)[:120]}")
    return value


def _list(entry: Mapping[str, Json], key: str, what: str) -> list[Json]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise InvalidInput(f"{what}: {key} should be a list, got {json.dumps(value)[:80]}")
    return value


def _entries(entry: Mapping[str, Json], key: str, what: str) -> list[Mapping[str, Json]]:
    found = _list(entry, key, what)
    for item in found:
        if not isinstance(item, dict):
            raise InvalidInput(f"{what}: {key} should hold mappings, got {json.dumps(item)[:80]}")
    return found


def _mapping(entry: Json, key: str, what: str) -> Mapping[str, Json]:
    value = entry.get(key, {}) if isinstance(entry, dict) else None
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: {key} should be a mapping, got {json.dumps(value)[:80]}")
    return value


def _from_list(entry: Json) -> Json:
    name = _text(entry, "name", "a class")
    fields, messages = {}, {}
    for item in _entries(entry, "fields", f"class {name}"):
        label = f"{name}.{_text(item, 'name', f'a field of class {name}')}"
        fields[item["name"]] = _field(label, item, _transitions(label, item))
    for item in _entries(entry, "messages", f"class {name}"):
        label = f"{name}.{_text(item, 'name', f'a message of class {name}')}"
        params = _entries(item, "params", label)
        session = bool(params) and params[0].get("name") == "session_id" and params[0].get("type") == "session ref"
        result = item.get("result", ["void"])
        messages[item["name"]] = {
            "params": [
                [_text(param, "name", f"a parameter of {label}"), _type(label, param), _optional(param)]
                for param in params[session:]
            ],
            "result": spelled(label, result[0] if isinstance(result, list) and result else result),
            "errors": [_text(error, "name", f"an error of {label}") for error in _entries(item, "errors", label)],
            "roles": _list(item, "roles", label),
            "session": session,
            "lifecycle": _transitions(label, item),
            "implicit": bool(item.get("implicit")),
        }
    return {
        "lifecycle": _transitions(name, entry),
        "enums": {
            _text(enum, "name", f"an enum of class {name}"): [
                _text(value, "name", f"a value of enum {enum['name']}") for value in _entries(enum, "values", name)
            ]
            for enum in _entries(entry, "enums", f"class {name}")
        },
        "fields": fields,
        "messages": dict(sorted(messages.items())),
    }


def _optional(param: Mapping[str, Json]) -> bool | None:
    required = param.get("required")
    return None if required is None else not required


def _from_mapping(name: str, entry: Json) -> Json:
    fields = {
        field_name: _field(f"{name}.{field_name}", item, _transitions(f"{name}.{field_name}", item))
        for field_name, item in _mapping(entry, "fields", f"class {name}").items()
    }
    messages = {}
    for message_name, item in sorted(_mapping(entry, "messages", f"class {name}").items()):
        label = f"{name}.{message_name}"
        messages[message_name] = {
            "params": [
                [_text(param, "name", f"a parameter of {label}"), _type(label, param)]
                + [{key: param.get(key) for key in ("default", "since")} if param.get("optional") else False]
                for param in _entries(item, "params", label)
            ],
            "result": spelled(label, item.get("result", "void")),
            "errors": _list(item, "errors", label),
            "roles": _list(item, "roles", label),
            "session": bool(item.get("session", True)),
            "async": bool(item.get("async", True)),
            "lifecycle": _transitions(label, item),
            "implicit": bool(item.get("implicit")),
        }
    enums = {enum: list(values) for enum, values in _mapping(entry, "enums", f"class {name}").items()}
    return {"lifecycle": _transitions(name, entry), "enums": enums, "fields": fields, "messages": messages}


def _field(label: str, item: Json, lifecycle: str) -> list[Json]:
    spec: list[Json] = [_type(label, item), _text(item, "qualifier", label), lifecycle]
    if "default" in item:
        spec.append({"default": parse_default(label, parse(spec[0]), item["default"])})
    return spec


def _type(label: str, item: Json) -> str:
    return spelled(label, _text(item, "type", label))


def spelled(label: str, text: Json) -> str:
    """The usual spelling of a type."""
    try:
        return str(parse(text))
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{label}: {error}") from None


def _transitions(label: str, item: Json) -> str:
    lifecycle = item.get("lifecycle")
    if isinstance(lifecycle, dict):
        pairs = [(step.get("transition"), step.get("release")) for step in lifecycle.get("transitions", [])]
    elif isinstance(lifecycle, list):
        pairs = [tuple(step) for step in lifecycle]
    else:
        raise InvalidInput(f"{label} has no lifecycle")
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise InvalidInput(
            f"{label}: a lifecycle is made of transitions and releases, got {json.dumps(lifecycle)[:120]}"
        )
    words = [release if transition == "published" else f"{transition}:{release}" for transition, release in pairs]
    text = " ".join(words)
    try:
        first_use(parse_lifecycle(text))
    except ValueError as error:
        raise InvalidInput(f"{label}: {error}") from None
    return text


_SCALAR_DEFAULTS: Final = {"true": True, "false": False}


def parse_default(label: str, type_: Type, text: Json) -> Json:
    """The default that upstream writes as text (`"a"`, `{}`, `{"k" -> "v"}`, `Null`, `0.`), as the table stores it."""
    value, rest = _default(type_, str(text).strip())
    if rest or value is None:
        raise InvalidInput(f"{label}: {text!r} is no default of type {type_}")
    return value


def _default(type_: Type, text: str) -> tuple[Json, str]:
    if isinstance(type_, (Set, Map)):
        return _collection(type_, text)
    if isinstance(type_, Option):
        return _default(type_.item, text)
    if text.startswith('"'):
        end = text.find('"', 1)
        return (text[1:end], text[end + 1 :]) if end > 0 else (None, text)
    match = re.match(r"[^,}\s]+", text)
    word = match.group() if match else ""
    rest = text[len(word) :]
    if isinstance(type_, Ref):
        return ("" if word == "Null" else word), rest
    if isinstance(type_, Scalar):
        try:
            if type_.name == "bool":
                return _SCALAR_DEFAULTS.get(word), rest
            if type_.name in ("int", "float"):
                return (int(word) if type_.name == "int" else float(word)), rest
        except ValueError:
            return None, text
        return (word if type_.name == "datetime" else None), rest
    return (word if isinstance(type_, Enum) else None), rest


def _collection(type_: Set | Map, text: str) -> tuple[Json, str]:
    if not text.startswith("{"):
        return None, text
    items: list[Json] = []
    rest = text[1:].lstrip()
    while rest and not rest.startswith("}"):
        item, rest = _default(type_.item if isinstance(type_, Set) else type_.key, rest)
        rest = rest.lstrip()
        if isinstance(type_, Map):
            if not rest.startswith("->"):
                return None, text
            value, rest = _default(type_.item, rest[2:].lstrip())
            item = (item, value)
        if item is None:
            return None, text
        items.append(item)
        rest = rest.lstrip().removeprefix(",").lstrip()
    return (items if isinstance(type_, Set) else dict(items)), rest[1:]
