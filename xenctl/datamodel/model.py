"""The data model of XenAPI, loaded from `table.json`: classes, fields, messages, errors, releases.

The table stores what cannot be derived. Each field implies a getter and, if it is writable, a setter and means to add
and remove; each class in the database implies `get_by_uuid`, `get_record`, and perhaps `get_all` and its family,
`create` and `destroy`. These are made here, with the roles and lifecycle they inherit; the importer proves that nothing
else is published.

Everything is built when it is first asked for: a class when it is looked up, its messages when they are read. So
loading costs the reading of one JSON file.

A *lifecycle* is a series of transitions (`published`, `changed`, `deprecated`, `removed`, ...), each at a release,
which is a code name (`rio`) or a version of xapi (`21.3.0`). `Model.order` puts both into one order. `since` is when an
item could first be used: not before its class, nor before any class that its type refers to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from typing import Any, Final

from .types import Enum, Map, Option, Record, Ref, Scalar, Set, Type, classes_in, parse

Order = tuple[int, ...]
"""A place in the total order of releases; compare with `<` and `<=`."""

NULL_REF: Final = "OpaqueRef:NULL"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()
"""There is no default."""


@dataclass(frozen=True, eq=False)
class NamedRelease:
    """One entry of the ordered list of releases that lifecycles refer to.

    `code_name` is empty for two that never had one. `includes` is the highest numbered version of xapi whose changes
    the release has, where that is known to matter.
    """

    code_name: str
    api_version: tuple[int, int]
    product: str
    includes: str = ""


@dataclass(frozen=True, eq=False)
class Product:
    """One product as released: its version, brand and the versions of API, database schema and platform."""

    code_name: str
    product_version: str
    product_brand: str
    api_version: tuple[int, ...]
    schema: tuple[int, ...]
    platform_version: str


@dataclass(frozen=True)
class Lifecycle:
    """The transitions of an item, each `(transition, release)`, and where it first could be used (`since`)."""

    since: str
    transitions: tuple[tuple[str, str], ...]

    @property
    def deprecated(self) -> str | None:
        """The release that deprecated the item, if it is deprecated now."""
        return self._last("deprecated")

    @property
    def removed(self) -> str | None:
        """The release that removed the item, unless a later one brought it back."""
        return self._last("removed")

    def _last(self, transition: str) -> str | None:
        found = None
        for name, release in self.transitions:
            if name == transition:
                found = release
            elif name in ("published", "prototyped"):
                found = None
        return found


class _Item:
    """What everything with a lifecycle has."""

    __slots__ = ()
    lifecycle: Lifecycle

    @property
    def since(self) -> str:
        """The first release that has the item."""
        return self.lifecycle.since

    @property
    def deprecated(self) -> str | None:
        """The release that deprecated the item, if it is deprecated."""
        return self.lifecycle.deprecated

    @property
    def removed(self) -> str | None:
        """The release that removed the item, if it is removed."""
        return self.lifecycle.removed


@dataclass(frozen=True)
class Relation:
    """The other end of a relation between two fields, and which end this one is.

    `side` is `ref` (this field holds the reference, the other end is a set that the server computes), `set` (this is
    the computed set), or, where both ends are sets, `first` (writing this one updates the other) or `second`.
    """

    class_name: str
    field: str
    side: str


@dataclass(frozen=True, eq=False)
class Field(_Item):
    """One field of a class: a member of its records and a column of its table.

    `default` is what a constructor assumes, `MISSING` where it must be given. `hidden` fields are columns only: never
    in records, without messages. A field that is not `persistent` is emptied when the server starts. A `literal` set of
    references is stored as it is written, although it may also be the end of a relation. `reader` and `writer` are the
    roles that may call its getter and its setters.
    """

    class_name: str
    name: str
    column: str
    type: Type
    qualifier: str
    lifecycle: Lifecycle
    default: Any
    persistent: bool
    hidden: bool
    literal: bool
    relation: Relation | None
    reader: tuple[str, ...]
    writer: tuple[str, ...]

    @property
    def wire_name(self) -> str:
        """`VM.name_label`."""
        return f"{self.class_name}.{self.name}"

    @property
    def column_default(self) -> Any:
        """What a row without this column gets; `MISSING` where a row must have it. Sets of references default to empty."""
        if self.default is MISSING and isinstance(self.type, Set) and isinstance(self.type.item, Ref):
            return []
        return self.default

    @property
    def in_constructor(self) -> bool:
        """Whether `create` takes this field."""
        return not self.hidden and self.qualifier in ("RW", "RO/constructor")


@dataclass(frozen=True, eq=False)
class Param:
    """A parameter of a message. One with a default may be left off, and is unknown to releases before `since`."""

    name: str
    type: Type
    default: Any
    since: str

    @property
    def optional(self) -> bool:
        """Whether it may be left off."""
        return self.default is not MISSING


@dataclass(frozen=True, eq=False)
class Message(_Item):
    """One message of a class. `params` leaves out the session, which goes first if `session` is true.

    `kind` is `explicit`, or says what the message is derived from: `get`, `set`, `add`, `remove`, `add_to`,
    `remove_from` (of the field named `field`), `get_by_uuid`, `get_by_name_label`, `get_record`, `get_all`,
    `get_all_records`, `get_all_where`, `get_all_records_where`, `create`, `destroy`. `roles` are all that may call it,
    most powerful first; none means only the local root. `hidden` messages are served but not documented; where their
    parameters are not known, `params_known` is false and `params` holds those that are.
    """

    class_name: str
    name: str
    params: tuple[Param, ...]
    result: Type
    errors: tuple[str, ...]
    roles: tuple[str, ...]
    session: bool
    has_async: bool
    kind: str
    field: str
    lifecycle: Lifecycle
    hidden: bool
    pool_internal: bool
    params_known: bool

    @property
    def wire_name(self) -> str:
        """`VM.start`."""
        return f"{self.class_name}.{self.name}"

    @property
    def mandatory(self) -> int:
        """How many parameters must be sent, the session not counted."""
        return sum(not param.optional for param in self.params)


class Class(_Item):
    """One class of XenAPI; also a table of the database.

    `persistent` says whether rows survive a restart, `events` whether changes are told to `event.from`, `in_database`
    whether the table ever has rows, `get_all` whether `get_all` and its family are served, `constructor` whether
    `create` and `destroy` are implicit. `enums` holds the enums that its fields and messages use.
    """

    def __init__(self, model: Model, name: str, entry: Mapping[str, Any]) -> None:
        flags = entry["flags"].split()
        self._model, self._entry = model, entry
        self.name = name
        self.lifecycle = model.lifecycle(entry["lifecycle"])
        self.persistent = "persistent" in flags
        self.events = "events" in flags
        self.in_database = "database" in flags
        self.get_all = "get_all" in flags
        self.constructor = "constructor" in flags
        self.namespaces: tuple[str, ...] = tuple(entry.get("namespaces", "").split())
        self.enums: dict[str, tuple[str, ...]] = {enum: tuple(values) for enum, values in entry["enums"].items()}

    def __repr__(self) -> str:
        return f"<Class {self.name}>"

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every field by name: published ones in the order of records, then hidden ones."""
        return {name: self._field(name, spec) for name, spec in self._entry["fields"].items()}

    @cached_property
    def columns(self) -> dict[str, Field]:
        """Every field by the name of its column in the database; the column `_ref` is not among them."""
        return {field.column: field for field in self.fields.values()}

    @cached_property
    def messages(self) -> dict[str, Message]:
        """Every message by name: explicit ones, those of fields, those of objects."""
        found = {name: self._explicit(name, spec) for name, spec in self._entry["messages"].items()}
        absent = set(self._entry.get("absent", ()))
        for message in derived_messages(self):
            if message.name not in absent:
                found.setdefault(message.name, message)
        return found

    @property
    def constructor_roles(self) -> tuple[str, ...]:
        """The roles that may create and destroy, and that may set fields which name no others."""
        return self._model.roles(self._entry.get("roles", "pool-admin"))

    @property
    def reader_roles(self) -> tuple[str, ...]:
        """The roles that may read objects."""
        return self._model.roles(self._entry.get("reader", "read-only"))

    def column_of(self, field: str) -> str:
        """The column that holds a field: a namespace is set off by two underscores."""
        for namespace in self.namespaces:
            if field.startswith(namespace + "_"):
                return f"{namespace}__{field[len(namespace) + 1 :]}"
        return field

    def _field(self, name: str, spec: list[Any]) -> Field:
        type_ = parse(spec[0])
        more: Mapping[str, Any] = spec[3] if len(spec) > 3 else {}
        return Field(
            class_name=self.name,
            name=name,
            column=self.column_of(name),
            type=type_,
            qualifier=spec[1],
            lifecycle=self._model.lifecycle(spec[2], self.name, *classes_in(type_)),
            default=native(type_, more["default"]) if "default" in more else MISSING,
            persistent=more.get("persistent", True),
            hidden=more.get("hidden", False),
            literal=f"{self.name}.{name}" in self._model.literal_sets,
            relation=self._model.relations.get((self.name, name)),
            reader=self._model.roles(more["reader"]) if "reader" in more else self.reader_roles,
            writer=self._model.roles(more["writer"]) if "writer" in more else self.constructor_roles,
        )

    def _explicit(self, name: str, spec: Mapping[str, Any]) -> Message:
        result = parse(spec.get("result", "void"))
        params = [(param[0], parse(param[1]), param[2] if len(param) > 2 else None) for param in spec.get("params", ())]
        needed = [class_ for _, type_, optional in params if optional is None for class_ in classes_in(type_)]
        lifecycle = self._model.lifecycle(spec["lifecycle"], self.name, *needed, *classes_in(result))
        return Message(
            class_name=self.name,
            name=name,
            params=tuple(
                Param(param, type_, MISSING, lifecycle.since)
                if optional is None
                else Param(param, type_, native(type_, optional["default"]), optional["since"])
                for param, type_, optional in params
            ),
            result=result,
            errors=tuple(spec.get("errors", ())),
            roles=self._model.roles(spec.get("roles", "")),
            session=spec.get("session", True),
            has_async=spec.get("async", True),
            kind=spec.get("kind", "explicit"),
            field=spec.get("field", ""),
            lifecycle=lifecycle,
            hidden=spec.get("hidden", False),
            pool_internal=spec.get("pool_internal", False),
            params_known=spec.get("params_known", True),
        )


