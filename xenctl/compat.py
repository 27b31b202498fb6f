"""A drop-in for the official SDK's `XenAPI` module: `from xenctl.compat import XenAPI` instead of `import XenAPI`.

Programs that were written for that module run unchanged: the same names, the same values (whole numbers as text, dates as
`xmlrpc.client.DateTime`, nothing as `""`), the same errors. Beneath are this library's transport and codec, so threads may
share a session, a call is never sent twice because a connection dropped, and large answers are read several times
faster. What differs is in `docs/compat.md`, each with its reason.

How it works: everything that is sent goes through `Session.__send`, which returns the answer as the struct that xapi sends
(`Status` with `Value` or `ErrorDescription`), so that the rules about sessions see one form, be the transport ours or one
of `xmlrpc.client`'s kind. This module is itself what `XenAPI` names. The standard library's XML-RPC, whose errors and
dates are part of the interface, is loaded with the first session, as is everything else.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from errno import ECONNREFUSED, ETIMEDOUT
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import ConnectError, ConnectionLost, TransportError, WaitTimeout
from .errors import Failure as Refusal

if TYPE_CHECKING:
    import http.client as httplib
    import xmlrpc.client as xmlrpclib
    from types import TracebackType

    from . import compat as XenAPI  # noqa: N812, PLW0406 - the official module's name for what this module is
    from .transport import Clock, Request, Response, Transport
else:
    XenAPI = sys.modules[__name__]

__all__ = [
    "API_VERSION_1_1",
    "API_VERSION_1_2",
    "Failure",
    "Session",
    "UDSTransport",
    "XenAPI",
    "httplib",
    "xapi_local",
    "xmlrpclib",
]

log = logging.getLogger(__name__)

API_VERSION_1_1 = "1.1"
API_VERSION_1_2 = "1.2"
ROUNDS = 3
"""How often a call is sent whose session the server does not know, with a login after each time."""
CONNECT_PATIENCE, PATIENCE = 120.0, 86400.0
"""Seconds that a connection and an answer are waited for, unless `socket.setdefaulttimeout` says otherwise: the official SDK
leaves the one to the system and has no limit for the other, since a synchronous call may well move a large VM."""

_LOGINS = ("login", "slave_local")
_RECONNECT_AND_RETRY = object()
_MODULES = {"httplib": "http.client", "xmlrpclib": "xmlrpc.client"}


if not TYPE_CHECKING:  # checkers are to see a misspelled name

    def __getattr__(name: str) -> Any:
        """The official module lets its imports be seen, and programs use them: `XenAPI.xmlrpclib.Fault`."""
        from importlib import import_module

        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(_MODULES[name])


class Failure(Refusal):
    """The server refused a call; `details` is `[code, *params]`, and the text is the list's.

    It is a `xenctl.errors.Failure` too, so that old and new code in one program can catch each other's, and it has the
    `code` and `params` of that; it is not of the code's own class.
    """

    def __init__(self, details: Any) -> None:
        Exception.__init__(self, details)
        self.details = details

    def __str__(self) -> str:
        return str(self.details)

    def __reduce__(self) -> tuple[object, ...]:
        return Exception.__reduce__(self)  # type: ignore[return-value]

    def _details_map(self) -> dict[str, str]:
        return {str(number): part for number, part in enumerate(self.details)}


class Session:
    """One user's session with one host, as the official SDK's.

        session = XenAPI.Session("https://10.0.0.1")
        session.xenapi.login_with_password("root", password, "1.0", "my program")
        session.xenapi.VM.get_all_records()

    `transport` is one of this library's (`pool.transport()` of the fake among them) or one of `xmlrpc.client`'s kind; left
    out, it is `xenctl.transport.HttpTransport`. `ignore_ssl` goes without a check of certificates. `verbose` prints a line
    for each call, without its arguments. `encoding` is taken and has no effect: xapi reads UTF-8. Any attribute that is not
    named here is a method of the server to be called without this session: `session.VM.get_all(ref)` returns the
    answer's struct. Threads may share it. Leaving a `with` block closes connections and does not log out.
    """

    def __init__(
        self,
        uri: str,
        transport: Any = None,
        encoding: str | None = None,
        verbose: object = False,
        allow_none: object = True,
        ignore_ssl: object = False,
    ) -> None:
        # Programs have subclasses with attributes of their own: what they do not know of has two underscores.
        self.transport = transport
        self.__place = _Place(uri)
        self.__line: _Direct | _Lent
        if transport is None:
            self.__line = _Direct(_network(unchecked=bool(ignore_ssl)), self.__place, verbose=bool(verbose))
        elif hasattr(transport, "send") and hasattr(transport, "clock"):
            self.__line = _Direct(transport, self.__place, verbose=bool(verbose))
        else:
            self.__line = _Lent(transport, self.__place)
        self.__allow_none = bool(allow_none)
        self.__lock = RLock()
        self._session: Any = None
        self.last_login_method: str | None = None
        self.last_login_params: tuple[Any, ...] | None = None
        self._API_version: str | None = API_VERSION_1_1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.__place.name}{self.__place.path}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is not copied or pickled: it holds credentials and connections; make another one")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__line.close()

    def __call__(self, name: str) -> Any:
        """What a `ServerProxy` gives by this way: `"close"` to close connections, `"transport"`."""
        if name == "close":
            return self.__line.close
        if name == "transport":
            return self.__line.transport
        raise AttributeError(f"Attribute {name!r} not found")

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_LOGINS):
            return lambda *params: self._login(name, params)
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _Dispatcher(self.__send, name)

    @property
    def handle(self) -> Any:
        """The session's reference; None while not logged in."""
        return self._session

    @property
    def xenapi(self) -> Any:
        """The server's messages, called with this session: `session.xenapi.VM.start(vm, False, False)`."""
        return _Dispatcher(self.xenapi_request, None)

    @property
    def API_version(self) -> str:  # noqa: N802 - XenAPI's name
        """The pool's version of the XenAPI, such as `2.21`, asked for once; `1.1` while not logged in."""
        if self._API_version is None:
            self._API_version = self._get_api_version()
        return self._API_version

    def _get_api_version(self) -> str:
        api = self.xenapi
        host = api.pool.get_master(api.pool.get_all()[0])
        return f"{api.host.get_API_version_major(host)}.{api.host.get_API_version_minor(host)}"

    def logout(self, *_: Any) -> None:
        """End the session on the server; does nothing where this object has not logged in."""
        self.xenapi_request("logout", ())

    def xenapi_request(self, methodname: str, params: Sequence[Any]) -> Any:
        """Send `methodname` with this session before `params`, logging in anew where the server no longer knows it.

        Raises `Failure`; `xmlrpc.client.Fault` where no session is to be had or the answer is none of XenAPI's,
        `xmlrpc.client.ProtocolError` for an HTTP status other than 200, and `OSError` where no answer came.
        """
        from xmlrpc.client import Fault

        if methodname.startswith(_LOGINS):
            self._login(methodname, tuple(params))
            return None
        if methodname in ("logout", "session.logout"):
            self._logout()
            return None
        for _ in range(ROUNDS):
            ref = self._session
            result = _parse_result(self.__send(methodname, (ref, *params)))
            if result is not _RECONNECT_AND_RETRY:
                return result
            self._log_in_again(ref)
        raise Fault(500, f"Tried {ROUNDS} times to get a valid session, but failed")

    def _log_in_again(self, ref: Any) -> None:
        """Replace a reference that the server no longer knows, unless another thread has done so."""
        from xmlrpc.client import Fault

        with self.__lock:
            if self._session is not ref:
                return
            if self.last_login_method is None or self.last_login_params is None:
                raise Fault(401, "You must log in")
            log.info("%s no longer knows the session, logging in again", self.__place.name)
            self._login(self.last_login_method, self.last_login_params)

    def _login(self, method: str, params: tuple[Any, ...]) -> None:
        from xmlrpc.client import Fault

        with self.__lock:
            try:
                ref = _parse_result(self.__send(f"session.{method}", params))
            except OSError as error:
                if error.errno == ETIMEDOUT:
                    raise Fault(504, "The connection timed out") from error
                raise
            if ref is _RECONNECT_AND_RETRY:
                raise Fault(500, "Received SESSION_INVALID when logging in")
            self._session, self.last_login_method, self.last_login_params = ref, method, params
            self._API_version = None

    def _logout(self) -> None:
        with self.__lock:
            method, ref = self.last_login_method, self._session
            self._session = self.last_login_method = self.last_login_params = None
            self._API_version = API_VERSION_1_1
        if method is not None:
            local = method.startswith("slave_local")
            _parse_result(self.__send(f"session.{'local_logout' if local else 'logout'}", (ref,)))

    def __send(self, method: str, params: Sequence[Any]) -> Any:
        """Send one call as it is, once, and return the answer's struct, be it a success or a failure."""
        return self.__line.call(method, _body(method, params, allow_none=self.__allow_none))


