"""Calls of the fake: without bytes, with them in one process, over sockets; a VM started and stopped, beside moto's EC2."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mockserver import MockPool
from mockserver.transports.xenapi import XenAPITransport
from xenctl import connect

from .figures import Figure, quickest, ratio, steady

RELEASE = "8.2"
CLIENTS = 8
CALLS = 300
"""Calls that each of several clients makes in one run."""


def in_process(runs: int) -> Iterator[Figure]:
    """A call that reads one field: without the wire, and with its bytes through `xenctl` and through the official SDK."""
    import XenAPI

    pool = MockPool.create(hosts=2, vms=4, release=RELEASE)
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    (vm, *_) = pool.dispatch("VM.get_all", [session])
    runs = max(3 * runs, 9)
    bare = steady(lambda: pool.dispatch("VM.get_power_state", [session, vm]), runs=runs, times=2000) * 1e6
    yield Figure("a call without the wire", bare, 10.0, "us")
    theirs = XenAPI.Session(pool.url, transport=XenAPITransport(pool))
    theirs.xenapi.login_with_password("root", "secret")
    with connect(pool.url, "root", "secret", transport=pool.transport(), protocol="xmlrpc") as ours:

        def by_us() -> object:
            return ours.VM.get_power_state(vm)

        def by_them() -> object:
            return theirs.xenapi.VM.get_power_state(vm)

        yield Figure("a call in XML-RPC by xenctl", steady(by_us, runs=runs, times=500) * 1e6, 60.0, "us")
        value = ratio(by_us, by_them, runs=runs, times=500)
        yield Figure("the same over the official SDK's", value, 1.0, "x")


@contextmanager
def served() -> Iterator[str]:
    """The URL of a pool on sockets, in a process of its own."""
    command = [sys.executable, "-m", "mockserver", "--release", RELEASE]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait()


def on_sockets(runs: int) -> Iterator[Figure]:
    """The official SDK over keep-alive loopback: one client, and several at a time."""
    import XenAPI

    def login(url: str) -> Any:
        session = XenAPI.Session(url)
        session.xenapi.login_with_password("root", "secret")
        return session.xenapi

    with served() as url:
        clients = [login(url) for _ in range(CLIENTS)]
        (vm, *_) = clients[0].VM.get_all()
        value = quickest(lambda: clients[0].VM.get_power_state(vm), runs=max(3 * runs, 9), times=200) * 1e6
        yield Figure("a call over sockets by the official SDK", value, 300.0, "us")

        def many(client: Any) -> None:
            for _ in range(CALLS):
                client.VM.get_power_state(vm)

        def together() -> None:
            threads = [threading.Thread(target=many, args=(client,)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        rate = CLIENTS * CALLS / quickest(together, runs=max(runs, 5))
        yield Figure(f"calls a second by {CLIENTS} clients", rate, 3000.0, "/s", at_least=True)


def start_and_stop(runs: int) -> Iterator[Figure]:
    """A VM started and stopped, with its tasks, events and allowed operations; and what moto takes for EC2's like."""
    pool = MockPool.create(hosts=2, vms=4, release=RELEASE)
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    (vm,) = (ref for ref, row in pool.store.table("VM").items() if row["power_state"] == "Halted")

    def ours() -> None:
        pool.dispatch("VM.start", [session, vm, False, False])
        pool.dispatch("VM.hard_shutdown", [session, vm])

    yield Figure("VM.start and VM.hard_shutdown", steady(ours, runs=max(3 * runs, 9), times=20) * 1e6, 300.0, "us")
    with moto() as theirs:
        value = steady(theirs, runs=max(runs, 5), times=5) * 1e6
        yield Figure("moto: start_instances and stop_instances of EC2", value, math.inf, "us")


@contextmanager
def moto() -> Iterator[Callable[[], None]]:
    """One instance of moto's EC2, started and stopped."""
    import boto3
    from moto import mock_aws

    with mock_aws():
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        ec2 = boto3.client("ec2", region_name="us-east-1", **keys)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        (instance,) = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
        ids = [instance["InstanceId"]]
        ec2.stop_instances(InstanceIds=ids)

        def work() -> None:
            ec2.start_instances(InstanceIds=ids)
            ec2.stop_instances(InstanceIds=ids)

        yield work


def figures(runs: int) -> Iterator[Figure]:
    """Every figure of calls that only read."""
    for part in (in_process, on_sockets):
        yield from part(runs)