STRING: Final = Scalar("string")
VOID: Final = Scalar("void")


def derived_messages(class_: Class) -> Iterator[Message]:
    """The messages that a class has because of its fields and of being in the database."""
    if not class_.in_database:
        return
    me = Param("self", Ref(class_.name), MISSING, class_.since)
    for field in class_.fields.values():
        if not field.hidden:
            yield from _messages_of_field(class_, field, me)
    yield from _messages_of_object(class_, me)


def _messages_of_field(class_: Class, field: Field, me: Param) -> Iterator[Message]:
    def message(kind: str, result: Type, **extra: Type) -> Message:
        params = (me, *(Param(name, type_, MISSING, field.since) for name, type_ in extra.items()))
        roles = field.reader if kind == "get" else field.writer
        return _derived(class_, kind, f"{kind}_{field.name}", params, result, roles, field.lifecycle, field=field.name)

    yield message("get", field.type)
    if field.qualifier != "RW" or (field.relation is not None and field.relation.side == "set"):
        return
    yield message("set", VOID, value=field.type)
    if isinstance(field.type, Set):
        yield message("add", VOID, value=field.type.item)
        yield message("remove", VOID, value=field.type.item)
    elif isinstance(field.type, Map):
        yield message("add_to", VOID, key=field.type.key, value=field.type.item)
        yield message("remove_from", VOID, key=field.type.key)


