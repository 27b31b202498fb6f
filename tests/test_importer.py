"""The importer: what it takes from upstream, what it keeps, and how it complains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xenctl.datamodel import Model, Scalar, importer, load

TABLE = Path(importer.__file__).with_name("table.json")
MODEL = load()


def upstream(name: str = "thing", **more: Any) -> dict[str, Any]:
    """One class in the shape in which upstream publishes it."""

    def lifecycle(*steps: tuple[str, str]) -> dict[str, Any]:
        return {
            "state": "Published_s",
            "transitions": [{"transition": step, "release": release, "description": ""} for step, release in steps],
        }

    def implicit(message: str, params: list[dict[str, str]], result: str, role: str = "read-only") -> dict[str, Any]:
        return {
            "name": message,
            "result": [result, ""],
            "params": [{"type": "session ref", "name": "session_id", "doc": ""}, *params],
            "errors": [],
            "roles": list(MODEL.roles(role)),
            "lifecycle": lifecycle(("published", "rio")),
            "implicit": True,
        }

    me = {"type": f"{name} ref", "name": "self", "doc": ""}
    return {
        "name": name,
        "description": "a made-up class",
        "lifecycle": lifecycle(("published", "rio")),
        "enums": [{"name": "colour", "values": [{"name": "red", "doc": ""}, {"name": "green", "doc": ""}]}],
        "fields": [
            {"name": "uuid", "type": "string", "qualifier": "RO/runtime", "lifecycle": lifecycle(("published", "rio"))},
            {
                "name": "hue",
                "type": "enum colour",
                "qualifier": "RW",
                "default": "green",
                "lifecycle": lifecycle(("prototyped", "21.3.0"), ("published", "21.4.0")),
            },
            {
                "name": "notes",
                "type": "(string -> string set) map",
                "qualifier": "RO/constructor",
                "default": '{"k" -> {"a", "b"}, "l" -> {}}',
                "lifecycle": lifecycle(("published", "rio")),
            },
        ],
        "messages": [
            {
                "name": "paint",
                "result": ["void"],
                "params": [
                    {"type": "session ref", "name": "session_id", "doc": "", "required": True},
                    {**me, "required": True},
                    {"type": "int", "name": "coats", "doc": "", "required": False},
                ],
                "errors": [{"name": "OUT_OF_SPACE", "doc": ""}],
                "roles": list(MODEL.roles("vm-admin")),
                "lifecycle": lifecycle(("published", "rio"), ("changed", "22.5.0")),
                "implicit": False,
            },
            implicit("get_uuid", [me], "string"),
            {
                **implicit("get_hue", [me], "enum colour"),
                "lifecycle": lifecycle(("prototyped", "21.3.0"), ("published", "21.4.0")),
            },
            {
                **implicit("set_hue", [me, {"type": "enum colour", "name": "value", "doc": ""}], "void", "vm-admin"),
                "lifecycle": lifecycle(("prototyped", "21.3.0"), ("published", "21.4.0")),
            },
            implicit("get_notes", [me], "(string -> string set) map"),
            implicit("get_by_uuid", [{"type": "string", "name": "uuid", "doc": ""}], f"{name} ref"),
            implicit("get_record", [me], f"{name} record"),
            implicit("get_all", [], f"{name} ref set"),
            implicit("get_all_records", [], f"({name} ref -> {name} record) map"),
        ],
        **more,
    }


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with one class of which upstream tells nothing but what is public."""
    path = tmp_path / "table.json"
    whole = json.loads(TABLE.read_text())
    whole["relations"], whole["literal_sets"] = [], []
    whole["classes"] = {
        "thing": {
            "lifecycle": "rio",
            "flags": "persistent database get_all",
            "namespaces": "hue",
            "enums": {},
            "fields": {
                "hue": ["string", "RW", "rio", {"persistent": False}],
                "secret": ["string", "RO/runtime", "rio", {"hidden": True}],
            },
            "messages": {
                "paint": {
                    "params": [["coats", "int", {"default": 2, "since": "22.5.0"}]],
                    "lifecycle": "rio",
                    "async": False,
                },
                "whisper": {"lifecycle": "miami", "hidden": True},
            },
        }
    }
    path.write_text(importer.dump(whole))
    return path


def run(tmp_path: Path, table: Path, document: Any, *more: str) -> int:
    """Import a document into a table."""
    source = tmp_path / "xenapi.json"
    source.write_text(json.dumps(document))
    return importer.main([str(source), "--table", str(table), *more])