def xapi_local() -> Session:
    """A session with the host that this program runs on, over its Unix socket; log in with `"root", ""`."""
    return Session("http://_var_lib_xcp_xapi/", transport=UDSTransport())


class _Dispatcher:
    """A name that dots make longer and a call sends."""

    def __init__(self, send: Callable[[str, tuple[Any, ...]], Any], name: str | None) -> None:
        self._send, self._name = send, name

    def __repr__(self) -> str:
        return f"<XenAPI._Dispatcher for {self._name}>" if self._name else "<XenAPI._Dispatcher>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # none of XenAPI's, and notebooks ask for many
            raise AttributeError(f"XenAPI has no name {name!r}")
        return _Dispatcher(self._send, name if self._name is None else f"{self._name}.{name}")

    def __call__(self, *args: Any) -> Any:
        if self._name is None:
            raise TypeError("a method's name is missing: session.xenapi.VM.get_all()")
        return self._send(self._name, args)


def _parse_result(answer: Any) -> Any:
    """The value in an answer's struct; `_RECONNECT_AND_RETRY` for a session that the server does not know."""
    from xmlrpc.client import Fault

    if not isinstance(answer, dict) or "Status" not in answer:
        raise Fault(500, "Missing Status in response from server")
    wanted = "Value" if answer["Status"] == "Success" else "ErrorDescription"
    if wanted not in answer:
        raise Fault(500, f"Missing {wanted} in response from server")
    found = answer[wanted]
    if wanted == "Value":
        return found
    if found[:1] == ["SESSION_INVALID"]:
        return _RECONNECT_AND_RETRY
    raise Failure(found)


