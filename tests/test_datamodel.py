"""The data model: what is in it, what is derived, how releases are ordered."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest
from lxml import etree

from xenctl.datamodel import (
    MISSING,
    Class,
    Enum,
    Map,
    Message,
    Model,
    Option,
    Record,
    Ref,
    Scalar,
    Set,
    importer,
    load,
    parse,
    types,
)

DATA = Path(__file__).parent / "data"
TABLE = Path(importer.__file__).with_name("table.json")
MODEL = load()


def message(name: str) -> Message:
    """A message that must exist."""
    found = MODEL.message(name)
    assert found is not None, name
    return found


def every_message() -> list[Message]:
    """The messages of all classes."""
    return [each for class_ in MODEL.classes.values() for each in class_.messages.values()]


class TestTypes:
    """The type algebra."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("string", Scalar("string")),
            ("VM ref", Ref("VM")),
            ("enum vm_operations set", Set(Enum("vm_operations"))),
            ("(string -> enum vm_operations) map", Map(Scalar("string"), Enum("vm_operations"))),
            ("string option", Option(Scalar("string"))),
            ("sr_stat record option", Option(Record("sr_stat"))),
            ("string set set", Set(Set(Scalar("string")))),
            (
                "(VM ref -> (string -> string) map) map",
                Map(Ref("VM"), Map(Scalar("string"), Scalar("string"))),
            ),
            ("<class> record", Record("<class>")),
            ("an event batch", types.EVENT_BATCH),
        ],
    )
    def test_spelling_is_read_and_written(self, text: str, expected: types.Type) -> None:
        """A type is read from upstream's spelling and gives the same spelling back."""
        assert parse(text) == expected
        assert str(parse(text)) == text

    def test_every_type_of_the_model_keeps_its_spelling(self) -> None:
        """Each type in the table survives a round trip, and equal spellings are one object."""
        table = json.loads(TABLE.read_text())
        spellings = {spec[0] for entry in table["classes"].values() for spec in entry["fields"].values()}
        assert len(spellings) > 100
        for text in spellings:
            assert str(parse(text)) == text
            assert parse(text) is parse(text)

    @pytest.mark.parametrize(
        "text", ["", "VM", "VM reference", "(string -> ) map", "(string -> string)", "string set extra", "enum", "set"]
    )
    def test_what_is_no_type_is_refused(self, text: str) -> None:
        """A misspelt type is an error that quotes it."""
        with pytest.raises(ValueError, match="not a type of the data model"):
            parse(text)

    def test_classes_and_enums_within_a_type(self) -> None:
        """A type tells which classes and enums it mentions, however deep."""
        nested = parse("(VM ref -> (host ref -> enum vm_operations set) map) map")
        assert list(types.classes_in(nested)) == ["VM", "host"]
        assert list(types.enums_in(nested)) == ["vm_operations"]


