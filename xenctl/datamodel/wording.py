"""What the generated docstrings say: facts of the model in words.

Nothing here is taken from upstream's descriptions. A sentence says what kind of message it is; units follow from types
and names; then come the release since which it exists, the least role that may call it, and the errors it declares.
"""

from __future__ import annotations

import re
from typing import Final

from .model import MISSING, Class, Field, Message, Model
from .types import Scalar

_UNITS: Final = tuple(
    (re.compile(pattern), kind, unit)
    for pattern, kind, unit in (
        (r"(VM|host|VM_metrics|host_metrics)\.memory_\w+", "int", "bytes"),
        (
            r"\w+\.(size|installation_size|framebuffer_size|(virtual|physical)_(size|utilisation|allocation))",
            "int",
            "bytes",
        ),
        (
            r"\w+\.\w*memory\w*\.(static_min|static_max|dynamic_min|dynamic_max|min|max|target|value|total)",
            "int",
            "bytes",
        ),
        (r"\w+\.\w+\.(size|virtual_size|physical_size|physical_utilisation)", "int", "bytes"),
        (r"VDI\.resize(_online)?\.\w+", "int", "bytes"),
        (r"\w+\.io_(read|write)_kbs", "float", "KiB a second"),
        (r"(\w+\.)?\w+\.(\w*timeout|\w*_delay|ext_auth_cache_expiry)", "int", "seconds"),
        (r"(\w+\.)?\w+\.\w*timeout", "float", "seconds"),
        (r"task\.progress", "float", "from 0 to 1"),
        (r"host_cpu\.speed", "int", "MHz"),
        (r"PIF_metrics\.speed", "int", "Mbit a second"),
        (r"(\w+\.)?\w+\.MTU", "int", "bytes"),
    )
)
"""Units by name (`class.field`, or `class.message.parameter`) and type; the first that fits is used."""

_RESULTS_IN_BYTES: Final = re.compile(r"\w*(memory|get_free_space|_size)\w*")


class Wording:
    """Writes docstrings for one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._versions: dict[str, str] = {}
        for product in reversed(model.products):
            if product.product_brand == "XenServer" or product.code_name not in self._versions:
                self._versions[product.code_name] = product.product_version

    def release(self, name: str) -> str:
        """A code name or numbered version as people know it: `4.0.1`, `6.2 SP1`, `xapi 21.3.0`."""
        if name in self._versions:
            return self._versions[name]
        for release in self._model.releases:
            if release.code_name == name:
                return re.sub(r"^(XenServer|Citrix Hypervisor) ", "", release.product) or name
        return f"xapi {name}"

    def times(self, item: Class | Field | Message, since: bool = True) -> str:
        """Since when an item exists, and whether it is deprecated or removed."""
        parts = [f"since {self.release(item.since)}"] if since else []
        parts += [f"deprecated since {self.release(item.deprecated)}"] if item.deprecated else []
        parts += [f"removed in {self.release(item.removed)}"] if item.removed else []
        text = ", ".join(parts)
        return f"{text[0].upper()}{text[1:]}." if text else ""

    def of_class(self, class_: Class) -> str:
        """The facts of a class."""
        return self.times(class_)

    def of_field(self, class_: Class, field: Field) -> str:
        """What there is to say of a field beside its name and type; empty if nothing."""
        what = unit(field.wire_name, field.type)
        newer = field.since != class_.since
        return " ".join(part for part in (f"In {what}." if what else "", self.times(field, since=newer)) if part)

    def of_message(self, class_: Class, message: Message) -> tuple[str, str]:
        """The first sentence on a message, and its facts."""
        return _sentence(class_, message), " ".join(part for part in self._facts(class_, message) if part)

    def _facts(self, class_: Class, message: Message) -> list[str]:
        facts = ["Undocumented." if message.hidden else "", self.times(message)]
        facts += [f"{text[0].upper()}{text[1:]}." for text in self._parameters(message)]
        if message.kind == "create":
            needed = [each.name for each in class_.fields.values() if each.in_constructor and each.default is MISSING]
            facts.append(f"Mandatory: {', '.join(needed)}." if needed else "")
        if message.pool_internal:
            facts.append("Only hosts of the pool may call it.")
        elif not message.roles:
            facts.append("Only the local root may call it.")
        elif message.session:
            facts.append(f"Least role: {least_role(message.roles)}.")
        facts.append("" if message.session else "Takes no session.")
        errors = (*message.errors, *_IMPLIED_ERRORS.get(message.kind, ()))
        facts.append(f"Raises {', '.join(errors)}." if errors else "")
        return facts

    def _parameters(self, message: Message) -> list[str]:
        """The units of parameters, and since when optional ones are known, each told once for all that share it."""
        notes: dict[str, list[str]] = {}
        for param in message.params:
            what = "" if message.field else unit(f"{message.wire_name}.{param.name}", param.type)
            if what:
                notes.setdefault(f"in {what}", []).append(f"`{param.name}`")
            if param.optional and param.since != message.since:
                notes.setdefault(f"since {self.release(param.since)}", []).append(f"`{param.name}`")
        if message.kind == "explicit" and message.result == _INT and _RESULTS_IN_BYTES.fullmatch(message.name):
            notes.setdefault("in bytes", []).append("the result")
        return [f"{_listed(names)} {note}" for note, names in notes.items()]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_INT: Final = Scalar("int")

_IMPLIED_ERRORS: Final = {
    "get": ("HANDLE_INVALID",),
    "get_record": ("HANDLE_INVALID",),
    "get_by_uuid": ("UUID_INVALID",),
    "get_all_where": ("INVALID_VALUE",),
    "get_all_records_where": ("INVALID_VALUE",),
    "add_to": ("MAP_DUPLICATE_KEY",),
}
"""Errors that the server gives without declaring them."""

_SENTENCES: Final = {
    "get": "Return the field {field} of the {name}{unit}.",
    "set": "Set the field {field} of the {name}{unit}.",
    "add": "Add a value to the field {field} of the {name}; one that is there already is left alone.",
    "remove": "Remove a value from the field {field} of the {name}, if it is there.",
    "add_to": "Add a key to the field {field} of the {name}; it must not be there yet.",
    "remove_from": "Remove a key from the field {field} of the {name}, if it is there.",
    "get_by_uuid": "Return the {name} with this UUID.",
    "get_by_name_label": "Return every {name} with this label; there may be none or several.",
    "get_record": "Return all fields of the {name}.",
    "get_all": "Return every {name}.",
    "get_all_records": "Return all fields of every {name}.",
    "get_all_where": 'Return every {name} that fits a query over its columns, such as `field "uuid"="..."`.',
    "get_all_records_where": "Return all fields of every {name} that fits a query over its columns.",
    "create": "Create a new {name} from these fields.",
    "destroy": "Destroy the {name}.",
}


def _sentence(class_: Class, message: Message) -> str:
    template = _SENTENCES.get(message.kind)
    if template is None:
        return f"{message.wire_name}."
    field = class_.fields.get(message.field)
    what = unit(field.wire_name, field.type) if field else ""
    return template.format(
        field=message.field,
        name=class_.name,
        unit=f", in {what}" if what else "",
    )


def unit(name: str, type_: object) -> str:
    """The unit of a field or parameter, if type and name tell it."""
    for pattern, kind, what in _UNITS:
        if type_ == Scalar(kind) and pattern.fullmatch(name):
            return what
    return ""


def least_role(roles: tuple[str, ...]) -> str:
    """The least powerful of roles, those for certificates aside."""
    people = [role for role in roles if role != "client-cert"]
    return people[-1] if people else roles[-1]
