"""A pool database in which nobody can be recognised, and which behaves as the one that it was made of.

What is hidden is not listed; what is shown is. A text goes through as it is only if its type says that it tells nothing
(numbers, dates, enums), or its field is in `SHOWN`. Everything else is replaced: names by a word and a number, in the order
that the names had, since plans go by that; uuids and references by others, in their order; addresses so that those of one
network stay together; all else by a word. The same text becomes the same everywhere: as a cell, in a set, in a map, in a
record that is kept as XML or as an S-expression. So relations stay, and so does what a procedure looks at: power states,
memory, releases, processors, kinds of storage.

It takes two passes over the same code: the first only collects what has to be replaced. What stands for what follows from
the order of the texts and from `seed`, never from a text itself.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from dataclasses import replace

from xenctl import database, datamodel
from xenctl.database import Database, parse_map, parse_set, write_map, write_set
from xenctl.datamodel import types as t

from .columns import NULL, from_text

SHOWN = frozenset(
    "SM.name_label SM.name_description SM.type SM.vendor SM.copyright SM.version SM.required_api_version SM.capabilities "
    "SM.features SM.driver_filename role.name_label SR.type SR.content_type VBD.userdevice VBD.device "
    "VBD.qos_algorithm_type VIF.device PIF.device PIF.device_name network.bridge console.protocol PIF.netmask "
    "VIF.qos_algorithm_type VM.HVM_boot_policy VM.HVM_boot_params VM.PV_bootloader VM.VCPUs_params VM.domarch "
    "VM.platform VM.recommendations "
    "VM.ha_restart_priority VM.last_boot_CPU_flags VM.hardware_platform_version VM.reference_label "
    "VM_metrics.state VM_metrics.current_domain_type VM_guest_metrics.os_version VM_guest_metrics.PV_drivers_version "
    "host.API_version_vendor host.API_version_vendor_implementation host.capabilities host.cpu_info host.edition "
    "host.sched_policy host.supported_bootloaders host.software_version host.power_on_mode host.chipset_info "
    "host.cpu_configuration host_cpu.vendor host_cpu.modelname host_cpu.stepping host_cpu.flags host_cpu.features "
    "pool.cpu_info GPU_group.GPU_types PGPU.dom0_access PCI.class_name PCI.vendor_name "
    "PCI.device_name PCI.pci_id VGPU_type.vendor_name VGPU_type.model_name VGPU_type.identifier".split()
)
"""The fields whose text is technical; uuids and addresses in it are replaced all the same."""

KEYED = frozenset(
    "device_config sm_config license_params bios_strings memory disks networks other logging qos_algorithm_params "
    "properties xenstore_data ha_configuration guest_agent_config external_auth_configuration data "
    "schedule".split()
)
"""The fields of maps whose keys are xapi's own words; what they stand for is hidden."""

KEYS = re.compile(
    r"mac_seed|agent_start_time|boot_time|rolling_upgrade_in_progress|auto_poweron|import_task|base_template_name|"
    r"install-(?:methods|arch|distro|repository|round)|linux_template|instant|conversions|last_shutdown_\w+|"
    r"MAINTENANCE_MODE\w*|xensource_internal|is_guest_installer_network|is_host_internal_management_network|automatic|"
    r"iso_?type|dirty|auto-scan|ha_\w+|multipath\w*|static-routes|cpuid_feature_mask|hideFromXenCenter|"
    r"allow_clone_suspended_vm|assume_network_is_shared|default_template|indestructible|xenserver_tools_sr|"
    r"feature-[\w-]+|platform-feature-[\w-]+"
)
"""Keys of free maps, such as `other_config`, that xapi and its installers give a meaning."""