def test_it_takes_what_upstream_publishes_and_keeps_the_rest(tmp_path: Path, table: Path) -> None:
    """Public parts come from upstream; hidden ones, defaults of parameters and what is stored stay."""
    assert run(tmp_path, table, [upstream()]) == 0
    model = Model(json.loads(table.read_text()))
    thing = model.classes["thing"]
    assert list(thing.fields) == ["uuid", "hue", "notes", "secret"]
    assert thing.fields["hue"].default == "green"
    assert thing.fields["hue"].since == "21.4.0"
    assert not thing.fields["hue"].persistent
    assert thing.fields["notes"].default == {"k": ["a", "b"], "l": []}
    assert thing.fields["secret"].hidden
    assert thing.messages["paint"].params[1].default == 2
    assert thing.messages["paint"].errors == ("OUT_OF_SPACE",)
    assert not thing.messages["paint"].has_async
    assert thing.messages["whisper"].hidden
    assert thing.messages["set_hue"].roles == model.roles("vm-admin")
    assert not thing.events
    assert thing.get_all


def test_importing_twice_changes_nothing(tmp_path: Path, table: Path) -> None:
    """The same input gives the same table."""
    assert run(tmp_path, table, [upstream()]) == 0
    first = table.read_text()
    assert run(tmp_path, table, [upstream()]) == 0
    assert table.read_text() == first


def test_the_table_is_one_line_a_field_and_message(tmp_path: Path, table: Path) -> None:
    """Differences between tables read well: each field and message has a line of its own."""
    assert run(tmp_path, table, [upstream()]) == 0
    lines = table.read_text().splitlines()
    assert '  "hue": ["enum colour","RW","prototyped:21.3.0 21.4.0",{"default":"green","persistent":false}],' in lines
    assert importer.dump(json.loads(TABLE.read_text())) == TABLE.read_text()


