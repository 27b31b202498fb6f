"""One transfer: the task that it runs under, where it goes, and how its bytes get through."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from ..errors import ConnectError, ConnectionLost, Failure, ProtocolError, TransportError, WaitTimeout, XenctlError
from ..tasks import RUNNING, Task
from ..transport import UPLOAD_BLOCK
from ..values import Ref, to_any
from .files import Check, OnProgress, Source, Target, opened, opened_source

if TYPE_CHECKING:
    from ..api import types as t
    from ..session import Session

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handler:
    """One of a host's HTTP handlers, and the first release that has it where not all have."""

    method: str
    path: str
    since: str = ""

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


class _Run:
    """The tasks that one transfer runs under: one for each try, of which the last one counts."""

    def __init__(self, session: Session, handler: Handler) -> None:
        self.session, self.handler = session, handler
        self._task: Task[Any] | None = None
        self._taken = False

    def bind(self) -> str:
        """The task for the next try."""
        if self._task is not None:
            self._drop(self._task)  # the try before was answered before any handler took it
        ref = self.session.task.create(self.handler.label, "")
        self._task = _BareTask(self.session, ref, self.handler.label, to_any)
        return ref

    def taken(self) -> None:
        """The handler has answered that it begins: it ends the task, whatever comes."""
        self._taken = True

    def result(self, timeout: float | None, convert: Callable[[Any], T]) -> T:
        """Wait until the server says that it is done; raises what it failed of."""
        assert self._task is not None
        task, self._task = self._task, None
        try:
            return convert(task.wait(timeout))
        except WaitTimeout as error:
            self._task = task
            message = f"not done {timeout:g} s after the last byte; it was told to stop"
            raise WaitTimeout(message, host=self.session.origin, method=self.handler.label) from error
        except ValueError as error:
            message = f"the task's result is not of its type: {error}"
            raise ProtocolError(message, host=self.session.origin, method=self.handler.label) from error

    def failed(self, error: BaseException) -> None:
        """After `error`: raise what the task says of the reason, if it does; else see that nothing goes on."""
        task, self._task = self._task, None
        if task is None:
            return
        if isinstance(error, XenctlError):
            with suppress(TransportError, RuntimeError):
                if self._is_over(task):
                    try:
                        task.outcome()
                    except Failure as told:
                        raise told from error
                    return
        declined = isinstance(error, (ProtocolError, Failure, ConnectError)) and not self._taken
        if not declined:  # it may be going on, even if no answer came
            self._taken = True
            with suppress(XenctlError):
                task.cancel()
        self._drop(task)

    def _is_over(self, task: Task[Any]) -> bool:
        """Whether the task has an outcome; one that the server does not know any more has none."""
        try:
            return task.status() not in RUNNING
        except Failure as error:
            log.debug("%s: its task is not told: %s", self.handler.label, error)
            return False

    def _drop(self, task: Task[Any]) -> None:
        """Drop a task; one that no handler took would be pending for a day, so where a host lets us, from 7.2 on, it is
        ended first."""
        try:
            if not self._taken:
                with suppress(Failure):
                    self.session.task.set_status(task.ref, "cancelled")
            task.destroy()
        except XenctlError as error:
            log.debug("%s: its task could not be dropped: %s", self.handler.label, error)


class _BareTask(Task[Any]):
    """A task whose result may be a bare reference, as handlers write it."""

    def _result(self, status: str, error_info: list[str], result: str) -> Any:
        if status == "success" and not result.lstrip().startswith("<"):
            return result
        return super()._result(status, error_info, result)


@contextmanager
def _running(session: Session, handler: Handler) -> Iterator[_Run]:
    if handler.since:
        session.require(handler.label, handler.since)
    run = _Run(session, handler)
    try:
        yield run
    except BaseException as error:
        run.failed(error)
        raise


def default_sr(session: Session) -> Ref[t.SR]:
    """The pool's default storage repository."""
    (pool,) = session.pool.get_all_records().values()
    return pool.default_SR


def _address(session: Session, sr: Ref[t.SR]) -> str:
    """The host to upload to for `sr`, empty for the master.

    A host without a connection to it answers with a redirection, but before it has read what is sent; such an answer is
    easily lost, so the upload goes to the right host at once.
    """
    try:
        pbds = [session.PBD.get_record(pbd) for pbd in session.SR.get_PBDs(sr)]
        connected = [pbd.host for pbd in pbds if pbd.currently_attached]
        (pool,) = session.pool.get_all_records().values()
        if not connected or pool.master in connected:
            return ""
        live = [host for host in connected if session.host_metrics.get_live(session.host.get_metrics(host))]
        return session.host.get_address(live[0]) if live else ""
    except Failure as error:
        log.debug("%s: the master is asked, since its hosts are not told: %s", sr, error)
        return ""


def download(
    session: Session,
    handler: Handler,
    query: Mapping[str, str],
    target: Target,
    on_progress: OnProgress | None,
    timeout: float | None,
    *,
    check: Check | None = None,
    size: int | None = None,
    address: str = "",
) -> int:
    """Write what `handler` sends to `target`; the number of bytes. `size` is how many they are, where that is known."""
    with opened(target) as file, _running(session, handler) as run:
        answer = session.fetch(_path(handler, query), address=address, task=run.bind)
        run.taken()
        length = answer.headers.get("content-length", "")
        total = int(length) if length.isdigit() else size
        done = 0
        try:
            while block := answer.stream.read(UPLOAD_BLOCK):
                file.write(block)
                done += len(block)
                if check is not None:
                    check.look(block)
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            answer.stream.close()
        if length.isdigit() and done != int(length):
            message = f"it ended after {done} of {length} bytes"
            raise ConnectionLost(message, host=session.origin, method=handler.label)
        if check is not None:  # before the task is waited for: who sent something else may never have seen it
            check.end(session.origin, handler.label)
        run.result(timeout, to_any)
        return done


def _path(handler: Handler, query: Mapping[str, str]) -> str:
    return f"{handler.path}?{urlencode(query)}" if query else handler.path


def upload(
    session: Session,
    handler: Handler,
    query: Mapping[str, str],
    source: Source,
    length: int | None,
    on_progress: OnProgress | None,
    timeout: float | None,
    convert: Callable[[Any], T],
    sr: Ref[t.SR] | None = None,
    *,
    address: str = "",
) -> T:
    """Send `source` to `handler`, on a host that sees `sr`; the task's result, made of by `convert`."""
    with opened_source(source, length, on_progress) as sent, _running(session, handler) as run:
        where = address if sr is None else _address(session, sr)
        answer = session.fetch(_path(handler, query), method="PUT", upload=sent, address=where, task=run.bind)
        run.taken()
        answer.read()
        sent.tell()
        return run.result(timeout, convert)
