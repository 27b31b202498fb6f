"""What support asks of a host: what its hypervisor and its storage say, reports that are sent away, and small questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xenctl.values import Timestamp

from .. import hosts
from ..call import Call, Steps, refuse
from ..machine.host import HostMachine
from ..software import software_version
from ..store import Row
from . import verbs_of

verb = verbs_of("host")


# --- what xapi itself never does


@verb()
def get_log(call: Call, host: str) -> None:
    hosts.reached(call, host)
    raise refuse("NOT_IMPLEMENTED", "get_log")


@verb()
def dmesg_clear(call: Call, host: str) -> None:
    hosts.reached(call, host)
    raise refuse("NOT_IMPLEMENTED", "dmesg_clear")


@verb()
def list_methods(call: Call) -> None:
    raise refuse("NOT_IMPLEMENTED", "list_method")


# --- the hypervisor

KEYS = {
    "a": "dump timer queues",
    "d": "dump registers",
    "e": "dump evtchn info",
    "h": "show this message",
    "i": "dump interrupt bindings",
    "m": "memory info",
    "q": "dump domain (and guest debug) info",
    "r": "dump run queues",
    "t": "display multi-cpu clock info",
}
"""The debug keys that the hypervisor answers, and what it says they do."""


@verb()
def dmesg(call: Call, host: str) -> str:
    """What the hypervisor has to say since the host booted: what it found, and what it was asked by debug keys."""
    machine = hosts.reached(call, host).machine
    xen = software_version(machine.system.release)["xen"]
    memory = machine.memory >> 20
    lines = [f"Xen version {xen}", f"System RAM: {memory}MB ({memory << 10}kB)", *machine.console]
    return "".join(f"(XEN) {line}\n" for line in lines)


@verb("machine.console")
def send_debug_keys(call: Call, host: str, keys: str) -> str:
    """Each key that the hypervisor knows makes it say something; `q` lists the domains."""
    machine = hosts.reached(call, host).machine
    for key in keys:
        if key in KEYS:
            said = [f"'{key}' pressed -> {KEYS[key]}", *SAID.get(key, _nothing)(machine)]
            hosts.note(call, machine, "console", tuple(machine.console), tuple(said))
            machine.console.extend(said)
    return ""


def _nothing(machine: HostMachine) -> Iterator[str]:
    return iter(())


def _help(machine: HostMachine) -> Iterator[str]:
    return (f" key '{key}' (ascii '{ord(key):02x}') => {text}" for key, text in KEYS.items())


def _domains(machine: HostMachine) -> Iterator[str]:
    yield "General information for domain 0:"
    for uuid, domain in machine.domains.items():
        yield f"General information for domain {domain.domid}:"
        yield f"    handle={uuid} {'running' if domain.running else 'paused'}"


SAID: dict[str, Callable[[HostMachine], Iterator[str]]] = {"h": _help, "q": _domains}
"""What follows where a key makes the hypervisor say more."""


@verb()
def get_sched_gran(call: Call, host: str) -> str:
    """What the hypervisor schedules at a time: single processors, since nothing here changes that."""
    hosts.reached(call, host)
    return "cpu"


@verb()
def set_sched_gran(call: Call, host: str, value: str) -> None:
    """Refused, unless xapi's configuration file says otherwise, which it does not."""
    hosts.reached(call, host)
    raise refuse("OPERATION_NOT_ALLOWED", "Disabled by xapi.conf")


@verb()
def get_uncooperative_resident_VMs(call: Call, host: str) -> list[str]:
    """None: every guest here gives memory back when it is asked to."""
    call.db.get("host", host)
    return []


@verb()
def get_uncooperative_domains(call: Call, host: str) -> list[str]:
    call.db.get("host", host)
    return []


@verb()
def compute_memory_overhead(call: Call, host: str) -> int:
    return int(call.db.get("host", host)["memory_overhead"])


# --- storage and threads


@verb()
def get_sm_diagnostics(call: Call, host: str) -> str:
    """The attached storage of a host, its disks in use, and by which data paths."""
    row, machine = call.db.get("host", host), hosts.reached(call, host).machine
    lines = ["The following SRs are attached:"]
    for pbd in (call.db.get("PBD", ref) for ref in row["PBDs"]):
        sr = call.db.find("SR", pbd["SR"]) if pbd["currently_attached"] else None
        if sr is not None:
            lines.append(f"    SR {sr['uuid']}")
            for vdi, path in _data_paths(call, machine, sr):
                lines += [f"        VDI {vdi['uuid']}", f"            DP: {path}"]
    return "\n".join([*lines, "", "No errors have been logged.", ""])