def test_guesses_are_said_aloud(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new class and a new optional parameter make the importer guess, and it says so."""
    assert run(tmp_path, table, [upstream(), upstream("novelty")]) == 0
    said = capsys.readouterr().out
    assert "class novelty is new: assumed persistent events database get_all" in said
    assert "novelty.paint: assumed {'default': 0, 'since': '22.5.0'} for the optional parameter coats" in said


def test_what_cannot_be_derived_is_stored(tmp_path: Path, table: Path) -> None:
    """An implicit message that upstream leaves out or gives otherwise is an exception in the table."""
    document = upstream()
    document["messages"] = [each for each in document["messages"] if each["name"] != "get_all_records"]
    for each in document["messages"]:
        if each["name"] == "get_uuid":
            each["roles"] = ["pool-admin"]
            each["result"] = ["int", ""]
    assert run(tmp_path, table, [document]) == 0
    thing = Model(json.loads(table.read_text())).classes["thing"]
    assert "get_all_records" not in thing.messages
    assert thing.messages["get_uuid"].result == Scalar("int")
    assert (thing.messages["get_uuid"].kind, thing.messages["get_uuid"].field) == ("get", "uuid")


def test_classes_by_name_are_accepted_too(tmp_path: Path, table: Path) -> None:
    """The flat shape, with classes by name, gives a model as well."""
    document = {
        "classes": {
            "thing": {
                "lifecycle": [["published", "rio"]],
                "enums": {},
                "fields": {"uuid": {"type": "string", "qualifier": "RO/runtime", "lifecycle": [["published", "rio"]]}},
                "messages": {
                    "paint": {
                        "params": [
                            {"name": "self", "type": "thing ref"},
                            {"name": "coats", "type": "int", "optional": True, "default": 3, "since": "22.5.0"},
                        ],
                        "result": "void",
                        "roles": ["pool-admin"],
                        "session": True,
                        "async": True,
                        "lifecycle": [["published", "rio"]],
                    }
                },
            }
        }
    }
    assert run(tmp_path, table, document) == 0
    found = Model(json.loads(table.read_text())).classes["thing"].messages["paint"]
    assert (found.params[1].default, found.has_async) == (3, True)


def test_new_code_names_come_from_release_information(tmp_path: Path, table: Path) -> None:
    """A code name that the table lacks is put behind the one before it."""
    info = tmp_path / "release_info.json"
    info.write_text(json.dumps({"rio": [], "interim": [], "miami": [], "99.1.0": []}))
    document = upstream()
    document["lifecycle"]["transitions"][0]["release"] = "interim"
    assert run(tmp_path, table, [document], "--release-info", str(info)) == 0
    model = Model(json.loads(table.read_text()))
    assert model.order("rio") < model.order("interim") < model.order("miami")
    assert model.classes["thing"].since == "interim"


def test_tables_of_facts(tmp_path: Path, table: Path) -> None:
    """Hidden messages, errors and releases are merged from tab-separated tables."""
    hidden, errors, releases = (tmp_path / name for name in ("hidden.tsv", "errors.tsv", "releases.tsv"))
    hidden.write_text(
        "class\tmessage\tsession\tasync\tpool_internal\tparams\n"
        "thing\tpoke\ttrue\tfalse\ttrue\tself: Ref _thing, how: Map (String, Set (Ref _thing)), no: SecretString\n"
        "thing\tvague\ttrue\ttrue\tfalse\t\n"
    )
    errors.write_text("code\tparams\nTHING_BROKE\tthing,why\nTHING_GONE\t\n")
    releases.write_text(
        "code_name\tproduct_version\tproduct_brand\tapi_version\tschema\tplatform_version\tsource\n"
        "rio\t4.0.1\tXenServer\t1.1\t5.19\t\t\n"
    )
    arguments = ["--hidden-messages", str(hidden), "--errors", str(errors), "--releases", str(releases)]
    assert importer.main([*arguments, "--table", str(table)]) == 0
    model = Model(json.loads(table.read_text()))
    poke, vague = (model.classes["thing"].messages[name] for name in ("poke", "vague"))
    assert [str(param.type) for param in poke.params] == ["thing ref", "(string -> thing ref set) map", "string"]
    assert (poke.pool_internal, poke.has_async, poke.params_known, poke.roles) == (True, False, True, ())
    assert (vague.params_known, vague.result) == (False, Scalar("any"))
    assert model.errors["THING_BROKE"] == ("thing", "why")
    assert model.errors["THING_GONE"] == ()
    assert [product.product_version for product in model.products] == ["4.0.1"]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("text", "this is no data model"),
        ([{"description": "no name"}], "a class has no name"),
        ([{"name": "thing"}], "thing has no lifecycle"),
        ([upstream(fields=[{"name": "f"}])], "thing.f has no lifecycle"),
        ([upstream(fields="none")], "class thing: fields should be a list"),
        ([upstream(messages=["paint"])], "class thing: messages should hold mappings"),
        ([upstream(enums=[])], "the values of enum colour are not given"),
        (
            [upstream(lifecycle={"transitions": [{"transition": "removed", "release": "rio"}]})],
            "must say when it begins",
        ),
        ([upstream(lifecycle={"transitions": [{"transition": "published", "release": "r2d2"}]})], "'r2d2'"),
        ([upstream(lifecycle={"transitions": [{"transition": "published"}]})], "transitions and releases"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], document: Any, complaint: str
) -> None:
    """What cannot be imported leaves the table as it was and says in one line where the fault is."""
    before = table.read_text()
    assert run(tmp_path, table, document) == 1
    said = capsys.readouterr().err
    assert said.startswith("not imported: ")
    assert said.count("\n") == 1
    assert complaint in said
    assert table.read_text() == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"type": "thing reference"}, "not a type of the data model"),
        ({"default": '"open'}, "is no default of type"),
        ({"type": "int", "default": "many"}, "'many' is no default of type int"),
        ({"type": "bool", "default": "maybe"}, "'maybe' is no default of type bool"),
        ({"type": "(string -> int) map", "default": "{1}"}, "is no default of type"),
        ({"type": "int set", "default": "5"}, "is no default of type int set"),
    ],
)
def test_bad_fields_are_named(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], complaint: str
) -> None:
    """A type or default that cannot be read is reported with the field that has it."""
    document = upstream()
    document["fields"][0].update(change)
    if change.get("default") == '"open':
        document["fields"][0]["type"] = "string"
    assert run(tmp_path, table, [document]) == 1
    said = capsys.readouterr().err
    assert "thing.uuid" in said
    assert complaint in said


def test_files_that_cannot_be_read(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file and one that is not JSON are errors, not tracebacks."""
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for arguments in ([str(tmp_path / "none.json")], [str(broken)], ["--errors", str(tmp_path / "none.tsv")]):
        assert importer.main([*arguments, "--table", str(table)]) == 1
    said = capsys.readouterr().err
    assert said.count("cannot read") == 2
    assert "is not JSON" in said


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("nothing\tpoke\ttrue\ttrue\tfalse\t", "there is no class nothing"),
        ("thing\tpoke\ttrue\ttrue\tfalse\tjust text", "'just text' is no parameter"),
        ("thing\tpoke\ttrue\ttrue\tfalse\tself: Widget _x y", "not a type"),
    ],
)
def test_bad_hidden_messages(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], row: str, complaint: str
) -> None:
    """A hidden message of no class or with unreadable parameters is reported."""
    facts = tmp_path / "hidden.tsv"
    facts.write_text(f"class\tmessage\tsession\tasync\tpool_internal\tparams\n{row}\n")
    assert importer.main(["--hidden-messages", str(facts), "--table", str(table)]) == 1
    assert complaint in capsys.readouterr().err


def test_a_column_that_is_missing_from_a_table_of_facts(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table without a column that is needed is reported by the column's name."""
    facts = tmp_path / "errors.tsv"
    facts.write_text("code\nX\n")
    assert importer.main(["--errors", str(facts), "--table", str(table)]) == 1
    assert "no column 'params'" in capsys.readouterr().err
