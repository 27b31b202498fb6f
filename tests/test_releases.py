"""Releases: names, order, which is which host's, upgrade paths, and what exists in which."""

from __future__ import annotations

import itertools

import pytest

from xenctl import releases
from xenctl.datamodel import Field, Message, load
from xenctl.releases import accepts, find, has_removed, known, next_release, of_host, parse_version, path, serves

MODEL = load()


def message(name: str) -> Message:
    """A message that must exist."""
    found = MODEL.message(name)
    assert found is not None
    return found


def field(name: str) -> Field:
    """A field that must exist."""
    class_, _, member = name.partition(".")
    return MODEL.classes[class_].fields[member]


@pytest.mark.parametrize(
    ("text", "version"),
    [("8.2", (8, 2, 0)), ("5.6.100", (5, 6, 100)), ("4", (4, 0, 0)), ("6.2.0-1", (6, 2, 0, 1)), ("10.0.1", (10, 0, 1))],
)
def test_versions_have_at_least_three_numbers(text: str, version: tuple[int, ...]) -> None:
    """A version is read as numbers, filled up with zeros."""
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "eight", "8.", "8.2 beta", ".1", "8..2"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """Text that is not numbers and dots is an error that quotes it."""
    with pytest.raises(ValueError, match="not a version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("4.0.1", "XenServer 4.0.1"),
        ("4.0", "XenServer 4.0.1"),
        ("4.1", "XenServer 4.1.0"),
        ("8.2", "XenServer 8.2.0"),
        ("8.2.1", "XenServer 8.2.1"),
        ("rio", "XenServer 4.0.1"),
        ("stockholm", "XenServer 8.2.0"),
        ("XCP-ng 8.3", "XCP-ng 8.3.0"),
        ("xcp-ng 7.4", "XCP-ng 7.4.1"),
        ("8.3", "XCP-ng 8.3.0"),
        ("XCP-ng naples", "XCP-ng 8.0.0"),
        ("Citrix Hypervisor 8.2", "XenServer 8.2.0"),
        (" 6.5 ", "XenServer 6.5.0"),
    ],
)
def test_releases_are_found_by_version_code_name_and_brand(text: str, name: str) -> None:
    """Each way to name a release finds it; XenServer is meant where no brand is given and it has such a release."""
    assert find(text).name == name


@pytest.mark.parametrize("text", ["9.9", "XCP-ng 4.1", "windows", "", "5.6.1"])
def test_an_unknown_release_is_an_error_that_lists_the_known(text: str) -> None:
    """A release that nobody knows is refused, and the error tells which there are."""
    with pytest.raises(ValueError, match=r"no release is called .*known are XenServer 4\.0\.1, .*XCP-ng 8\.3\.0"):
        find(text)


def test_releases_print_as_their_version() -> None:
    """A release prints as users name it: the brand only where it is not XenServer."""
    assert str(find("4.0.1")) == "4.0.1"
    assert str(find("XCP-ng 8.3")) == "XCP-ng 8.3.0"


def test_releases_are_ordered_by_age() -> None:
    """Releases compare by API version, then schema, then product version."""
    in_order = [
        "4.0.1",
        "4.1",
        "5.0",
        "5.5",
        "5.6",
        "5.6.100",
        "6.0",
        "6.5",
        "7.0",
        "7.6",
        "8.0",
        "8.2",
        "8.2.1",
        "8.4",
    ]
    for older, newer in itertools.pairwise([find(text) for text in in_order]):
        assert older < newer
        assert older.order <= newer.order
    assert list(known()) == sorted(known())
    assert find("XCP-ng 8.3") > find("8.2.1")
    assert len(set(known())) == len(known())