class TestContents:
    """What is in the model."""

    def test_what_upstream_publishes_is_there(self) -> None:
        """All classes, published fields and published messages are in the model."""
        fields = [field for class_ in MODEL.classes.values() for field in class_.fields.values()]
        assert len(MODEL.classes) == 72
        assert sum(not field.hidden for field in fields) == 922
        assert sum(not each.hidden for each in every_message()) == 2007
        assert len(MODEL.errors) == 635
        assert "VM" in MODEL.classes
        assert MODEL.classes.get("vm") is None

    def test_hidden_parts_are_there_and_marked(self) -> None:
        """Messages and columns that upstream does not document are in the model, and say so."""
        assert message("pool.is_slave").hidden
        assert message("pool.is_slave").result == Scalar("bool")
        assert message("host.notify").pool_internal
        assert message("VM.get_all_where").hidden
        assert MODEL.classes["host"].fields["boot_free_mem"].hidden
        assert not message("VM.start").hidden
        assert MODEL.message("host.get_boot_free_mem") is None

    def test_a_class_is_built_once_and_when_asked_for(self) -> None:
        """Looking a class up twice gives the same object, and a fresh model has built none."""
        assert MODEL.classes["VM"] is MODEL.classes["VM"]
        assert load() is MODEL
        fresh = Model(json.loads(TABLE.read_text()))
        first = fresh.classes["VM"]
        assert isinstance(first, Class)
        assert first is not MODEL.classes["VM"]
        assert list(fresh.classes)[:2] == ["session", "auth"]

    def test_names_on_the_wire(self) -> None:
        """Fields and messages know their wire names, and messages are found by them."""
        assert message("VM.clean_shutdown").wire_name == "VM.clean_shutdown"
        assert MODEL.classes["VM"].fields["name_label"].wire_name == "VM.name_label"
        assert MODEL.message("VM.no_such_thing") is None
        assert MODEL.message("nothing.at_all") is None
        assert MODEL.message("VM") is None

    def test_names_are_said_to_be_in_order(self) -> None:
        """Fields come in the order of records, hidden ones last; enums keep their order."""
        assert list(MODEL.classes["VM"].fields)[:4] == [
            "uuid",
            "allowed_operations",
            "current_operations",
            "name_label",
        ]
        assert list(MODEL.classes["VBD"].fields)[-1] == "reserved"
        assert MODEL.enums["vm_power_state"] == ("Halted", "Paused", "Running", "Suspended")

    def test_every_enum_and_class_in_a_type_exists(self) -> None:
        """No type mentions a class or an enum that the model does not have."""
        mentioned = [param.type for each in every_message() for param in each.params]
        mentioned += [each.result for each in every_message()]
        for type_ in set(mentioned):
            assert set(types.enums_in(type_)) <= set(MODEL.enums)
            assert set(types.classes_in(type_)) <= {*MODEL.classes, "event_batch"}

    def test_errors_that_messages_declare_exist(self) -> None:
        """Every error that a message declares is in the list of errors, where parameters have names."""
        assert {error for each in every_message() for error in each.errors} <= set(MODEL.errors)
        assert MODEL.errors["VM_BAD_POWER_STATE"] == ("vm", "expected", "actual")
        assert MODEL.errors["HOST_IS_SLAVE"] == ("Master IP address",)

    def test_tables_are_the_classes_in_order_of_bytes(self) -> None:
        """A dump has a table for every class and one without, upper case first."""
        assert MODEL.tables[0] == "Bond"
        assert "Diagnostics" in MODEL.tables
        assert len(MODEL.tables) == 73
        assert list(MODEL.tables) == sorted(MODEL.tables, key=str.encode)

    @pytest.mark.parametrize(
        ("name", "persistent", "events", "in_database", "get_all"),
        [
            ("VM", True, True, True, True),
            ("session", False, False, True, False),
            ("task", False, True, True, True),
            ("event", False, False, False, False),
            ("message", False, True, False, False),
            ("VIF_metrics", False, True, True, True),
            ("LVHD", True, True, True, False),
            ("secret", True, False, True, True),
        ],
    )
    def test_what_is_stored_and_told(
        self, name: str, persistent: bool, events: bool, in_database: bool, get_all: bool
    ) -> None:
        """A class says whether rows outlive a restart, emit events, are stored at all, and can all be listed."""
        class_ = MODEL.classes[name]
        assert (class_.persistent, class_.events, class_.in_database, class_.get_all) == (
            persistent,
            events,
            in_database,
            get_all,
        )


