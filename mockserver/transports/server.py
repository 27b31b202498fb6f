"""The pool on sockets: an address for each host on one port, so that `HOST_IS_SLAVE` leads somewhere.

A host that is off has no listener, so its connections are refused. One lock guards the pool; a call that waits gives it up.
A ticker thread moves the clock: with `time_scale` X, X simulated seconds pass in a second; with 0, time runs on to the next
thing due whenever nobody holds the pool. Waiting for events is then bounded by real seconds, or an idle client that polls
for events would make the days fly.

`http.server` with Nagle's algorithm off: with it on, every answer waits some 40 ms for an acknowledgement.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

from xenctl.errors import ConnectionLost

from ..http import Answer, answer

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..pool import MockPool

log = logging.getLogger(__name__)


class _Listener(ThreadingTCPServer):
    """The listening socket of one host."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: PoolServer, machine: HostMachine) -> None:
        self.owner, self.machine = owner, machine
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection of %s broke", self.machine.name, exc_info=True)  # noqa: LOG014 - called by `except`


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the pool answer, writes the answer in one piece."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener

    def _serve(self) -> None:
        length = self.headers.get("content-length")
        if length is None and self.command in ("POST", "PUT"):
            self._write(Answer(400, b"Content-Length is needed", close=True))
            return
        body = self.rfile.read(int(length)) if length and length.isdigit() else b""
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            out = self.server.owner.answer(self.server.machine, self.command, self.path, headers, body)
        except ConnectionLost:
            self.close_connection = True
            return
        self._write(out)

    def _write(self, out: Answer) -> None:
        self.send_response(out.status)
        for name, value in out.headers.items():
            self.send_header(name, value)
        if out.close:
            self.send_header("connection", "close")
            self.close_connection = True
        else:
            self.send_header("connection", "keep-alive")
            self.send_header("content-length", str(len(out.body)))
        self.end_headers()
        self.wfile.write(out.body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = do_DELETE = _serve  # noqa: N815

    def version_string(self) -> str:
        return "xapi"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        log.debug("%s: %s", self.server.machine.name, format % args)


class PoolServer:
    """Serves a pool on sockets. Use as a context manager, or `start` and `stop`.

    `listen` is the first host's address; where the system has more loopback addresses the next hosts take the next ones, on
    the same `port` (0: any). Elsewhere each host gets a port of its own, and `note` says so. The hosts' addresses in the
    pool are changed to these.
    """

    def __init__(self, pool: MockPool, *, listen: str = "127.0.0.1", port: int = 0, time_scale: float = 0.0) -> None:
        if time_scale < 0:
            raise ValueError(f"time cannot run backwards: --time-scale {time_scale:g}")
        self.pool, self.listen, self.port, self.time_scale = pool, listen, port, time_scale
        self.note = ""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._listeners: dict[str, _Listener] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._stopping = False
        self._ticker = threading.Thread(target=self._tick, name="mockserver-clock", daemon=True)
        self._started_at = 0.0
        self._virtual_start = 0.0

    def __enter__(self) -> PoolServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The master's URL."""
        return self.url_of(self.pool.master)

    def url_of(self, machine: HostMachine) -> str:
        """The URL of one host."""
        address, port = self._places[machine.uuid]
        return f"http://{address}:{port}"

    def hosts(self) -> list[dict[str, str]]:
        """Each host's name, address and URL."""
        return [{"name": m.name, "address": m.address, "url": self.url_of(m)} for m in self.pool.machines]

    def start(self) -> None:
        """Bind every host's address and begin to serve. Raises `OSError` where that cannot be."""
        machines = self.pool.machines
        sockets = self._bind(len(machines))
        with self._lock:
            addresses = {}
            for machine, listener in zip(machines, sockets, strict=True):
                host, port = listener[:2]
                self._places[machine.uuid] = (host, port)
                addresses[machine.uuid] = host if not self.note else f"{host}:{port}"
            self.pool.readdress(addresses)
            self._started_at, self._virtual_start = time.monotonic(), self.pool.clock.now()
            self.pool.waiter = self._wait
            self.pool.on_machine = self._machine_changed
            for machine in machines:
                if machine.state == "running":
                    self._open(machine)
        self._ticker.start()

    def _bind(self, count: int) -> list[tuple[str, int]]:
        """Addresses and ports for `count` hosts, proven by binding them."""
        first = ip_address(self.listen)
        if first.is_loopback and first.version == 4:
            names = [str(first + number) for number in range(count)]
            found = _one_port(names, self.port)
            if found:
                return [(name, found) for name in names]
        if count > 1:
            self.note = "this system has no address for each host: each has a port of its own"
        return [(self.listen, _free_port(self.listen, self.port if number == 0 else 0)) for number in range(count)]

    def stop(self) -> None:
        """Stop serving."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
            listeners, self._listeners = list(self._listeners.values()), {}
        for listener in listeners:
            listener.shutdown()
            listener.server_close()
        self._ticker.join(timeout=5)

    def _open(self, machine: HostMachine) -> None:
        listener = _Listener(self._places[machine.uuid], self, machine)
        self._listeners[machine.uuid] = listener
        threading.Thread(target=listener.serve_forever, args=(0.05,), name=machine.name, daemon=True).start()

    def _close(self, machine: HostMachine) -> None:
        listener = self._listeners.pop(machine.uuid, None)
        if listener is not None:
            listener.socket.close()
            threading.Thread(target=listener.shutdown, daemon=True).start()

    def _machine_changed(self, machine: HostMachine) -> None:
        if self._stopping:
            return
        if machine.state == "running" and machine.uuid not in self._listeners:
            self._open(machine)
        elif machine.state != "running":
            self._close(machine)

    def answer(self, machine: HostMachine, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer one request, with the pool to itself."""
        with self._lock:
            self._catch_up()
            if machine.state != "running":
                raise ConnectionLost("the host went away", host=machine.address, method=path)
            out = answer(self.pool, machine, method, path, headers, body)
            self._changed.notify_all()
            return out

    # --- time

    def _target(self) -> float:
        """Where the simulated clock should be now."""
        return self._virtual_start + (time.monotonic() - self._started_at) * self.time_scale

    def _catch_up(self) -> None:
        if self.time_scale > 0:
            self.pool.clock.run_until(max(self._target(), self.pool.clock.now()))

    def _tick(self) -> None:
        clock = self.pool.clock
        with self._lock:
            while not self._stopping:
                moment = clock.next_moment()
                if moment is None:
                    self._changed.wait()
                elif self.time_scale == 0:
                    clock.step(moment)
                    self.pool.settle("time")
                    self._changed.notify_all()
                    self._changed.wait(0)
                else:
                    missing = (moment - self._target()) / self.time_scale
                    if missing > 0:
                        self._changed.wait(missing)
                    else:
                        clock.step(moment)
                        self.pool.settle("time")
                        self._changed.notify_all()

    def _wait(self, deadline: float, ready: Callable[[], bool] | None) -> None:
        """Let a call wait with the pool given up."""
        clock = self.pool.clock
        if ready is not None and self.time_scale == 0:
            end = time.monotonic() + (deadline - clock.now())
            while not ready() and not self._stopping and time.monotonic() < end:
                self._changed.wait(min(60.0, max(0.001, end - time.monotonic())))
            return
        timer = clock.after(deadline - clock.now(), lambda: None)
        self._changed.notify_all()
        while clock.now() < deadline and not (ready is not None and ready()) and not self._stopping:
            self._changed.wait()
        timer.cancel()


def _one_port(names: list[str], port: int) -> int:
    """A port that is free on every one of `names`; 0 where an address is not to be had."""
    for _ in range(20):
        wanted = port or _free_port(names[0], 0)
        try:
            for name in names:
                _free_port(name, wanted)
        except OSError:
            if port:
                return 0
            continue
        return wanted
    return 0


def _free_port(address: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return int(probe.getsockname()[1])