@pytest.mark.parametrize(
    ("software", "api", "schema", "name"),
    [
        ({"product_brand": "XenServer", "product_version": "4.0.1"}, (1, 1), None, "XenServer 4.0.1"),
        ({"product_brand": "XenServer", "product_version": "5.6.100"}, (1, 8), None, "XenServer 5.6.100"),
        ({"product_brand": "Citrix Hypervisor", "product_version": "8.2.0"}, (2, 15), None, "XenServer 8.2.0"),
        ({"product_brand": "XCP-ng", "product_version": "8.3.0"}, (2, 21), None, "XCP-ng 8.3.0"),
        ({"product_brand": "XenServer", "product_version": "4.1.1"}, (1, 2), None, "XenServer 4.1.0"),
        ({"product_brand": "XenServer", "product_version": "5.0.0.3"}, (1, 5), None, "XenServer 5.0.0"),
        ({"product_brand": "XenServer", "product_version": "8.2.9"}, (2, 15), (5, 601), "XenServer 8.2.0"),
        ({"product_brand": "XenServer", "product_version": "8.2.9"}, (2, 15), (5, 602), "XenServer 8.2.1"),
        (
            {"product_brand": "XenServer", "product_version": "8.2.9", "db_schema": "5.602"},
            (2, 15),
            None,
            "XenServer 8.2.1",
        ),
        ({"product_brand": "XenServer", "product_version": "99.0"}, (2, 23), (5, 909), "XenServer 8.4.0"),
        ({"product_brand": "XCP-ng", "product_version": "8.2.0"}, (2, 15), (5, 602), "XCP-ng 8.2.1"),
        ({}, (1, 3), None, "XenServer 5.0.0"),
        ({}, (1, 0), None, "XenServer 4.0.1"),
    ],
)
def test_release_of_a_host(
    software: dict[str, str], api: tuple[int, int], schema: tuple[int, ...] | None, name: str
) -> None:
    """A host is of the release of its product version; others take the nearest older one by API version, then schema."""
    assert of_host(software, api, schema).name == name


@pytest.mark.parametrize(
    ("text", "like", "name"),
    [
        ("8.2", "XCP-ng 8.1", "XCP-ng 8.2.1"),
        ("8.2", "8.1", "XenServer 8.2.0"),
        ("6.2", "XCP-ng 8.1", "XenServer 6.2.0"),
        ("XenServer 8.2", "XCP-ng 8.1", "XenServer 8.2.0"),
    ],
)
def test_a_release_without_a_brand_is_of_that_of_another_where_it_has_one(text: str, like: str, name: str) -> None:
    """A brand that is named is meant; what only XenServer has is XenServer's."""
    assert find(text, find(like)).name == name


def test_next_release_is_of_the_same_brand() -> None:
    """Each release knows which one of its brand followed it; the last has none."""
    assert next_release(find("4.0.1")) == find("4.1")
    assert next_release(find("7.4")) == find("7.5")
    assert next_release(find("XCP-ng 7.4")) == find("XCP-ng 7.5")
    assert next_release(find("8.4")) is None
    assert next_release(find("XCP-ng 8.3")) is None