NAMES = {
    "host": "host.name_label host.hostname host.address",
    "guest": "VM.name_label",
    "storage": "SR.name_label",
    "disk": "VDI.name_label",
    "network": "network.name_label",
    "pool": "pool.name_label",
    "tag": "VM.tags SR.tags VDI.tags network.tags host.tags pool.tags",
    "secret": "secret.value pool.wlb_password Cluster.cluster_token",
    "patch": "host_patch.name_label pool_patch.name_label pool_update.name_label pool_update.key",
}
"""The word that stands for a text, by fields; the others are plain `text`."""
DESCRIPTION = "description"
OTHER_WORDS = ("object", "thing", "name", "zz")
"""What stands in for a word that is itself a name in the original."""
SECRET = re.compile(r".*(?:password|passwd|_transformed|secret|token).*", re.IGNORECASE | re.DOTALL)
"""Keys of maps under which a secret is kept."""
PLAIN = re.compile(
    r"sku_\w+|expiry|restrict_\w+|type|options|nfsversion|legacy_mode|min|hour|days|gro|hashing_algorithm|lacp-time"
)
"""Keys of maps under which nothing is kept that tells who somebody is."""
WORDS = {field: word for word, fields in NAMES.items() for field in fields.split()}

RECORDS = {"VM.last_booted_record": "VM", "VM.snapshot_metadata": "VM"}
"""Fields that hold a whole record of a class, as XML or as an S-expression."""

TOKEN = re.compile(
    r"(?P<uuid>(?<![0-9A-Fa-f-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f-]))"
    r"|(?P<wide>(?<![0-9A-Za-z:])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){7,}(?![0-9A-Za-z:]))"
    r"|(?P<mac>(?<![0-9A-Za-z:])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}(?![0-9A-Za-z:]))"
    r"|(?P<v6>(?<![0-9A-Za-z:])(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}"
    r"|(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?::(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?)(?![0-9A-Za-z:]))"
    r"|(?P<v4>(?<![0-9A-Za-z.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![0-9A-Za-z]|\.\d))"
)
"""What is replaced wherever it stands: uuids (in references too), addresses of links and of networks."""
NOTHING = re.compile(
    r"(?:OpaqueRef:(?:NULL)?|true|false|https?|file|console|ref|[\W\d_])*|\d{8}T\d\d:\d\d:\d\dZ?|[+-]?\d+(?:\.\d*)?e[+-]?\d+"
)
"""What tells nothing once the tokens are out of it."""
LOCAL = re.compile(r"0\.0\.0\.0|127\..*|255\..*|::1?")
"""Addresses that are the same everywhere, and netmasks."""
LEAF = re.compile(r"(<(?:value|string|int|i4|double|boolean|dateTime\.iso8601)>)([^<]*)(?=</)")
MEMBER = re.compile(r"<name>([^<]*)</name>")
ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))


def anonymise(db: Database, *, seed: int | str = 0) -> Database:
    """A copy of `db` without names, descriptions, addresses, secrets, and with other uuids and references.

    The same `seed` gives the same bytes. The result is as valid as the original. Raises `DatabaseError` as `read` does
    where the schema is missing.
    """
    hider = _Hider(seed)
    _Pass(hider).database(db)
    hider.settle()
    return _Pass(hider).database(db)


class _Hider:
    """What stands for what. Until `settle` it only collects."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"anonymise {seed}")
        self._found: dict[str, dict[str, None]] = {}
        self._stands: dict[str, dict[str, str]] | None = None

    def hide(self, kind: str, text: str) -> str:
        """What stands for `text`, which is of `kind`."""
        if self._stands is None:
            self._found.setdefault(kind, {})[text] = None
            return text
        return self._stands[kind][text]

    def settle(self) -> None:
        """Decide on what stands for what was collected."""
        makers: dict[str, Callable[[list[str]], list[str]]] = {
            "uuid": self._uuids,
            "mac": lambda texts: _avoiding(texts, lambda n: _hexes(0x02_16_3E_00_00_00 + n, 6)),
            "wide": lambda texts: _avoiding(texts, lambda n: _hexes(0x02_16_3E_00_00_00_00_00 + n, 8)),
            "v6": lambda texts: _avoiding(texts, lambda n: f"fd00::{n >> 16:x}:{n & 0xFFFF:x}"),
            "v4": _addresses,
        }
        everything = {text.lower() for texts in self._found.values() for text in texts}
        self._stands = {}
        for kind, found in sorted(self._found.items()):
            texts = sorted(found)
            make = makers.get(kind)
            self._stands[kind] = dict(zip(texts, make(texts) if make else _words(kind, texts, everything), strict=True))

    def _uuids(self, texts: list[str]) -> list[str]:
        fresh: set[str] = set()
        while len(fresh) < len(texts):
            made = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            if made not in texts:
                fresh.add(made)
        return sorted(fresh)


def _is_xml(text: str) -> bool:
    """Whether a text is a document and nothing else. What is none may be somebody's own words."""
    from lxml import etree  # few dumps have any

    try:
        etree.fromstring(text.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, ValueError):
        return False
    return "<!" not in text