class TestFields:
    """Fields: columns, defaults, relations."""

    @pytest.mark.parametrize(
        ("name", "column"),
        [
            ("VM.name_label", "name__label"),
            ("VM.memory_static_max", "memory__static_max"),
            ("VM.HVM_boot_policy", "HVM__boot_policy"),
            ("VM.PCI_bus", "PCI_bus"),
            ("host.API_version_vendor_implementation", "API_version__vendor_implementation"),
            ("host.memory_overhead", "memory__overhead"),
            ("pool.name_label", "name_label"),
            ("VM_guest_metrics.PV_drivers_version", "PV_drivers_version"),
            ("VM_metrics.VCPUs_number", "VCPUs__number"),
            ("VBD.qos_algorithm_type", "qos__algorithm_type"),
            ("PIF_metrics.io_read_kbs", "io__read_kbs"),
        ],
    )
    def test_column_of_a_field(self, name: str, column: str) -> None:
        """A namespace is set off with two underscores in the database, which not every prefix is."""
        class_, _, field = name.partition(".")
        assert MODEL.classes[class_].fields[field].column == column
        assert MODEL.classes[class_].columns[column].name == field

    @pytest.mark.parametrize(
        ("name", "default"),
        [
            ("VM.uuid", MISSING),
            ("VM.name_label", ""),
            ("VM.power_state", "Halted"),
            ("VM.suspend_VDI", "OpaqueRef:NULL"),
            ("VM.snapshot_of", ""),
            ("VM.snapshot_time", datetime(1970, 1, 1, tzinfo=timezone.utc)),
            ("VM.blocked_operations", {}),
            ("VM.HVM_shadow_multiplier", 1.0),
            ("subject.roles", ["OpaqueRef:0165f154-ba3e-034e-6b27-5d271af109ba"]),
            ("host.license_server", {"address": "localhost", "port": "27000"}),
            ("VBD.reserved", False),
            ("PGPU.size", 1048576),
        ],
    )
    def test_default_of_a_field(self, name: str, default: object) -> None:
        """Defaults are Python values of the field's type; a field without one says so."""
        class_, _, field = name.partition(".")
        assert MODEL.classes[class_].fields[field].default == default

    def test_sets_of_references_default_to_empty_in_the_database(self) -> None:
        """A row without a column of references gets an empty set, although a constructor must name one."""
        field = MODEL.classes["VM"].fields["VBDs"]
        assert field.default is MISSING
        assert field.column_default == []
        assert MODEL.classes["VM"].fields["uuid"].column_default is MISSING
        assert not MISSING

    @pytest.mark.parametrize(
        ("name", "other", "side"),
        [
            ("VBD.VM", "VM.VBDs", "ref"),
            ("VM.VBDs", "VBD.VM", "set"),
            ("VM.snapshot_of", "VM.snapshots", "ref"),
            ("host.updates", "pool_update.hosts", "first"),
            ("pool_update.hosts", "host.updates", "second"),
            ("PCI.attached_VMs", "VM.attached_PCIs", "first"),
        ],
    )
    def test_relations(self, name: str, other: str, side: str) -> None:
        """A field that is one end of a relation knows the other end and which side it is."""
        class_, _, field = name.partition(".")
        relation = MODEL.classes[class_].fields[field].relation
        assert relation is not None
        assert (f"{relation.class_name}.{relation.field}", relation.side) == (other, side)

    def test_every_set_of_references_is_related_or_literal(self) -> None:
        """Sets of references are computed from the other end, or stored as they are."""
        for class_ in MODEL.classes.values():
            for field in class_.fields.values():
                if isinstance(field.type, Set) and isinstance(field.type.item, Ref) and class_.in_database:
                    assert field.relation is not None or field.literal, field.wire_name
        assert MODEL.classes["subject"].fields["roles"].relation is None
        assert len(MODEL.relations) == 2 * 63 - 1, "role.subroles is both ends of its relation"

    @pytest.mark.parametrize(
        ("name", "persistent"),
        [
            ("VM.allowed_operations", False),
            ("VM.current_operations", False),
            ("VM_metrics.memory_actual", False),
            ("VM_metrics.VCPUs_number", True),
            ("host_cpu.utilisation", False),
            ("VM.power_state", True),
        ],
    )
    def test_fields_that_a_restart_empties(self, name: str, persistent: bool) -> None:
        """What the server recomputes is not kept over a restart."""
        class_, _, field = name.partition(".")
        assert MODEL.classes[class_].fields[field].persistent is persistent

    @pytest.mark.parametrize(
        ("text", "empty"),
        [
            ("string", ""),
            ("int", 0),
            ("float", 0.0),
            ("bool", False),
            ("datetime", datetime(1970, 1, 1, tzinfo=timezone.utc)),
            ("enum vm_power_state", "Halted"),
            ("VM ref", "OpaqueRef:NULL"),
            ("VM ref set", []),
            ("(string -> string) map", {}),
        ],
    )
    def test_empty_value_of_a_type(self, text: str, empty: object) -> None:
        """Each type has the empty value that the server writes; an enum's is its first."""
        assert MODEL.empty(parse(text)) == empty

    @pytest.mark.parametrize(("dump", "release"), [("pool-4.0.1.xml", "rio"), ("pool-4.1.0.xml", "miami")])
    def test_columns_of_old_releases_are_those_of_real_dumps(self, dump: str, release: str) -> None:
        """For 4.0.1 and 4.1.0 the model has exactly the tables and columns that a dump has."""
        root = etree.parse(DATA / dump).getroot()
        seen = {
            str(table.get("name")): {column for row in table for column in row.attrib} for table in root.iter("table")
        }
        last = MODEL.order(release)
        assert set(seen) == {name for name, class_ in MODEL.classes.items() if MODEL.order(class_.since) <= last}
        for name, columns in seen.items():
            fields = MODEL.classes[name].columns.values()
            known = {field.column for field in fields if MODEL.order(field.since) <= last}
            if columns:
                assert columns - {"ref", "_ref"} == known, name