def _messages_of_object(class_: Class, me: Param) -> Iterator[Message]:
    ref, record = Ref(class_.name), Record(class_.name)
    reader, writer = class_.reader_roles, class_.constructor_roles

    def text(name: str) -> Param:
        return Param(name, STRING, MISSING, class_.since)

    def message(
        kind: str,
        params: tuple[Param, ...],
        result: Type,
        roles: tuple[str, ...] = reader,
        *,
        has_async: bool = False,
        hidden: bool = False,
    ) -> Message:
        life = class_.lifecycle
        return _derived(class_, kind, kind, params, result, roles, life, has_async=has_async, hidden=hidden)

    yield message("get_by_uuid", (text("uuid"),), ref)
    yield message("get_record", (me,), record)
    if "name" in class_.namespaces:
        yield message("get_by_name_label", (text("label"),), Set(ref))
    if class_.get_all:
        yield message("get_all", (), Set(ref))
        yield message("get_all_records", (), Map(ref, record))
        yield message("get_all_where", (text("expr"),), Set(ref), hidden=True)
        yield message("get_all_records_where", (text("expr"),), Map(ref, record), hidden=True)
    if class_.constructor:
        yield message("create", (Param("args", record, MISSING, class_.since),), ref, writer, has_async=True)
        yield message("destroy", (me,), VOID, writer, has_async=True)