def _words(word: str, texts: list[str], taken: set[str]) -> list[str]:
    """A word and a number for each text, in their order, none of them in `taken`."""
    width = len(str(len(texts)))
    for candidate in (word, *OTHER_WORDS):
        word = candidate
        if not any(word[a:b] in taken for a in range(len(word)) for b in range(a + 3, len(word) + 1)):
            break
    while any(f"{word}-{number:0{width}}" in taken for number in range(1, len(texts) + 1)):
        width += 1
    return [f"{word}-{number:0{width}}" for number in range(1, len(texts) + 1)]


def _avoiding(texts: list[str], make: Callable[[int], str]) -> list[str]:
    """A number's form for each text, in their order, none of them among the texts."""
    taken, out, number = {text.lower() for text in texts}, list[str](), 0
    while len(out) < len(texts):
        number += 1
        if make(number) not in taken:
            out.append(make(number))
    return out


def _hexes(number: int, size: int) -> str:
    return ":".join(f"{byte:02x}" for byte in number.to_bytes(size, "big"))


def _addresses(texts: list[str]) -> list[str]:
    """Other addresses: what began alike begins alike, and nothing begins as anything did."""
    octets = {text: tuple(int(part) for part in text.split(".")) for text in texts}
    used = {parts[0] for parts in octets.values()}
    firsts = [*(n for n in (10, *range(100, 224), *range(1, 100)) if n not in used and n != 127), *sorted(used)]
    children: dict[tuple[int, ...], list[int]] = {}
    for parts in sorted(octets.values()):
        for depth in range(4):
            at = children.setdefault(parts[:depth], [])
            if parts[depth] not in at:
                at.append(parts[depth])

    def other(parts: tuple[int, ...]) -> str:
        ranks = [children[parts[:depth]].index(parts[depth]) for depth in range(4)]
        spread = 1 if len(children[parts[:3]]) < 255 else 0
        return ".".join(str(n) for n in (firsts[ranks[0]], ranks[1], ranks[2], ranks[3] + spread))

    return [other(octets[text]) for text in texts]