class TestMessages:
    """Messages: derivation, parameters, roles."""

    def test_kinds(self) -> None:
        """Messages that upstream calls implicit are derived, each kind as often as upstream publishes it."""
        kinds = Counter(each.kind for each in every_message() if not each.hidden)
        assert kinds["explicit"] == 551
        assert sum(kinds.values()) - kinds["explicit"] == 1456
        assert (kinds["get"], kinds["set"], kinds["add"], kinds["add_to"]) == (884, 142, 6, 52)
        assert (kinds["create"], kinds["destroy"], kinds["get_by_uuid"], kinds["get_all"]) == (18, 18, 65, 62)
        assert kinds["get_by_name_label"] == 24

    @pytest.mark.parametrize(
        ("name", "params", "result", "kind", "field"),
        [
            ("VM.get_power_state", ["self: VM ref"], "enum vm_power_state", "get", "power_state"),
            ("VM.set_name_label", ["self: VM ref", "value: string"], "void", "set", "name_label"),
            ("VM.add_tags", ["self: VM ref", "value: string"], "void", "add", "tags"),
            ("VM.remove_tags", ["self: VM ref", "value: string"], "void", "remove", "tags"),
            (
                "SR.add_to_other_config",
                ["self: SR ref", "key: string", "value: string"],
                "void",
                "add_to",
                "other_config",
            ),
            ("SR.remove_from_other_config", ["self: SR ref", "key: string"], "void", "remove_from", "other_config"),
            ("VM.get_by_uuid", ["uuid: string"], "VM ref", "get_by_uuid", ""),
            ("VM.get_by_name_label", ["label: string"], "VM ref set", "get_by_name_label", ""),
            ("VM.get_record", ["self: VM ref"], "VM record", "get_record", ""),
            ("VM.get_all", [], "VM ref set", "get_all", ""),
            ("VM.get_all_records", [], "(VM ref -> VM record) map", "get_all_records", ""),
            ("VM.get_all_where", ["expr: string"], "VM ref set", "get_all_where", ""),
            ("VM.get_all_records_where", ["expr: string"], "(VM ref -> VM record) map", "get_all_records_where", ""),
            ("VM.create", ["args: VM record"], "VM ref", "create", ""),
            ("VM.destroy", ["self: VM ref"], "void", "destroy", ""),
        ],
    )
    def test_derived_messages(self, name: str, params: list[str], result: str, kind: str, field: str) -> None:
        """A derived message has the parameters and result that its field or class implies."""
        found = message(name)
        assert [f"{param.name}: {param.type}" for param in found.params] == params
        assert (str(found.result), found.kind, found.field) == (result, kind, field)

    @pytest.mark.parametrize(
        "name",
        [
            "VM.set_uuid",
            "VM.set_VBDs",
            "VM.add_VBDs",
            "pool.get_by_name_label",
            "session.get_all",
            "VM.add_to_name_label",
        ],
    )
    def test_messages_that_do_not_exist(self, name: str) -> None:
        """Read-only fields have no setter, computed sets nothing to add to, some classes no list or label."""
        assert MODEL.message(name) is None

    def test_asynchronous_forms(self) -> None:
        """Explicit messages say whether they have one; of the derived, only create and destroy do."""
        assert message("VM.start").has_async
        assert not message("host.get_servertime").has_async
        for each in every_message():
            if each.kind != "explicit":
                assert each.has_async == (each.kind in ("create", "destroy")), each.wire_name

    def test_which_messages_take_no_session(self) -> None:
        """Only the four ways to log in come without a session."""
        assert sorted(each.wire_name for each in every_message() if not each.session) == [
            "session.login_with_password",
            "session.slave_local_login",
            "session.slave_local_login_with_password",
            "session.slave_login",
        ]

    @pytest.mark.parametrize(
        ("name", "roles"),
        [
            ("VM.start", ("pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator")),
            ("VM.get_uuid", MODEL.all_roles),
            ("pool.eject", ("pool-admin", "pool-operator")),
            ("VM.set_name_label", ("pool-admin", "pool-operator", "vm-power-admin", "vm-admin")),
            ("VM.pool_migrate", ("pool-admin", "pool-operator", "vm-power-admin", "client-cert")),
            ("host.update_master", ()),
            ("secret.get_record", ("pool-admin", "pool-operator")),
        ],
    )
    def test_roles(self, name: str, roles: tuple[str, ...]) -> None:
        """A message lists every role that may call it, most powerful first; none means the local root."""
        assert message(name).roles == roles

    @pytest.mark.parametrize(
        ("name", "defaults"),
        [
            ("session.login_with_password", {"version": "1.1", "originator": ""}),
            ("VM.create_new_blob", {"public": False}),
            ("pool.sync_updates", {"token": "", "token_id": "", "username": "", "password": ""}),
            ("host.disable_external_auth", {"config": {}, "force": False}),
            ("host.evacuate", {"network": "OpaqueRef:NULL", "evacuate_batch_size": 0}),
            ("host.disable", {"auto_enable": True}),
            ("VM.snapshot", {"ignore_vdis": []}),
            ("VM.migrate_send", {"vgpu_map": {}, "vdi_format_map": {}}),
            ("VIF.configure_ipv4", {"address": "", "gateway": ""}),
            (
                "PIF.db_introduce",
                {
                    "disallow_unplug": False,
                    "ipv6_configuration_mode": "None",
                    "IPv6": [],
                    "ipv6_gateway": "",
                    "primary_address_type": "IPv4",
                    "managed": True,
                    "properties": {},
                },
            ),
            ("Bond.create", {"mode": "balance-slb", "properties": {}}),
            ("tunnel.create", {"protocol": "gre"}),
            ("SR.create", {"sm_config": {}}),
            ("VDI.copy", {"sr": "OpaqueRef:NULL", "base_vdi": "OpaqueRef:NULL", "into_vdi": "OpaqueRef:NULL"}),
            (
                "VDI.introduce",
                {
                    "xenstore_data": {},
                    "sm_config": {},
                    "managed": True,
                    "virtual_size": 0,
                    "physical_utilisation": 0,
                    "metadata_of_pool": "",
                    "is_a_snapshot": False,
                    "snapshot_time": datetime(1970, 1, 1, tzinfo=timezone.utc),
                    "snapshot_of": "",
                },
            ),
            ("VGPU.create", {"device": "0", "other_config": {}, "type": "OpaqueRef:NULL"}),
            ("SDN_controller.introduce", {"protocol": "ssl", "address": "", "port": 0}),
            ("Cluster.create", {"token_timeout": 20.0, "token_timeout_coefficient": 1.0}),
            ("Repository.introduce", {"gpgkey_path": ""}),
        ],
    )
    def test_optional_parameters(self, name: str, defaults: dict[str, object]) -> None:
        """Optional parameters come last, with the defaults that the server assumes."""
        found = message(name)
        optional = [param for param in found.params if param.optional]
        assert {param.name: param.default for param in optional} == defaults
        assert found.mandatory == len(found.params) - len(optional)

    def test_optional_parameters_are_trailing(self) -> None:
        """No mandatory parameter follows an optional one, in any message."""
        for each in every_message():
            flags = [param.optional for param in each.params]
            assert flags == sorted(flags), each.wire_name