# What goes out.


def _body(method: str, params: Sequence[Any], *, allow_none: bool) -> bytes:
    """The bytes of a call: the codec's, or where it has no form for a value (None, `DateTime`, `Binary`, an object) those of
    the standard library, which raises what the official SDK raises."""
    from . import xmlrpc

    try:
        return xmlrpc.dumps_call(method, params, first=0)
    except TypeError:
        from xmlrpc.client import escape

        inner = _marshaller(allow_none=allow_none).dumps(tuple(params))
        text = f"{xmlrpc.PROLOG}<methodCall><methodName>{escape(method)}</methodName>{inner}</methodCall>"
        return text.encode("utf-8", "xmlcharrefreplace")


def _marshaller(*, allow_none: bool) -> xmlrpclib.Marshaller:
    """The standard library's writer, with the codec's for what both can write."""
    from xmlrpc.client import Marshaller

    from .xmlrpc import encode

    def dump(self: Marshaller, value: Any, write: Callable[[str], object]) -> None:
        write(encode(value))

    writer = Marshaller(allow_none=allow_none)
    writer.dispatch = {**writer.dispatch, **dict.fromkeys((str, int, bool, float, datetime), dump)}
    return writer


# What comes in.


def _as_the_sdk_has_it(value: Any) -> Any:
    """A decoded value with its dates as `DateTime` and its bytes as `Binary`; lists and maps are changed in place."""
    kind = type(value)
    if kind is dict:
        for name, item in value.items():
            if type(item) is not str:
                value[name] = _as_the_sdk_has_it(item)
    elif kind is list:
        for number, item in enumerate(value):
            if type(item) is not str:
                value[number] = _as_the_sdk_has_it(item)
    elif isinstance(value, str) and kind is not str:
        from xmlrpc.client import DateTime

        return DateTime(str(value))
    elif kind is bytes:
        from xmlrpc.client import Binary

        return Binary(value)
    return value