def _derived(
    class_: Class,
    kind: str,
    name: str,
    params: tuple[Param, ...],
    result: Type,
    roles: tuple[str, ...],
    lifecycle: Lifecycle,
    *,
    field: str = "",
    has_async: bool = False,
    hidden: bool = False,
) -> Message:
    return Message(
        class_name=class_.name,
        name=name,
        params=params,
        result=result,
        errors=(),
        roles=roles,
        session=True,
        has_async=has_async,
        kind=kind,
        field=field,
        lifecycle=lifecycle,
        hidden=hidden,
        pool_internal=False,
        params_known=True,
    )


class _Classes(Mapping[str, Class]):
    """The classes by name, each built when it is looked up."""

    def __init__(self, model: Model, entries: Mapping[str, Any]) -> None:
        self._model, self._entries = model, entries
        self._built: dict[str, Class] = {}

    def __getitem__(self, name: str) -> Class:
        found = self._built.get(name)
        if found is None:
            found = self._built[name] = Class(self._model, name, self._entries[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


class Model:
    """The whole data model. `classes` and `errors` are mappings by name, `releases` and `products` are in order."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table
        self.classes: Mapping[str, Class] = _Classes(self, table["classes"])
        self.errors: dict[str, tuple[str, ...]] = {code: tuple(names) for code, names in table["errors"].items()}
        self.releases = tuple(
            NamedRelease(row["code_name"], _pair(row["api_version"]), row["product"], row.get("includes", ""))
            for row in table["releases"]
        )
        self.products = tuple(
            Product(code, version, brand, _numbers(api), _numbers(schema), platform)
            for code, version, brand, api, schema, platform in table["products"]
        )
        self.literal_sets = frozenset(table["literal_sets"])
        self.all_roles: tuple[str, ...] = tuple(table["roles"])
        self._orders: dict[str, Order] = {}
        for place, release in enumerate(self.releases):
            if release.includes:
                self._orders[release.code_name] = (1, *_numbers(release.includes), sys.maxsize)
            elif release.code_name:
                self._orders[release.code_name] = (0, place)
        self._lifecycles: dict[tuple[str, ...], Lifecycle] = {}
        self._roles: dict[str, tuple[str, ...]] = {}

    @cached_property
    def relations(self) -> dict[tuple[str, str], Relation]:
        """Each end of each relation, `(class, field)`, with the other end."""
        found = {}
        for first, second in self._table["relations"]:
            (a_class, a_field), (b_class, b_field) = first.split("."), second.split(".")
            many = self._table["classes"][a_class]["fields"][a_field][0].endswith(" set")
            found[a_class, a_field] = Relation(b_class, b_field, "first" if many else "ref")
            found[b_class, b_field] = Relation(a_class, a_field, "second" if many else "set")
        return found

    @cached_property
    def enums(self) -> dict[str, tuple[str, ...]]:
        """Every enum by name, with its values in order."""
        return {
            enum: tuple(values)
            for entry in self._table["classes"].values()
            for enum, values in sorted(entry["enums"].items())
        }

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of all tables of the database, in the order in which a dump has them."""
        return tuple(sorted([*self._table["classes"], *self._table["tables_without_class"]]))

    def order(self, release: str) -> Order:
        """Where a code name or numbered version stands among all releases; `ValueError` if it is neither.

        Code names come in the order of the list and before all numbered versions, save the releases made since
        numbering began, which come after the last version that they include.
        """
        found = self._orders.get(release)
        if found is None:
            found = self._orders[release] = _order_of_number(release)
        return found

    def lifecycle(self, text: str, *classes: str) -> Lifecycle:
        """The lifecycle that `text` gives, of an item that cannot be used before `classes` are there."""
        key = (text, *classes)
        found = self._lifecycles.get(key)
        if found is None:
            found = self._lifecycles[key] = self._lifecycle(text, classes)
        return found

    def _lifecycle(self, text: str, classes: tuple[str, ...]) -> Lifecycle:
        transitions = parse_lifecycle(text)
        entries = self._table["classes"]
        since = first_use(transitions)
        for name in classes:
            if name in entries:
                since = max(since, first_use(parse_lifecycle(entries[name]["lifecycle"])), key=self.order)
        return Lifecycle(since, transitions)

    def roles(self, text: str) -> tuple[str, ...]:
        """The roles that `text` names: the least one, which stands for all above it, and others after `+`."""
        found = self._roles.get(text)
        if found is None:
            least, *others = text.split("+")
            upper = self.all_roles[: self.all_roles.index(least) + 1] if least else ()
            found = self._roles[text] = (*upper, *others)
        return found

    def message(self, wire_name: str) -> Message | None:
        """The message called `VM.start`, or None if the data model has none of that name."""
        class_name, _, name = wire_name.partition(".")
        class_ = self.classes.get(class_name)
        return class_.messages.get(name) if class_ is not None else None

    def empty(self, type_: Type) -> Any:
        """The empty value of a type: what a field that is not persistent holds after a restart."""
        if isinstance(type_, Set):
            return []
        if isinstance(type_, Map):
            return {}
        if isinstance(type_, Ref):
            return NULL_REF
        if isinstance(type_, Enum):
            return self.enums[type_.name][0]
        empty: dict[str, Any] = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": EPOCH}
        return empty.get(type_.name) if isinstance(type_, Scalar) else None


def native(type_: Type, value: Any) -> Any:
    """The Python value of a default as the table has it: JSON has no dates, and only text as keys."""
    if isinstance(type_, Scalar) and type_.name == "datetime":
        parts = (value[:4], value[4:6], value[6:8], value[9:11], value[12:14], value[15:17])
        year, month, day, hour, minute, second = map(int, parts)
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    if isinstance(type_, Scalar) and type_.name == "float":
        return float(value)
    if isinstance(type_, (Set, Option)) and isinstance(value, list):
        return [native(type_.item, item) for item in value]
    if isinstance(type_, Map):
        return {key: native(type_.item, item) for key, item in value.items()}
    return value


def parse_lifecycle(text: str) -> tuple[tuple[str, str], ...]:
    """The transitions that `rio deprecated:boston` spells; a release by itself means published."""
    parts = (word.rpartition(":") for word in text.split())
    return tuple((transition or "published", release) for transition, _, release in parts)


def first_use(transitions: tuple[tuple[str, str], ...]) -> str:
    """The release that first published an item or, if none did, the one that has it as a prototype."""
    for wanted in ("published", "prototyped"):
        for transition, release in transitions:
            if transition == wanted:
                return release
    raise ValueError(f"a lifecycle must say when it begins, got {transitions!r}")


def _order_of_number(release: str) -> Order:
    version, dash, suffix = release.partition("-")
    try:
        numbers = _numbers(version)
    except ValueError:
        numbers = ()
    if not numbers or (dash and suffix != "next"):
        raise ValueError(f"no release is called {release!r}: neither a code name nor a version of xapi such as 21.3.0")
    return (1, *(numbers + (0, 0, 0))[: max(3, len(numbers))], *([1] if dash else []))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _pair(text: str) -> tuple[int, int]:
    major, minor = _numbers(text)
    return major, minor


@lru_cache(maxsize=1)
def load() -> Model:
    """The data model that this library was built with. Read once, then kept."""
    with open(os.path.join(os.path.dirname(__file__), "table.json"), encoding="utf-8") as file:
        return Model(json.load(file))