class TestLifecycles:
    """Since when things exist."""

    @pytest.mark.parametrize(
        ("older", "newer"),
        [
            ("rio", "miami"),
            ("miami", "symc"),
            ("stockholm", "1.250.0"),
            ("1.250.0", "21.3.0"),
            ("21.3.0", "21.10.0"),
            ("24.14.0", "24.14.0-next"),
            ("24.14.0-next", "24.15.0"),
            ("24.10.0", "nile"),
            ("nile", "24.11.0"),
            ("26.17.0", "orinoco"),
        ],
    )
    def test_releases_are_in_one_order(self, older: str, newer: str) -> None:
        """Code names come before numbers, except those that include numbered ones, which come after these."""
        assert MODEL.order(older) < MODEL.order(newer)

    @pytest.mark.parametrize("name", ["", "no-such-name", "24.x", "1.2-final"])
    def test_what_is_no_release_is_refused(self, name: str) -> None:
        """A release that is neither a code name nor a version is an error that names it."""
        with pytest.raises(ValueError, match="no release is called"):
            MODEL.order(name)

    @pytest.mark.parametrize(
        ("name", "since", "deprecated", "removed"),
        [
            ("VM.start", "rio", None, None),
            ("VM.snapshot_with_quiesce", "orlando", "quebec", "quebec"),
            ("VM.get_memory_target", "rio", "midnight-ride", None),
            ("VM.get_domain_type", "kolkata", None, None),
            ("VM.sysprep", "25.24.0", None, None),
            ("host.evacuate", "miami", None, None),
            ("VTPM.get_VM", "rio", None, None),
            ("VTPM.create", "22.26.0", None, None),
            ("VM.get_memory_overhead", "midnight-ride", None, None),
            ("VMPP.get_all", "cowley", "clearwater", "clearwater"),
        ],
    )
    def test_life_of_a_message(self, name: str, since: str, deprecated: str | None, removed: str | None) -> None:
        """A message tells since when it is there, and whether it is deprecated or removed."""
        found = message(name)
        assert (found.since, found.deprecated, found.removed) == (since, deprecated, removed)

    @pytest.mark.parametrize(
        ("name", "since", "because"),
        [
            ("VM.get_VUSBs", "inverness", "VUSB"),
            ("host.get_PCIs", "boston", "PCI"),
            ("PIF.get_bond_slave_of", "miami", "Bond"),
            ("pool.get_wlb_url", "george", "pool"),
            ("PIF.pool_introduce", "miami", "Bond"),
        ],
    )
    def test_nothing_is_older_than_the_classes_of_its_type(self, name: str, since: str, because: str) -> None:
        """What refers to a class that came later counts from then."""
        assert message(name).since == since
        assert MODEL.order(MODEL.classes[because].since) <= MODEL.order(since)

    def test_no_item_is_older_than_its_classes(self) -> None:
        """Over the whole model no field or message precedes a class that it belongs or refers to."""
        for class_ in MODEL.classes.values():
            for field in class_.fields.values():
                for name in (class_.name, *types.classes_in(field.type)):
                    if name in MODEL.classes:
                        assert MODEL.order(MODEL.classes[name].since) <= MODEL.order(field.since), field.wire_name

    def test_optional_parameters_do_not_make_a_message_younger(self) -> None:
        """A parameter that came later has its own date and leaves the message its own."""
        found = message("VM.migrate_send")
        assert found.since == "tampa"
        assert {param.name: param.since for param in found.params if param.optional}["vgpu_map"] == "inverness"

    def test_a_field_that_came_back_is_not_removed(self) -> None:
        """Publishing again ends a removal."""
        lifecycle = MODEL.lifecycle("rio deprecated:inverness removed:inverness 26.16.1-next")
        assert (lifecycle.since, lifecycle.deprecated, lifecycle.removed) == ("rio", None, None)
