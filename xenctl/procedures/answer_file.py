"""Answer files: what an installer reads instead of asking, generated and read back.

Of the four modes only `upgrade` preserves settings and guests. `reinstall` copies the old system to the backup partition
and then begins anew; so does `fresh`, without the copy, and an element `<installation>` or `<upgrade>` without a mode means
`fresh`. `restore` puts the backup partition back. What each installer knows is in `ELEMENTS` and `ATTRIBUTES`, from the
history of the installer's own reader; it passes over what it does not know without a word, so that is reported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import XenctlError
from ..releases import Release, find, parse_version

if TYPE_CHECKING:
    from lxml.etree import _Element

UPGRADE, REINSTALL, FRESH, RESTORE = "upgrade", "reinstall", "fresh", "restore"
MODES = (UPGRADE, REINSTALL, FRESH, RESTORE)
CLEAN = (REINSTALL, FRESH)
"""The modes after which settings and guests are gone."""
LOCAL, URL, NFS = "local", "url", "nfs"
PLACES = (LOCAL, URL, NFS)
STAGES: Mapping[str, str] = {
    "installation-start": "6.0.0",
    "packages-installed": "8.4.0",
    "filesystem-populated": "5.6.0",
    "installation-complete": "5.6.0",
}
"""When a script may run, and since which release."""
BOOTLOADERS: Mapping[str, tuple[str, str]] = {
    "grub": ("4.1.0", "6.0.0"),
    "extlinux": ("4.1.0", "7.0.0"),
    "grub2": ("7.0.0", ""),
}
"""Boot loaders: the first release that takes them, and the first that does not any more."""
PROTOCOLS = ("static", "dhcp", "none")


class AnswerFileError(XenctlError, ValueError):
    """An answer file that cannot be used, with every reason; each names the line and what to do."""

    def __init__(self, what: str, reasons: Iterable[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"{what}: {'; '.join(self.reasons)}" if self.reasons else what)


@dataclass(frozen=True)
class Place:
    """Where a repository is: `type` is `local` (the disc in the drive), `url` or `nfs`; `address` what follows from it."""

    type: str
    address: str = ""


@dataclass(frozen=True)
class Script:
    """A script that the installer runs at a stage, from `url` or `nfs`."""

    stage: str
    type: str
    address: str


@dataclass(frozen=True)
class Interface:
    """The management interface, named as the installer does or by its MAC. `vlan` is empty where there is no tag."""

    name: str = ""
    mac: str = ""
    protocol: str = "dhcp"
    address: str = ""
    netmask: str = ""
    gateway: str = ""
    vlan: str = ""


@dataclass(frozen=True)
class RootPassword:
    """The password of root: `type` is `plaintext` or `hash`."""

    type: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class AnswerFile:
    """What an installer is told. `disk` is the disk of the installation that is upgraded, of the backup that is restored, or
    of the new system, without `/dev/`. From `interface` on, only clean installations ask for it.

    `unknown` says, a sentence each, what stands in the file and is passed over.
    """

    mode: str
    disk: str = ""
    sources: tuple[Place, ...] = ()
    driver_sources: tuple[Place, ...] = ()
    scripts: tuple[Script, ...] = ()
    bootloader: str = ""
    network_backend: str = ""
    confirm: bool = False
    interface: Interface | None = None
    root_password: RootPassword | None = None
    guest_disks: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    ntp_servers: tuple[str, ...] = ()
    hostname: str = ""
    timezone: str = ""
    keymap: str = ""
    sr_type: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def preserves(self) -> bool:
        """Whether settings and guests are there afterwards."""
        return self.mode == UPGRADE

    def as_dict(self) -> dict[str, Any]:
        """The members that say anything, as plain values; a password only by its type."""
        out: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, RootPassword):
                out[name] = {"type": value.type}
            elif isinstance(value, Interface):
                out[name] = {word: text for word, text in vars(value).items() if text}
            elif isinstance(value, tuple):
                out[name] = [vars(item) if hasattr(item, "__dict__") else item for item in value]
            elif value:
                out[name] = value
        return {name: value for name, value in out.items() if value}


@dataclass(frozen=True)
class Known:
    """An element or attribute that installers know: in which modes, from which release on, up to which (not included).
    `older` is its spelling before 6.1, which later installers take, too."""

    modes: tuple[str, ...] = MODES
    since: str = "4.0.1"
    until: str = ""
    older: str = ""

    def serves(self, release: Release) -> str:
        """Why the installer of `release` passes over it; empty where it does not."""
        if release.version < parse_version(self.since):
            return f"installers know it from {self.since} on"
        if self.until and release.version >= parse_version(self.until):
            return f"installers know it up to {self.until}, not included"
        return ""


RENAMED = find("6.1.0")
"""The first release that knows the newer spellings, restoring, and default values for most of a clean installation."""
BACKS_UP = find("4.1.0")
"""The first release whose unattended upgrade copies the old system away, and with it the database."""
MANY_SOURCES = find("7.1.0")
HASHES = find("5.6.0")
"""The first release for which the root password may be left out, or be a hash."""

_INSTALLING, _ASKING = (UPGRADE, REINSTALL, FRESH), CLEAN
ELEMENTS: Mapping[str, Known] = {
    "source": Known(_INSTALLING),
    "driver-source": Known(since="5.5.0"),
    "script": Known(since="5.6.0"),
    "post-install-script": Known(),
    "install-failed-script": Known(since="5.5.0"),
    "ui-confirmation-prompt": Known(since="7.1.0"),
    "bootloader": Known(_INSTALLING, since="4.1.0"),
    "network-backend": Known(_INSTALLING, since="5.6.0"),
    "existing-installation": Known((UPGRADE, REINSTALL)),
    "backup-disk": Known((RESTORE,), since="6.2.0"),
    "primary-disk": Known(),
    "guest-disks": Known(_ASKING),
    "guest-disk": Known(_ASKING),
    "admin-interface": Known(_INSTALLING),
    "root-password": Known(_ASKING),
    "name-server": Known(_ASKING, older="nameserver"),
    "hostname": Known(_ASKING),
    "timezone": Known(_ASKING),
    "ntp": Known(_ASKING, since="8.4.0"),
    "ntp-server": Known(_ASKING, older="ntp-servers"),
    "keymap": Known(_ASKING),
    "fcoe-interface": Known(_INSTALLING, since="7.0.0"),
    "initial-partitions": Known(_INSTALLING, since="5.6.0", until="8.2.0"),
    "zap-utility-partitions": Known(_ASKING, since="6.0.0", until="8.2.0"),
    "service": Known(_ASKING, since="8.0.0"),
    "ssh-mode": Known(_ASKING, since="8.4.0"),
    "selected-multiversion-drivers": Known(since="8.4.0"),
}
"""The elements right below the root. Those without a field of `AnswerFile` are taken for known, and left alone."""
ATTRIBUTES: Mapping[tuple[str, str], Known] = {
    ("admin-interface", "vlan"): Known(since="7.1.0"),
    ("admin-interface", "protov6"): Known(since="6.1.0"),
    ("admin-interface", "hwaddr"): Known(since="4.1.0"),
    ("root-password", "type"): Known(since="5.6.0"),
    ("bootloader", "write-boot-entry"): Known(since="7.1.0"),
    ("primary-disk", "swraid"): Known(since="8.4.0"),
}
"""Attributes that not every installer knows."""
_SPELLINGS = {known.older: name for name, known in ELEMENTS.items() if known.older}


# --- generating


def write(answer: AnswerFile, release: Release, *, preserving: bool = True) -> bytes:
    """The file that tells the installer of `release` what `answer` says.

    `preserving` refuses every mode after which settings and guests would be gone. Raises `AnswerFileError` for what that
    installer does not know, or would do harm with.
    """
    from lxml import etree

    reasons = [*_refused(answer, release, preserving=preserving)] or [*_missing(answer, release)]
    if reasons:
        raise AnswerFileError(f"no answer file for {release.name}", reasons)
    root = etree.Element("restore" if answer.mode == RESTORE else "installation")
    if answer.mode != RESTORE:
        root.set("mode", answer.mode)
    if answer.sr_type:
        root.set("sr-type" if release >= RENAMED else "srtype", answer.sr_type)
    for name, attributes, text in _lines(answer, release):
        known = ELEMENTS[name]
        why = known.serves(release)
        if why:
            raise AnswerFileError(f"no answer file for {release.name}", [f"<{name}> would be passed over: {why}"])
        spelled = known.older if known.older and release < RENAMED else name
        child = etree.SubElement(_parent(root, name), spelled, attributes)
        child.text = text or None
        if name == "admin-interface" and answer.interface is not None:
            _address(child, answer.interface)
    etree.indent(root)
    made: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8")
    return made + b"\n"


def _refused(answer: AnswerFile, release: Release, *, preserving: bool) -> Iterator[str]:
    if answer.mode not in MODES:
        yield f"mode is {', '.join(MODES)}, not {answer.mode!r}"
    elif answer.mode in CLEAN and preserving:
        yield f"{answer.mode} does not preserve settings and guests: the mode that does is {UPGRADE}"
    if answer.mode == UPGRADE and release < BACKS_UP:
        yield (
            f"an unattended upgrade by {release.product_version} does not back up the old system, and loses the pool's "
            "database: install by hand"
        )
    if answer.mode == RESTORE and release < RENAMED:
        yield f"installers restore unattended from {RENAMED.product_version} on: choose it on the installer's screen"


def _lines(answer: AnswerFile, release: Release) -> Iterator[tuple[str, dict[str, str], str]]:
    """The elements of a file: their names, attributes and texts."""
    for place in answer.sources:
        yield "source", {"type": place.type}, place.address
    for place in answer.driver_sources:
        yield "driver-source", {"type": place.type}, place.address
    if answer.disk:
        yield _disk_element(answer.mode, release), {}, answer.disk.removeprefix("/dev/")
    for disk in answer.guest_disks:
        yield "guest-disk", {}, disk.removeprefix("/dev/")
    if answer.interface is not None:
        port = {"name": answer.interface.name} if answer.interface.name else {"hwaddr": answer.interface.mac}
        tag = {"vlan": answer.interface.vlan} if answer.interface.vlan else {}
        yield "admin-interface", {**port, "proto": answer.interface.protocol, **tag}, ""
    if answer.root_password is not None:
        typed = {"type": answer.root_password.type} if release >= HASHES else {}
        yield "root-password", typed, answer.root_password.text
    for name, texts in (("name-server", answer.name_servers), ("ntp-server", answer.ntp_servers)):
        for text in texts:
            yield name, {}, text
    for name, text in (("hostname", answer.hostname), ("timezone", answer.timezone), ("keymap", answer.keymap)):
        if text:
            yield name, {}, text
    for script in answer.scripts:
        yield "script", {"stage": script.stage, "type": script.type}, script.address
    if answer.bootloader:
        yield "bootloader", {}, answer.bootloader
    if answer.network_backend:
        yield "network-backend", {}, answer.network_backend
    if answer.confirm:
        yield "ui-confirmation-prompt", {}, "true"


def _disk_element(mode: str, release: Release | None) -> str:
    """The element that names the disk. Reinstalling asked for the old installation before 6.1."""
    if mode == UPGRADE or (mode == REINSTALL and release is not None and release < RENAMED):
        return "existing-installation"
    return "backup-disk" if mode == RESTORE else "primary-disk"


def _parent(root: _Element, name: str) -> _Element:
    """Where an element stands: disks for guests have an element of their own around them."""
    from lxml import etree

    if name != "guest-disk":
        return root
    found = root.find("guest-disks")
    return etree.SubElement(root, "guest-disks") if found is None else found


def _address(child: _Element, interface: Interface) -> None:
    from lxml import etree

    if interface.protocol == "static":
        for name, text in (
            ("ip", interface.address),
            ("subnet-mask", interface.netmask),
            ("gateway", interface.gateway),
        ):
            etree.SubElement(child, name).text = text


def _missing(answer: AnswerFile, release: Release | None) -> Iterator[str]:
    """What the installer would stop for, of a file that is made or was read."""
    if answer.mode != RESTORE:
        if not answer.sources:
            yield "no <source> says where to install from: name one (local, a URL, or NFS)"
        if release is not None and len(answer.sources) > 1 and release < MANY_SOURCES:
            yield f"installers take several sources from {MANY_SOURCES.product_version} on: leave one"
        if not answer.disk:
            yield f"no <{_disk_element(answer.mode, release)}> names the disk: name it, such as sda"
    for place in (*answer.sources, *answer.driver_sources):
        if place.type not in PLACES:
            yield f"a source is of type {', '.join(PLACES)}, not {place.type!r}"
        elif place.type != LOCAL and not place.address:
            yield f"a source of type {place.type} has no address: give it"
    for script in answer.scripts:
        if script.stage not in STAGES or (
            release is not None and release.version < parse_version(STAGES[script.stage])
        ):
            yield f"a script runs at {', '.join(STAGES)} (not all in each release), not at {script.stage!r}"
        if script.type not in (URL, NFS) or not script.address:
            yield f"the script at {script.stage} needs the type {URL} or {NFS}, and an address"
    if answer.bootloader and (release is not None or answer.bootloader not in BOOTLOADERS):
        since, until = BOOTLOADERS.get(answer.bootloader, ("", ""))
        if not since or (release is not None and Known(since=since, until=until).serves(release)):
            yield f"the boot loader {answer.bootloader} is not one of this installer's: leave the element out"
    if answer.mode in CLEAN:
        yield from _missing_for_clean(answer, release)


def _missing_for_clean(answer: AnswerFile, release: Release | None) -> Iterator[str]:
    port = answer.interface
    if port is None or not (port.name or port.mac):
        yield "no <admin-interface> with a name or hwaddr: a clean installation needs one"
    elif port.protocol not in PROTOCOLS:
        yield f"<admin-interface> has proto {', '.join(PROTOCOLS)}, not {port.protocol!r}"
    elif port.protocol == "static" and not (port.address and port.netmask and port.gateway):
        yield "<admin-interface> with a static address needs <ip>, <subnet-mask> and <gateway>"
    if release is not None and release < HASHES and answer.root_password is None:
        yield f"installers before {HASHES.product_version} need a <root-password>"
    if release is not None and release < RENAMED and not answer.timezone:
        yield f"installers before {RENAMED.product_version} need a <timezone>"


# --- reading


def read(data: bytes, *, source: str = "the answer file", release: Release | None = None) -> AnswerFile:
    """What an answer file says, to the installer of `release` or, without it, to the newest. What is passed over stands in
    `AnswerFile.unknown`. Raises `AnswerFileError`, with lines, for what the installer would stop at."""
    root = _parsed(data, source)
    mode, remarks, wrong = _mode(root), list[str](), list[str]()
    if root.tag not in ("installation", "upgrade", "restore"):
        raise AnswerFileError(
            source, [f"line {_line(root)}: <{_tag(root)}> is no answer file: begin with <installation>"]
        )
    if mode not in MODES:
        raise AnswerFileError(source, [f"line {_line(root)}: mode is {', '.join(MODES[:3])}, not {mode!r}: correct it"])
    if root.tag != "restore" and root.get("mode") is None:
        remarks.append(
            f"line {_line(root)}: <{_tag(root)}> without a mode is a clean installation: everything would be lost"
        )
    found = _Found(mode, release)
    for child in root.iterchildren("*"):
        name = _SPELLINGS.get(_tag(child), _tag(child))
        known = ELEMENTS.get(name)
        why = "no installer knows it" if known is None else "" if release is None else known.serves(release)
        if known is not None and not why and mode not in known.modes:
            why = f"it says nothing in mode {mode}"
        if why:
            if not (known is not None and name == "admin-interface" and mode == UPGRADE):
                remarks.append(f"line {_line(child)}: <{_tag(child)}> is passed over: {why}")
            continue
        remarks += _surplus(child, name, release)
        found.take(name, child, wrong)
    answer = found.answer(root, tuple(remarks))
    wrong += _missing(answer, release)
    if release is not None and mode == RESTORE:
        wrong += _refused(answer, release, preserving=True)
    if wrong:
        raise AnswerFileError(source, wrong)
    return answer


def _parsed(data: bytes, source: str) -> _Element:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise AnswerFileError(source, [f"line {error.lineno or 1}: no XML: {error.msg}: correct it"]) from None


def _mode(root: _Element) -> str:
    return RESTORE if root.tag == "restore" else (root.get("mode") or FRESH)


def _tag(element: _Element) -> str:
    return str(element.tag)


def _line(element: _Element) -> int:
    return int(element.sourceline or 1)


def _surplus(child: _Element, name: str, release: Release | None) -> Iterator[str]:
    for attribute in child.attrib:
        known = ATTRIBUTES.get((name, str(attribute)))
        why = known.serves(release) if known is not None and release is not None else ""
        if why:
            yield f"line {_line(child)}: {attribute} of <{_tag(child)}> is passed over: {why}"


def _text(element: _Element | None) -> str:
    return "" if element is None else "".join(str(part) for part in element.itertext()).strip()


class _Found:
    """What was found in a file so far."""

    def __init__(self, mode: str, release: Release | None) -> None:
        self.mode, self.disk_element = mode, _disk_element(mode, release)
        self.values: dict[str, Any] = {}
        self.lists: dict[str, list[Any]] = {}

    def take(self, name: str, child: _Element, wrong: list[str]) -> None:
        """Take one element."""
        text = _text(child)
        if name in ("source", "driver-source"):
            if child.get("type") not in PLACES:
                said = f'line {_line(child)}: <{name}> needs type="{"|".join(PLACES)}", and has {child.get("type")!r}'
                wrong.append(said)
                return
            self.add("sources" if name == "source" else "driver_sources", self.place(str(child.get("type")), text))
        elif name == "script":
            self.add("scripts", Script(child.get("stage", "").lower(), child.get("type", "").lower(), text))
        elif name == self.disk_element:
            self.values["disk"] = text.removeprefix("/dev/")
        elif name in ("guest-disks", "guest-disk"):
            for disk in child.iterchildren("guest-disk") if name == "guest-disks" else (child,):
                self.add("guest_disks", _text(disk).removeprefix("/dev/"))
        elif name == "admin-interface":
            self.values["interface"] = _interface(child)
        elif name == "root-password":
            self.values["root_password"] = RootPassword(child.get("type", "plaintext"), text)
        elif name == "name-server":
            self.add("name_servers", text)
        elif name == "ntp-server":
            self.add("ntp_servers", text)
        elif name == "ui-confirmation-prompt":
            self.values["confirm"] = bool(text)  # any text at all, as the installer has it
        elif name in ("bootloader", "network-backend", "hostname", "timezone", "keymap"):
            self.values[name.replace("-", "_")] = text

    def add(self, name: str, value: Any) -> None:
        self.lists.setdefault(name, []).append(value)

    def place(self, kind: str, text: str) -> Place:
        """A place, told in one way: a URL of NFS is NFS, and a disc in the drive has no address."""
        if kind == URL and text.startswith("nfs://"):
            return Place(NFS, text.removeprefix("nfs://"))
        return Place(kind, "" if kind == LOCAL else text)

    def answer(self, root: _Element, remarks: tuple[str, ...]) -> AnswerFile:
        sr_type = root.get("sr-type") or root.get("srtype") or ""
        lists: dict[str, Any] = {name: tuple(values) for name, values in self.lists.items()}
        return AnswerFile(self.mode, sr_type=sr_type, unknown=remarks, **self.values, **lists)


def _interface(child: _Element) -> Interface:
    def inner(*names: str) -> str:
        return next((_text(found) for name in names if (found := child.find(name)) is not None), "")

    return Interface(
        name=child.get("name", ""),
        mac=child.get("hwaddr", ""),
        protocol=child.get("proto", ""),
        address=inner("ipaddr", "ip"),
        netmask=inner("subnet", "subnet-mask"),
        gateway=inner("gateway"),
        vlan=child.get("vlan", ""),
    )


def assert_preserves(answer: AnswerFile, source: str = "the answer file") -> None:
    """Raise `AnswerFileError` for a file after which settings and guests would be gone."""
    if not answer.preserves:
        raise AnswerFileError(
            source,
            [
                f"its mode is {answer.mode}, which does not preserve settings and guests: the mode that does is {UPGRADE}"
            ],
        )


def place_of(text: str) -> Place:
    """The place that a person names: `local`, a URL, or `nfs://server:/path`. Raises `AnswerFileError` for others."""
    if text == LOCAL:
        return Place(LOCAL)
    scheme, colon, rest = text.partition("://")
    if colon and rest and scheme == NFS:
        return Place(NFS, rest)
    if colon and rest and scheme in ("http", "https", "ftp", "file"):
        return Place(URL, text)
    raise AnswerFileError(f"a source is local, a URL (http, https, ftp, file) or nfs://server:/path, not {text!r}")