ACCEPTED = {
    "4.0.1": ["4.0.1"],
    "4.1": ["4.0.1", "4.1"],
    "5.0": ["4.1", "5.0"],
    "5.5": ["5.0", "5.5"],
    "5.6": ["5.5", "5.6"],
    "5.6.100": ["5.5", "5.6", "5.6.100"],
    "6.0": ["5.6", "5.6.100", "6.0"],
    "6.5": ["5.6", "5.6.100", "6.0", "6.1", "6.2", "6.5"],
    "7.0": ["6.0", "6.1", "6.2", "6.5", "7.0"],
    "8.0": ["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "8.0"],
    "XCP-ng 8.0": ["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "8.0"],
}


@pytest.mark.parametrize("target", ACCEPTED)
def test_what_an_installer_upgrades(target: str) -> None:
    """An installer takes its own release and older ones of its generation, never a newer one."""
    sources = [release for release in known() if release.product_brand == "XenServer"]
    assert [source for source in sources if accepts(find(target), source)] == [find(text) for text in ACCEPTED[target]]


def test_brands_lead_one_way() -> None:
    """XCP-ng takes over XenServer; XenServer takes over nothing."""
    assert accepts(find("XCP-ng 8.3"), find("8.2"))
    assert not accepts(find("8.4"), find("XCP-ng 8.2"))
    assert not accepts(find("XCP-ng 8.3"), find("8.4"))


@pytest.mark.parametrize(
    ("source", "target", "hops"),
    [
        ("4.0.1", "8.2", ["4.1.0", "5.0.0", "5.5.0", "5.6.100", "6.5.0", "7.6.0", "8.2.0"]),
        ("4.0.1", "4.1", ["4.1.0"]),
        ("7.1", "8.2.1", ["8.2.1"]),
        ("6.2", "8.4", ["7.6.0", "8.4.0"]),
        ("5.5", "XCP-ng 8.3", ["5.6.100", "6.5.0", "7.6.0", "XCP-ng 8.3.0"]),
        ("8.2", "8.2", []),
    ],
)
def test_path_is_the_shortest_chain_of_upgrades(source: str, target: str, hops: list[str]) -> None:
    """A path has as few upgrades as can be, each of which its installer accepts."""
    found = path(find(source), find(target))
    assert [str(release) for release in found] == hops
    for before, after in itertools.pairwise([find(source), *found]):
        assert accepts(after, before)


@pytest.mark.parametrize(("source", "target"), [("8.2", "7.6"), ("XCP-ng 8.2", "8.4"), ("4.1", "4.0.1")])
def test_there_is_no_way_back(source: str, target: str) -> None:
    """A path to an older release, or from XCP-ng to XenServer, is an error that names both."""
    with pytest.raises(ValueError, match=f"no upgrade leads from .*{source[-3:]}.* to .*{target[-3:]}"):
        path(find(source), find(target))


@pytest.mark.parametrize(
    ("release", "name", "there", "removed"),
    [
        ("4.0.1", "VM.start", True, False),
        ("4.0.1", "host.evacuate", False, False),
        ("4.1", "host.evacuate", True, False),
        ("8.0", "VM.snapshot_with_quiesce", True, False),
        ("8.1", "VM.snapshot_with_quiesce", True, True),
        ("4.1", "VM.snapshot_with_quiesce", False, False),
        ("8.2", "pool.sync_updates", False, False),
        ("8.4", "pool.sync_updates", True, False),
        ("XCP-ng 8.3", "VM.restart_device_models", True, False),
        ("8.4", "VM.sysprep", False, False),
    ],
)
def test_which_messages_a_release_has(release: str, name: str, there: bool, removed: bool) -> None:
    """A message exists from its release on, and from its removal on only as removed."""
    item = message(name)
    assert serves(find(release), item) is there
    assert has_removed(find(release), item) is removed


def test_removed_fields_stay() -> None:
    """A removed field exists still, in records and in the database, as removed."""
    removed = field("VM.is_snapshot_from_vmpp")
    assert not has_removed(find("6.1"), removed)
    assert serves(find("8.2"), removed)
    assert has_removed(find("8.2"), removed)


def test_what_is_published_again_is_removed_only_in_between() -> None:
    """A message that was removed and came back is removed in the releases between."""
    resize = message("VDI.resize_online")
    assert not has_removed(find("7.2"), resize)
    assert has_removed(find("7.3"), resize)
    assert has_removed(find("8.4"), resize)
    assert resize.removed is None, "the newest upstream has it again"


def test_a_release_knows_fewer_parameters_than_later_ones() -> None:
    """Optional parameters that came later are not known to an older release."""
    evacuate = message("host.evacuate")
    assert [param.name for param in releases.parameters(find("4.1"), evacuate)] == ["host"]
    assert [param.name for param in releases.parameters(find("8.4"), evacuate)] == [
        "host",
        "network",
        "evacuate_batch_size",
    ]