class _Pass:
    """One way over a whole database."""

    def __init__(self, hider: _Hider) -> None:
        self._hide = hider.hide
        self._model = datamodel.load()

    def database(self, db: Database) -> Database:
        manifest = {
            k: self.free(v, "secret") if SECRET.fullmatch(k) else self.tokens(v) for k, v in db.manifest.items()
        }
        out = Database(manifest, {}, db.form)
        for name, table in db.tables.items():
            made = out.tables[name] = database.Table(name)
            for row in table.rows.values():
                ref = self.reference(row.ref)
                made.rows[ref] = replace(row, ref=ref, cells={c: self.cell(name, c, x) for c, x in row.cells.items()})
        return out

    def cell(self, table: str, column: str, text: str) -> str:
        cls = self._model.classes.get(table)
        field = cls.columns.get(column) if cls is not None else None
        if field is not None:
            return self.value(table, field.name, field.type, text)
        return self.reference(text) if column == "_ref" else self.free(text)

    def value(self, table: str, name: str, kind: t.Type, text: str) -> str:
        """The text of a field."""
        place = f"{table}.{name}"
        if not text or text == "()":
            return text
        if place in SHOWN:
            return self.shown(place, text)
        if place in RECORDS:
            return self.record(RECORDS[place], text)
        if isinstance(kind, t.Ref):
            return self.reference(text)
        if isinstance(kind, t.Enum):
            return text if text in self._model.enums[kind.name] else self.free(text)
        if isinstance(kind, t.Scalar) and kind.name != "string":
            return text if _fits(kind, text) else self.free(text)
        try:
            if isinstance(kind, t.Set):
                return write_set([self.value(table, name, kind.item, item) for item in parse_set(text)])
            if isinstance(kind, t.Map):
                return self.mapping(table, name, kind, parse_map(text))
        except ValueError:  # no set or map after all
            return self.free(text)
        return self.free(text, DESCRIPTION if name == "name_description" else WORDS.get(place, "text"))

    def mapping(self, table: str, name: str, kind: t.Map, pairs: dict[str, str]) -> str:
        def key(text: str) -> str:
            if kind.key == t.Scalar("string"):
                return text if name in KEYED or KEYS.fullmatch(text) else self.free(text)
            return self.value(table, name, kind.key, text)

        def item(key: str, text: str) -> str:
            if kind.item != t.Scalar("string"):
                return self.value(table, "", kind.item, text)
            if SECRET.fullmatch(key):
                return self.free(text, "secret") if text else text
            return self.tokens(text) if name in KEYED and PLAIN.fullmatch(key) else self.free(text)

        return write_map({key(k): item(k, v) for k, v in pairs.items()})

    def shown(self, place: str, text: str) -> str:
        if place == "VM.recommendations" and not _is_xml(text):
            return self.free(text)
        if place != "host.software_version":
            return self.tokens(text)
        try:
            pairs = parse_map(text)
        except ValueError:
            return self.free(text)
        return write_map({k: self.free(v, "host") if k == "hostname" else v for k, v in pairs.items()})

    def record(self, table: str, text: str) -> str:
        """A record within a text; one that cannot be understood is hidden whole."""
        if text.lstrip().startswith("<"):
            return self.xml(table, text)
        try:
            pairs = parse_map(text)
        except ValueError:
            return self.free(text)
        fields = self._model.classes[table].fields

        def item(name: str, value: str) -> str:
            return self.value(table, name, fields[name].type, value) if name in fields else self.free(value)

        return write_map({name: item(name, value) for name, value in pairs.items()})

    def xml(self, table: str, text: str) -> str:
        """A record in XML: each value by the member that it is of."""
        fields, member = self._model.classes[table].fields, ""
        out, at = list[str](), 0
        for found in re.finditer(f"{MEMBER.pattern}|{LEAF.pattern}", text):
            if found[1] is not None:
                member = found[1]
                continue
            field, leaf = fields.get(member), _plain(found[3])
            kind = field.type if field is not None else t.Scalar("string")
            while isinstance(kind, (t.Set, t.Map)):
                kind = kind.item
            shown = self.value(table, member, kind, leaf) if leaf.strip() else leaf
            out += [text[at : found.start()], found[2], _escaped(shown)]
            at = found.end()
        rest = text[at:]
        return "".join([*out, rest]) if out or not re.search(r">[^<]*\w[^<]*<", rest) else self.free(text)

    def reference(self, text: str) -> str:
        """A reference, be it to something or to nothing."""
        if text in (NULL, "") or TOKEN.sub("", text) == "OpaqueRef:":
            return self.tokens(text)
        return f"OpaqueRef:{self._hide('dangling', text)}" if not TOKEN.fullmatch(text) else self.tokens(text)

    def free(self, text: str, word: str = "text") -> str:
        """A text of which nothing is known: replaced, unless it is made of tokens, numbers and marks alone; a name or a
        secret is not spared for being a number."""
        tells_nothing = NOTHING.fullmatch(TOKEN.sub("", text)) is not None
        if TOKEN.fullmatch(text) or (tells_nothing and (word == "text" or TOKEN.search(text))) or not text:
            return self.tokens(text)
        return self._hide(word, text)

    def tokens(self, text: str) -> str:
        """`text` with every uuid and address in it replaced."""
        return TOKEN.sub(self._token, text)

    def _token(self, found: re.Match[str]) -> str:
        kind, text = str(found.lastgroup), found[0].lower()
        return found[0] if kind in ("v4", "v6") and LOCAL.fullmatch(text) else self._hide(kind, text)


def _fits(kind: t.Scalar, text: str) -> bool:
    try:
        from_text(kind, text)
    except ValueError:
        return False
    return True


def _plain(text: str) -> str:
    for entity, sign in ENTITIES:
        text = text.replace(entity, sign)
    return text


def _escaped(text: str) -> str:
    for entity, sign in reversed(ENTITIES):
        text = text.replace(sign, entity)
    return text