def _data_paths(call: Call, machine: HostMachine, sr: Row) -> Iterator[tuple[Row, str]]:
    """The disks of `sr` that guests on `machine` use, and how each path is called."""
    for uuid, domain in machine.domains.items():
        for vbd in call.pool.vbds(call.db.get("VM", call.db.by_uuid[uuid][1])):
            vdi = call.db.find("VDI", vbd["VDI"]) if vbd["currently_attached"] else None
            if vdi is not None and vdi["SR"] == sr.ref:
                yield vdi, f"vbd/{domain.domid}/{vbd['device']}"


@verb()
def sm_dp_destroy(call: Call, host: str, dp: str, allow_leak: bool) -> str:
    """A data path that is not there is as good as destroyed. What becomes of a guest whose disk is taken away beneath it,
    nobody knows here."""
    machine = hosts.reached(call, host).machine
    for sr in call.db.table("SR").values():
        if any(path == dp for _, path in _data_paths(call, machine, sr)):
            raise refuse("NOT_IMPLEMENTED", "host.sm_dp_destroy of a data path in use")
    return ""


@verb()
def get_thread_diagnostics(call: Call, host: str) -> str:
    """The tasks that go on there, as a graph in the language of Graphviz."""
    hosts.reached(call, host)
    going = (task for task in call.db.table("task").values() if task["status"] == "pending" and task.ref != call.task)
    nodes = (f'  "{task.ref}" [label="{task["name_label"]}"]' for task in going if task["resident_on"] == host)
    return "\n".join(["digraph Resources {", *nodes, "}", ""])


@verb()
def get_diagnostic_timing_stats(call: Call, host: str, counts: bool) -> dict[str, str]:
    """Nothing: how long the fake itself takes for something says nothing about a host."""
    hosts.reached(call, host)
    return {}


# --- reports

CAPABILITIES: dict[str, tuple[str, int, str]] = {
    "xenserver-config": ("yes", 51200, "maybe"),
    "xenserver-install": ("yes", 10240, "maybe"),
    "xenserver-logs": ("yes", 52428800, "maybe"),
    "xenserver-databases": ("yes", 524288, "yes"),
    "network-config": ("yes", 40960, "maybe"),
    "hardware-info": ("yes", 2097152, "maybe"),
    "disk-info": ("yes", 25600, "maybe"),
    "host-crashdump-logs": ("no", 0, "maybe"),
    "system-logs": ("yes", 52428800, "maybe"),
    "kernel-info": ("yes", 122880, "maybe"),
    "process-list": ("yes", 30720, "yes"),
    "vncterm": ("no", 0, "maybe"),
}
"""The parts that a status report can have: whether it has them unless told otherwise, their most bytes (0: any number), and
whether they hold personal data."""


@verb()
def get_system_status_capabilities(call: Call, host: str) -> str:
    """The parts that a status report of a host can have, as XML. The host itself answers it in emergency mode too."""
    row = call.db.get("host", host)
    if call.pool.machine_of(row) is not call.machine:
        hosts.contact(call.pool, row)
    parts = "".join(
        f'<capability content-type="text/plain" default-checked="{checked}" key="{key}" '
        f'max-size="{size or -1}" min-size="-1" max-time="-1" min-time="-1" pii="{pii}"/>'
        for key, (checked, size, pii) in CAPABILITIES.items()
    )
    return f'<?xml version="1.0" ?><system-status-capabilities>{parts}</system-status-capabilities>'


@verb("machine.uploads")
def bugreport_upload(call: Call, host: str, url: str, options: dict[str, str]) -> Steps:
    """The report leaves the pool; what left, and where to, is in `MockPool.uploads`."""
    contact = hosts.reached(call, host)
    if not url:
        raise refuse("INVALID_VALUE", "url", "")
    yield call.pool.durations.device
    machine = contact.check()
    hosts.send_out(call, machine, f"bug-report-{machine.name}.tar.bz2", url)
    return ""


@verb("machine.syslog")
def syslog_reconfigure(call: Call, host: str) -> str:
    """The host sends its messages to where its `logging` says from now on, or keeps them to itself."""
    row, machine = call.db.get("host", host), hosts.reached(call, host).machine
    old, machine.system.syslog = machine.system.syslog, row["logging"].get("syslog_destination", "")
    hosts.note(call, machine, "syslog", old, machine.system.syslog)
    return ""


# --- the time


@verb()
def get_server_localtime(call: Call, host: str) -> Timestamp:
    """The time that the host's clock shows, without a zone: hosts here live by UTC."""
    hosts.reached(call, host)
    return Timestamp(call.clock.stamp().removesuffix("Z"))