def _struct(method: str, data: bytes) -> Any:
    """The struct of an answer, from its bytes."""
    from xmlrpc.client import Fault

    from . import wire, xmlrpc

    try:
        value = _as_the_sdk_has_it(xmlrpc.loads_response(data))
    except wire.MalformedError as error:
        fault = Fault(500, f"{method}: {error}")
    except Refusal as refusal:
        if refusal.code != "fault":
            return {"Status": "Failure", "ErrorDescription": refusal.details}
        number, text = refusal.parameter(0) or "", refusal.parameter(1) or ""
        fault = Fault(int(number) if number.removeprefix("-").isdecimal() else 0, text)
    else:
        return value if method.startswith("system.") else {"Status": "Success", "Value": value}
    raise fault


def _bad_status(place: _Place, status: int, headers: Mapping[str, str]) -> xmlrpclib.ProtocolError:
    """The error for an HTTP status other than 200."""
    from http import HTTPStatus
    from xmlrpc.client import ProtocolError

    known = {int(each): each.phrase for each in HTTPStatus}
    return ProtocolError(f"{place.name}{place.path}", status, known.get(status, ""), dict(headers))


_KINDS: Mapping[type[TransportError], type[OSError]] = {ConnectionLost: ConnectionResetError, WaitTimeout: TimeoutError}
"""What a socket would raise, where none was there to do so."""


def _socket_error(error: TransportError) -> Exception:
    """The socket's own error behind one of our transport's: what programs for the official SDK know to catch."""
    from http.client import HTTPException
    from socket import getdefaulttimeout

    cause = error.__cause__
    if type(error) is ConnectError and isinstance(cause, TimeoutError) and getdefaulttimeout() is None:
        return TimeoutError(ETIMEDOUT, "Connection timed out")
    if isinstance(cause, (OSError, HTTPException)):
        return copy.copy(cause)
    if type(error) is ConnectError:
        return OSError(str(error)) if cause else ConnectionRefusedError(ECONNREFUSED, str(error))
    return _KINDS.get(type(error), OSError)(str(error))


# How it travels.


class _Place:
    """Where a URL leads: `name` and `path` as `xmlrpc.client` hands them to a transport, `origin` and `headers` as ours
    takes them. User name and password in the URL become a header and are shown nowhere."""

    def __init__(self, uri: str) -> None:
        from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https"):
            raise OSError("unsupported XML-RPC protocol")
        self.netloc, self.path = parts.netloc, urlunsplit(("", "", *parts[2:])) or "/RPC2"
        user, _, self.name = self.netloc.rpartition("@")
        self.origin = f"{parts.scheme}://{self.name}"
        self.headers: dict[str, str] = {}
        if user:
            from base64 import b64encode

            self.headers["authorization"] = f"Basic {b64encode(unquote_to_bytes(user)).decode()}"


class _Direct:
    """The way to a host through one of this library's transports."""

    def __init__(self, transport: Transport, place: _Place, *, verbose: bool) -> None:
        self.transport, self._place, self._verbose = transport, place, verbose

    def call(self, method: str, body: bytes) -> Any:
        """Send a call's bytes and return the answer's struct."""
        from .channel import RPC_HEADERS
        from .transport import Request

        place, clock = self._place, self.transport.clock
        request = Request(place.origin, "POST", place.path, {**RPC_HEADERS, **place.headers}, body, label=method)
        started = clock.now()
        try:
            answer = self.transport.send(request)
            data = answer.read()
        except TransportError as error:
            raise _socket_error(error) from error
        line = f"{method} on {place.origin}: HTTP {answer.status}, {clock.now() - started:.3f} s"
        log.debug("%s", line)
        if self._verbose:
            print(line)  # noqa: T201 - what `verbose` asks for
        if answer.status != 200:
            raise _bad_status(place, answer.status, answer.headers)
        return _struct(method, data)

    def close(self) -> None:
        """Close connections; the next call opens new ones."""
        self.transport.close()


