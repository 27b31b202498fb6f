"""`/export` and `/export_metadata`: virtual machines as archives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from xenctl import xmlrpc
from xenctl.errors import Failure
from xenctl.releases import find

from .. import checks, hosts, placement, rules, volumes
from ..call import refuse
from ..software import software_version
from ..store import Row
from . import zstd
from .archive import CHECKSUMS, END, METADATA, Meter, gzipped, member, send_disk
from .base import HUNG_UP, Answer, Request, Steps
from .records import Selection, disks_to_send, export_version
from .running import Binding, begin, done, refuse_request

if TYPE_CHECKING:
    from ..call import Call

FILE = {"content-type": "application/octet-stream", "content-disposition": 'attachment; filename="export.xva"'}
COMPRESSIONS: dict[str, Callable[[Steps], Steps]] = {"true": gzipped, "gzip": gzipped, "zstd": zstd.packed}
"""How an archive may be packed, by what a client asks for; anything else asks for none."""
NAMED_SINCE = find("8.1.0").order
"""The first release that knows compressions by their names; before, one was asked for by `true`."""


def agent(request: Request) -> dict[str, str]:
    """The header by which an export names the toolstack."""
    return {"server": f"xapi/{software_version(request.machine.system.release)['xapi']}"}


def vm_of(request: Request) -> Row:
    """The virtual machine that `ref` or `uuid` names."""
    store, given = request.pool.store, request.arguments
    if "ref" in given:
        return store.get("VM", given["ref"])
    if "uuid" not in given:
        raise refuse("INTERNAL_ERROR", "Not_found")
    return store.identified("VM", given["uuid"])


def host_that_sees(request: Request, srs: list[str]) -> Row | None:
    """The host for a request that needs `srs`: None for the one that was asked. Raises `NO_HOSTS_AVAILABLE`."""
    here = request.pool.host_row(request.machine)
    if here is not None and hosts.sees(request.pool.store, here, srs):
        return None
    for host in request.pool.store.table("host").values():
        if hosts.sees(request.pool.store, host, srs):
            return host
    raise refuse("NO_HOSTS_AVAILABLE")


def export(request: Request) -> Answer:
    """A virtual machine with its disks. On a host that does not see them, the client is sent to one that does."""
    vm = vm_of(request)
    srs = [sr for sr in placement.required_srs(request.pool.store, vm) if not _is_library(request, sr)]
    try:
        other = host_that_sees(request, srs)
    except Failure as error:
        return done(Binding(request, "export"), HUNG_UP, error)
    if other is not None:
        return request.elsewhere(other["address"])
    binding = Binding(request, "VM.export")
    try:
        power_state = request.switch("preserve_power_state")
        wanted = request.arguments.get("use_compression", "")
        named = wanted == "true" or request.pool.store.release.order >= NAMED_SINCE
        pack = COMPRESSIONS.get(wanted) if named else None
        steps = _export(binding, vm, power_state=power_state)
        binding.show(progress=0.0)
        refused = checks.operation_refused(binding.db, vm, "export")
        if refused is not None:
            raise refused
    except Failure as error:
        return refuse_request(binding, error)
    steps = pack(steps) if pack is not None else steps
    return begin(request, binding, steps, {**agent(request), **FILE}, version="1.0")


def _is_library(request: Request, sr: str) -> bool:
    """Whether `sr` holds ISO images only: those are not exported."""
    return bool(request.pool.store.get("SR", sr)["content_type"] == "iso")


def _export(binding: Binding, vm: Row, *, power_state: bool) -> Steps:
    pool = binding.pool
    with checks.operation(cast("Call", binding), vm, "export"):
        selection = Selection(pool, power_state=power_state, snapshots=False)
        selection.add(vm)
        yield member(METADATA, selection.text(), pool.clock.now())
        disks = disks_to_send(pool.store, vm, power_state=power_state)
        disks.sort(key=lambda vdi: selection.ids[vdi.ref])
        meter = Meter(binding, sum(int(vdi["virtual_size"]) for vdi in disks))
        sums: dict[str, str] = {}
        for vdi in disks:
            content = volumes.current(pool, vdi)
            if content is None:
                raise refuse("VDI_IO_ERROR", "Device I/O errors")
            yield from send_disk(binding, meter, selection.ids[vdi.ref], content, int(vdi["virtual_size"]), sums)
        if export_version(pool.store) < 2:
            yield member(CHECKSUMS, xmlrpc.encode(sums).encode(), pool.clock.now())
        yield END


def export_metadata(request: Request) -> Answer:
    """The records of one virtual machine or of all, made whole before they are sent."""
    binding, pool = Binding(request, "VM.export_metadata"), request.pool
    try:
        selection = Selection(
            pool,
            power_state=True,
            snapshots=request.switch("export_snapshots", default=True),
            without=request.arguments.get("excluded_device_types", "").split(","),
        )
        with_dom0 = request.switch("include_dom0", default=True)
        vms = _all(request, with_dom0=with_dom0) if request.switch("all") else [vm_of(request)]
        with ExitStack() as stack:
            for vm in vms:
                if pool.store.release.order > rules.GEORGE:
                    stack.enter_context(checks.operation(cast("Call", binding), vm, "metadata_export"))
                selection.add(vm)
            data = member(METADATA, selection.text(), pool.clock.now()) + END
    except Failure as error:
        answer = Answer(500, b"", {}, close=True, reason="internal error")
        return refuse_request(binding, error, answer)
    head = {"task-id": binding.task, **agent(request), **FILE, "content-length": str(len(data))}
    return done(binding, Answer(200, data, head, close=True, version="1.0"))


def _all(request: Request, *, with_dom0: bool) -> list[Row]:
    """Every virtual machine but the templates that came with the product."""
    vms = request.pool.store.table("VM").values()
    ours = [vm for vm in vms if not (vm["is_a_template"] and checks.is_default_template(vm))]
    return [vm for vm in ours if with_dom0 or not vm["is_control_domain"]]
