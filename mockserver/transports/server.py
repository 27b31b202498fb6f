"""The pool on sockets: an address for each host on one port, so that `HOST_IS_SLAVE` leads somewhere.

A host that is off has no listener and no connections: it refuses. One lock guards the pool; a call that waits gives it up.
A ticker thread moves the clock: with `time_scale` X, X simulated seconds pass in a second; with 0, time runs on to the next
thing due whenever no call is being served, and now and then between calls, or clients that keep asking would stop it.
Waiting for events is then bounded by real seconds, or an idle client that polls for events would make the days fly.

`http.server` with Nagle's algorithm off: with it on, every answer waits some 40 ms for an acknowledgement.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http.client import HTTPException, parse_headers
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from ipaddress import ip_address
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

from xenctl.errors import ConnectError, ConnectionLost, TransportError, WaitTimeout

from .. import certificates, trust
from ..authority import Authority, context
from ..control import PREFIX, Control
from ..handlers.running import Exchange
from ..http import NO_LENGTH, RPC_LIMIT, Answer, answer, broken
from ..striking import ConnectionReset, HalfAnswer

if TYPE_CHECKING:
    from ssl import SSLContext

    from ..call import Wait
    from ..machine.host import HostMachine
    from ..pool import MockPool

log = logging.getLogger(__name__)

HANDSHAKE = 10.0
"""Seconds that a client has to shake hands."""
VERSIONS = ("HTTP/1.0", "HTTP/1.1")
"""Those whose requests are read here; what else comes is left to the standard library, to refuse it."""
LONGEST_LINE, MOST_HEADERS = 1 << 16, 100
BUSY_STEP = 0.005
"""Seconds after which time goes on by a step even though calls are being served, with `time_scale` 0."""


@dataclass(eq=False)
class _Waiter:
    """A call that waits with the pool given up. `due` is set by whoever moves the world on, under the lock."""

    wait: Wait
    due: bool = False


class _Listener(ThreadingTCPServer):
    """The listening socket of one host, or of the control path alone, and its connections."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        bound: socket.socket,
        owner: PoolServer,
        machine: HostMachine | None,
        context: Callable[[], SSLContext | None],
    ) -> None:
        self.owner, self.machine, self._context = owner, machine, context
        self.name = machine.name if machine is not None else "control"
        self._open: set[socket.socket] = set()
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its own thread; with TLS, shake hands first."""
        tls = self._context()
        if tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(HANDSHAKE)
        with tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            self._open.discard(request)  # its descriptor is the other's now
            self._open.add(secured)
            try:
                secured.do_handshake()
                secured.settimeout(None)
                super().finish_request(secured, client_address)
            finally:
                self._open.discard(secured)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection of %s broke", self.name, exc_info=True)  # noqa: LOG014 - called by `except`

    def hang_up(self) -> None:
        """Refuse from now on, and cut every connection.

        A socket that is closed while a thread waits on it listens until that wait ends; shutting it down ends both.
        """
        for connection in [self.socket, *self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class _Received:
    """What a client sends of a request's body: `left` bytes, or whatever comes until it closes."""

    def __init__(self, source: BufferedIOBase, left: int | None) -> None:
        self._source, self._left = source, left

    def read(self, size: int, /) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
        data = self._source.read(size)
        if self._left is not None:
            self._left -= len(data)
        return data


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the pool answer, writes the answer in one piece; or in many, for a transfer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener
    raw_requestline: bytes
    _agent = "xapi"

    def parse_request(self) -> bool:
        """Read a request's head, as the base class does but for its mail parser, which takes longer than most calls."""
        line = str(self.raw_requestline, "iso-8859-1").rstrip("\r\n")
        words = line.split()
        if len(words) != 3 or words[2] not in VERSIONS or words[1].startswith("//"):
            return super().parse_request()
        self.requestline, (self.command, self.path, self.request_version) = line, words
        try:
            self.headers = self._read_headers()
        except HTTPException as error:
            self.close_connection = True
            self.send_error(431, "Too many headers", str(error))
            return False
        kind = self.headers.get("connection", "").lower()
        self.close_connection = kind == "close" or (self.request_version == "HTTP/1.0" and kind != "keep-alive")
        if self.headers.get("expect", "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
            return self.handle_expect_100()
        return True

    def _read_headers(self) -> Any:
        """The headers by name, whatever the case. Raises `HTTPException` where there are too many."""
        lines: list[bytes] = []
        while (line := self.rfile.readline(LONGEST_LINE + 1)) not in (b"\r\n", b"\n", b""):
            lines.append(line)
            if len(line) > LONGEST_LINE or len(lines) > MOST_HEADERS:
                raise HTTPException(f"more than {MOST_HEADERS} lines, or one of more than {LONGEST_LINE} bytes")
        found = _Headers()
        for line in lines:
            name, colon, value = line.decode("iso-8859-1").partition(":")
            if not colon or not name or name[0] in " \t" or name.lower() in found:
                return parse_headers(io.BytesIO(b"".join(lines)), _class=self.MessageClass)
            found[name.lower()] = value.strip()
        return found

    def _serve(self) -> None:
        length = self.headers.get("content-length", "" if self.command == "POST" else "0")
        if not length.isdigit():
            self._write(broken(NO_LENGTH))
            return
        if self.command == "POST" and int(length) > RPC_LIMIT:
            self._write(broken("the request is too large"))
            return
        body = self.rfile.read(int(length)) if self.command == "POST" else b""
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner, machine = self.server.owner, self.server.machine
        with owner.serving():
            try:
                out = owner.answer(machine, self.command, self.path, headers, body)
            except TransportError as error:
                failed: TransportError | None = error
            else:
                failed = None
                if out.steps is None:
                    self._write(out)
        if failed is not None:
            self._break(failed)
        elif machine is not None and out.steps is not None:
            self._run(Exchange(machine.pool, machine, out.steps, self._received()), out)

    def _break(self, failed: TransportError) -> None:
        """Do to the connection what `failed` is to its client. One that waits in vain is waited for."""
        self.close_connection = True
        with suppress(OSError):
            if isinstance(failed, WaitTimeout):
                self.connection.recv(1)
            elif isinstance(failed, (ConnectError, ConnectionReset)):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())  # a socket that is shut down first ends in good order

    def _received(self) -> _Received:
        length = self.headers.get("content-length")
        left = None if length is None and self.command == "PUT" else int(length or "0")
        return _Received(self.rfile, left)

    def _run(self, exchange: Exchange, out: Answer) -> None:
        """Send an answer's head, and its body as it is made; the pool is left to others while the network is waited for."""
        self._head(out)
        self.wfile.flush()
        try:
            for block in exchange:
                self.wfile.write(block)
                self.wfile.flush()
        except (ConnectionLost, OSError) as error:
            log.debug("%s: a transfer broke off: %s", self.server.name, error)
        except Exception:
            log.exception("the fake has a bug: %s %s", self.command, self.path.partition("?")[0])
        finally:
            exchange.close()

    def _head(self, out: Answer) -> None:
        self._agent = out.headers.get("server", "xapi")
        self.close_connection = self.close_connection or out.close
        if log.isEnabledFor(logging.DEBUG):
            self.log_request(out.status)
        if self.request_version == "HTTP/0.9":  # whose answers have no head
            return
        reason = self.responses.get(out.status, ("",))[0] if out.reason is None else out.reason
        lines = [
            f"HTTP/{out.version} {out.status} {reason}",
            f"Server: {self._agent}",
            f"Date: {_http_date(int(time.time()))}",
            *(f"{name}: {value}" for name, value in out.headers.items() if name != "server"),
            "connection: close" if self.close_connection else "connection: keep-alive",
        ]
        if not out.close:
            lines.append(f"content-length: {len(out.body)}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def _write(self, out: Answer) -> None:
        if out.status == 0:
            self.close_connection = True
            return
        self._head(out)
        if self.command != "HEAD":
            body = out.half if isinstance(out, HalfAnswer) else out.body
            for block in (body,) if isinstance(body, bytes) else body:
                self.wfile.write(block)
            self.close_connection = self.close_connection or isinstance(out, HalfAnswer)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = do_DELETE = _serve  # noqa: N815

    def version_string(self) -> str:
        return self._agent

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        log.debug("%s: %s", self.server.name, format % args)


class _Headers(dict[str, str]):
    """Headers by their names in lower case, to be asked for in any."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@lru_cache(maxsize=2)
def _http_date(moment: int) -> str:
    return formatdate(moment, usegmt=True)


class PoolServer:
    """Serves a pool on sockets. Use as a context manager, or `start` and `stop`.

    `listen` is the first host's address; where the system has more loopback addresses the next hosts take the next ones, on
    the same `port` (0: any). Elsewhere each host gets a port of its own, and `note` says so. The hosts' addresses in the
    pool are changed to these. With `tls` each host has a certificate of its own, from an authority made for this server; the
    file `cafile`, which is there while it serves, has that authority's. With a `control` token, `control_url` answers the
    control path (see `mockserver.control`), and so does every host.
    """

    def __init__(
        self,
        pool: MockPool,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        time_scale: float = 0.0,
        tls: bool = False,
        control: str | None = None,
    ) -> None:
        if not (math.isfinite(time_scale) and time_scale >= 0):
            raise ValueError(f"a time scale is a number of simulated seconds a second, not {time_scale:g}")
        if not 0 <= port <= 65535:
            raise ValueError(f"a port is a number from 0 to 65535, not {port}")
        self.pool, self.listen, self.port, self.time_scale = pool, listen, port, time_scale
        self.note = ""
        self.cafile = ""
        self.control_url = ""
        self._control = Control(pool, control) if control is not None else None
        self._scheme = "https" if tls else "http"
        self._authority = Authority() if tls else None
        self._contexts: dict[str, SSLContext] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._calls = 0
        """Calls that are being served or wait for their turn; those that wait for the world to move on are not counted."""
        self._count = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._listeners: dict[str, _Listener] = {}
        self._bound: dict[str, socket.socket] = {}
        """The sockets of the hosts that do not listen: they hold the place, and whoever connects is refused."""
        self._places: dict[str, tuple[str, int]] = {}
        self._stopping = False
        self._restore = ExitStack()
        self._ticker = threading.Thread(target=self._tick, name="mockserver-clock", daemon=True)
        self._started_at = 0.0
        self._virtual_start = 0.0

    def __repr__(self) -> str:
        return f"<PoolServer {f'at {self.url_of(self.pool.world.machines[0])}' if self._places else 'that has not started'}>"

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
        return f"{self._scheme}://{_named(*self._places[machine.uuid])}"

    def hosts(self) -> list[dict[str, str]]:
        """Each host's name, address and URL."""
        return [{"name": m.name, "address": m.address, "url": self.url_of(m)} for m in self.pool.world.machines]

    # --- listening

    def start(self) -> None:
        """Bind every host's address and begin to serve. Raises `OSError` where that cannot be."""
        machines = self.pool.world.machines
        for machine, bound in zip(machines, self._bind(len(machines)), strict=True):
            self._bound[machine.uuid] = bound
            self._places[machine.uuid] = bound.getsockname()[:2]
        with self._lock:
            self.pool.world.readdress(
                {uuid: _named(*place) if self.note else place[0] for uuid, place in self._places.items()}
            )
            self._set_time()
            self._restore.callback(self._give_back, self.pool.waiter, self.pool.on_machine, self.pool.guard)
            self.pool.waiter, self.pool.on_machine, self.pool.guard = self._wait, self._machine_changed, self._hold
            self.pool.on_rollback = self._rolled_back
            if self._authority is not None:
                self._certify(self._authority)
            for machine in machines:
                if machine.answers:
                    self._open(machine)
            if self._control is not None:
                self._open_control(self._control)
        self._ticker.start()

    def _certify(self, authority: Authority) -> None:
        """Give a certificate to every host that has none of its own, and show whatever hosts have from now on."""
        pool = self.pool
        before = pool.issue, pool.on_certificate
        pool.issue = lambda machine: authority.issue([self._places[machine.uuid][0], machine.name])
        pool.on_certificate = self._show
        self._restore.callback(self._keep_certificates, *before)
        for machine in pool.world.machines:
            trust.serve(machine.pool, machine)
        self.cafile = authority.write()
        self._restore.callback(os.remove, self.cafile)

    def _keep_certificates(self, issue: Any, on_certificate: Any) -> None:
        self.pool.issue, self.pool.on_certificate = issue, on_certificate
        self.pool.fingerprints.clear()

    def _show(self, machine: HostMachine) -> None:
        """Answer with the certificate that a host has now whoever connects to it from now on."""
        certificate = trust.read(machine.system, trust.SERVER)
        self._contexts[machine.uuid] = context(machine.system.files[trust.SERVER])
        self.pool.fingerprints[machine.uuid] = {
            kind: certificates.fingerprint(certificate, kind) for kind in certificates.DIGESTS
        }

    def _rolled_back(self) -> None:
        self._set_time()
        for machine in self.pool.world.machines if self._authority else ():
            if trust.SERVER in machine.system.files:
                self._show(machine)

    def _bind(self, count: int) -> list[socket.socket]:
        """A socket for each of `count` hosts, bound to its place."""
        first = ip_address(self.listen)
        if count > 1 and first.is_loopback and first.version == 4:
            found = _on_one_port([str(first + number) for number in range(count)], self.port)
            if found:
                return found
        if count > 1:
            self.note = "this system has no address for each host: each has a port of its own"
        return _bound_all([(self.listen, self.port if number == 0 else 0) for number in range(count)])

    def stop(self) -> None:
        """Stop serving."""
        with self._lock:
            listeners, self._listeners = list(self._listeners.values()), {}
            for bound in self._bound.values():
                bound.close()
            for listener in listeners:
                listener.hang_up()
            self._stopping = True
            self._changed.notify_all()
            self._restore.close()
        for listener in listeners:
            listener.shutdown()
        if self._ticker.is_alive():
            self._ticker.join(timeout=5)

    def _give_back(self, waiter: Any, on_machine: Any, guard: Any) -> None:
        self.pool.waiter, self.pool.on_machine, self.pool.guard = waiter, on_machine, guard
        self.pool.on_rollback = lambda: None

    def _open(self, machine: HostMachine) -> None:
        listener = _Listener(self._bound.pop(machine.uuid), self, machine, lambda: self._contexts.get(machine.uuid))
        self._listeners[machine.uuid] = listener
        threading.Thread(target=listener.serve_forever, args=(0.02,), name=machine.name, daemon=True).start()

    def _open_control(self, control: Control) -> None:
        """Answer the control path on a port of its own, which no host takes with it."""
        bound = _bound(self.listen, 0)
        scheme = "https" if self._authority else "http"
        self.control_url = f"{scheme}://{_named(*bound.getsockname()[:2])}"
        first = self.pool.world.machines[0].uuid
        listener = _Listener(bound, self, None, lambda: self._contexts.get(first))
        self._listeners[""] = listener
        threading.Thread(target=listener.serve_forever, args=(0.02,), name="control", daemon=True).start()
        control.start()
        self._restore.callback(control.stop)

    def _machine_changed(self, machine: HostMachine) -> None:
        if self._stopping:
            return
        if machine.answers and machine.uuid not in self._listeners:
            self._open(machine)
        elif not machine.answers and machine.uuid in self._listeners:
            listener = self._listeners.pop(machine.uuid)
            listener.hang_up()
            threading.Thread(target=listener.shutdown, daemon=True).start()
            self._bound[machine.uuid] = _bound(*self._places[machine.uuid])

    def answer(
        self, machine: HostMachine | None, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        """Answer one request, with the pool to itself; without a machine it is for the control path. Raises `TransportError`
        where the host stops meanwhile, or a fault strikes."""
        with self._lock:
            self._catch_up()
            try:
                if self._control is not None and path.startswith(PREFIX):
                    return self._control.answer(method, path, headers, body)
                if machine is None:
                    return Answer(404, b"only the control path is here\n", {"content-type": "text/plain"}, close=True)
                if not machine.answers:
                    raise ConnectionLost("the host went away", host=machine.address, method=path)  # noqa: TRY301
                origin = f"{self._scheme}://{headers.get('host', '')}"
                return answer(machine.pool, machine, method, path, headers, body, origin)
            except TransportError:
                raise
            except Exception as error:
                log.exception("the fake has a bug: %s %s on %s", method, path, machine.name if machine else "control")
                return broken(f"the fake has a bug: {error!r}")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Somebody is being served, until the answer is on its way: time does not run on meanwhile, or a host that was told
        to halt would be gone before it said so. Those who wait are told afterwards."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)
            with self._lock:
                self._wake()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        """Have the pool to oneself."""
        with self.serving(), self._lock:
            self._catch_up()
            yield

    def _add(self, calls: int) -> None:
        with self._count:
            self._calls += calls

    # --- time

    def _target(self) -> float:
        """Where the simulated clock should be now."""
        return self._virtual_start + (time.monotonic() - self._started_at) * self.time_scale

    def _set_time(self) -> None:
        """Let simulated time go on from where the pool's clock stands."""
        self._started_at, self._virtual_start = time.monotonic(), self.pool.clock.now()

    def _catch_up(self) -> None:
        if self.time_scale > 0:
            self.pool.clock.run_until(max(self._target(), self.pool.clock.now()))

    def _tick(self) -> None:
        with self._lock:
            while not self._stopping:
                moment = self.pool.clock.next_moment()
                if moment is None:
                    self._changed.wait()
                elif self.time_scale == 0:
                    self._changed.wait_for(lambda: self._calls == 0 or self._stopping, timeout=BUSY_STEP)
                    self._step(moment)
                else:
                    missing = (moment - self._target()) / self.time_scale
                    if missing > 0:
                        self._changed.wait(min(missing, threading.TIMEOUT_MAX))
                    else:
                        self._step(moment)

    def _step(self, moment: float) -> None:
        try:
            self.pool.clock.step(moment)
        except Exception:
            log.exception("the fake has a bug: a timer failed")
        self._wake()

    def _wake(self) -> None:
        """Tell every call whose wait is over; it counts as being served from now on, so that time does not run ahead."""
        now = self.pool.clock.now()
        for waiter in self._waiters:
            over = now >= waiter.wait.deadline and not (waiter.wait.idle and self.time_scale == 0)
            if not waiter.due and (over or waiter.wait.ready()):
                waiter.due = True
                self._add(1)
        if self._waiters or self._stopping or self.pool.clock.next_moment() is not None:
            self._changed.notify_all()

    def _wait(self, wait: Wait) -> None:
        """Let a call wait with the pool given up."""
        clock, waiter = self.pool.clock, _Waiter(wait)
        idle = wait.idle and self.time_scale == 0
        timer = None if idle else clock.after(wait.deadline - clock.now(), lambda: None)
        self._waiters.append(waiter)
        self._add(-1)
        self._wake()
        try:
            seconds = wait.deadline - clock.now() if idle else None
            self._changed.wait_for(lambda: waiter.due or self._stopping, timeout=seconds)
        finally:
            self._waiters.remove(waiter)
            if not waiter.due:
                self._add(1)
            if timer is not None:
                timer.cancel()


def _named(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _on_one_port(names: list[str], port: int) -> list[socket.socket]:
    """A socket for each of `names`, all on one port; none where the system lacks one of the addresses."""
    for _ in range(20):
        with ExitStack() as opened:
            try:
                first = opened.enter_context(_bound(names[0], port))
                found = [first, *_bound_all([(name, first.getsockname()[1]) for name in names[1:]])]
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    return []
                if port:
                    raise
            else:
                opened.pop_all()
                return found
    return []


def _bound_all(places: list[tuple[str, int]]) -> list[socket.socket]:
    """A socket for each of `places`, or for none if one fails."""
    with ExitStack() as opened:
        found = [opened.enter_context(_bound(*place)) for place in places]
        opened.pop_all()
        return found


def _bound(address: str, port: int) -> socket.socket:
    """A socket at `address` and `port` (0: any). Raises `OSError`, which names them."""
    out = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        out.bind((address, port))
    except OSError as error:
        out.close()
        raise OSError(error.errno, f"cannot listen on {_named(address, port)}: {error.strerror}") from None
    return out