class _Lent:
    """The way through a transport of `xmlrpc.client`'s kind, which takes one call at a time.

    The standard library's own `request` sends a call again when the connection dropped; it is passed by. That it may drop
    at all is mostly because it was left open and the host has closed it, so it is not left open.
    """

    def __init__(self, transport: Any, place: _Place) -> None:
        self.transport, self._place = transport, place
        self._lock = Lock()

    def call(self, method: str, body: bytes) -> Any:
        from xmlrpc.client import Transport

        place, lent = self._place, self.transport
        with self._lock:
            if getattr(type(lent), "request", None) is Transport.request:
                try:
                    answer = lent.single_request(place.netloc, place.path, body, False)
                finally:
                    lent.close()
            else:
                answer = lent.request(place.netloc, place.path, body, verbose=False)
        return answer[0] if len(answer) == 1 else answer

    def close(self) -> None:
        self.transport.close()


def _network(*, unchecked: bool) -> Transport:
    """The network as the official SDK uses it: no proxies, the system's certificates, `socket.setdefaulttimeout`, and no
    check of certificates either where a program has switched that off for all of `http.client`."""
    import socket
    import ssl

    from .transport import HttpTransport

    unchecked = unchecked or ssl._create_default_https_context is ssl._create_unverified_context
    paths = ssl.get_default_verify_paths()
    timeout = socket.getdefaulttimeout()
    return HttpTransport(
        verify=not unchecked and (paths.cafile or paths.capath or True),
        connect_timeout=timeout or CONNECT_PATIENCE,
        read_timeout=timeout or PATIENCE,
        trust_env=False,
    )


class UDSTransport:
    """HTTP over a Unix socket, whose path is the URL's host with `_` for `/`. It serves `Session`, and as well
    `xmlrpc.client.ServerProxy`. Every call has a connection of its own, so threads may share it.

    `traceparent`, `baggage` and `originator` go along from the environment, or the current span where OpenTelemetry is
    installed and `OTEL_SDK_DISABLED` is `false`.
    """

    def __init__(self) -> None:
        self._headers: list[tuple[str, str]] = []

    @property
    def clock(self) -> Clock:
        """The clock on the wall."""
        from .transport import SystemClock

        return SystemClock()

    def add_extra_header(self, key: str, value: str) -> None:
        """Send this header too, with each call from now on."""
        self._headers.append((key, value))

    def send(self, request: Request) -> Response:
        """Send and return the answer. Raises `ConnectError` or `ConnectionLost`."""
        import socket
        from http.client import HTTPConnection, HTTPException

        from .transport import Response

        name = request.host.partition("://")[2]
        connection = HTTPConnection(name)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(name.replace("_", "/"))
        except OSError as error:
            connection.close()
            text = f"cannot be reached: {error}: does this program run on a host, as root?"
            raise ConnectError(text, host=request.host, method=request.shown) from error
        headers = {"connection": "close", **request.headers, **_trace_headers(), **dict(self._headers)}
        try:
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            body = io.BytesIO(answer.read())
        except (OSError, HTTPException) as error:
            text = "the connection broke; whether the call took effect is not known: look before it is repeated"
            raise ConnectionLost(text, host=request.host, method=request.shown) from error
        finally:
            connection.close()
        return Response(answer.status, {key.lower(): value for key, value in answer.getheaders()}, body)

    def request(self, host: str, handler: str, request_body: bytes, verbose: bool = False) -> tuple[Any, ...]:
        """Carry a call of `xmlrpc.client.ServerProxy`."""
        from xmlrpc.client import getparser

        from .channel import RPC_HEADERS
        from .transport import Request

        place = _Place(f"http://{host}{handler}")
        try:
            answer = self.send(Request(place.origin, "POST", place.path, RPC_HEADERS, request_body))
        except TransportError as error:
            raise _socket_error(error) from error
        if answer.status != 200:
            raise _bad_status(place, answer.status, answer.headers)
        parser, target = getparser()
        parser.feed(answer.read())
        parser.close()
        return target.close()

    def close(self) -> None:
        """Nothing is held."""


def _trace_headers() -> dict[str, str]:
    """What tells the server whose work a call is part of."""
    headers: dict[str, str] = {}
    if os.environ.get("OTEL_SDK_DISABLED") == "false":
        from importlib import import_module

        try:
            import_module("opentelemetry.propagate").inject(headers)
        except ImportError:
            log.debug("OpenTelemetry is wanted but not installed")
    names = ("traceparent", "baggage", "originator")
    return {**{name: os.environ[name.upper()] for name in names if os.environ.get(name.upper())}, **headers}
