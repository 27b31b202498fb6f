"""The `xenctl` command as its user meets it: a process with arguments, output and an exit status."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mockserver import MockPool, PoolServer

DATA = Path(__file__).parent / "data"


def xenctl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "xenctl", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def test_the_main_job_prints_the_report() -> None:
    """Without arguments: hosts before and after, guests, the backup, the time it will take, and that nothing is broken."""
    done = xenctl("rehearse")
    assert done.returncode == 0, done.stderr
    for text in ("rolling upgrade from 4.0.1 to 4.1.0", "host1", "vm12", "20 min 20 s", "sha256", "calls"):
        assert text in done.stdout
    assert "simulated duration: 1 h" in done.stdout
    assert "0 invariants broken: this pool can be upgraded" in done.stdout
    assert done.stderr == ""


def test_a_dump_is_rehearsed() -> None:
    """A dump's planned downtime is named before the tables."""
    done = xenctl("rehearse", str(DATA / "pool-4.1.0.xml"))
    assert done.returncode == 0, done.stderr
    assert "planned downtime: vm0001: it has a disk on storage that only its host reaches" in done.stdout
    assert done.stdout.index("planned downtime") < done.stdout.index("migrations")
    assert "0 invariants broken" in done.stdout


def test_json_is_one_object_and_nothing_else() -> None:
    """`--json` prints exactly one JSON object on standard output, with all promised members."""
    done = xenctl("rehearse", str(DATA / "pool-4.0.1.xml"), "--json")
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    promised = {
        *("ok", "from", "to", "hosts", "vms", "max_hosts_offline", "backup", "violations"),
        *("simulated_s", "wall_s", "calls", "bytes", "steps"),
    }
    assert promised <= set(found)
    assert set(found["hosts"][0]) == {"name", "before", "after", "offline_s"}
    assert {"name", "uuid", "state_before", "state_after", "migrations", "downtime_s"} <= set(found["vms"][0])
    assert {"planned_downtime", "home"} <= set(found["vms"][0])


def test_a_progress_bar_is_shown_on_a_terminal() -> None:
    """On a terminal the steps go by on standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "xenctl", "rehearse"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"0 invariants broken" in out
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in seen.decode()


def test_impossible_is_exit_status_1() -> None:
    """Understood and judged impossible: every reason on standard output."""
    done = xenctl("rehearse", "--to", "5.5")
    assert done.returncode == 1
    assert "problem: the XenServer 5.5.0 installer does not upgrade XenServer 4.0.1" in done.stdout
    done = xenctl("rehearse", "--to", "5.5", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert json.loads(done.stdout)["reasons"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("rehearse", "no-such-file.xml"), "no-such-file.xml"),
        (("rehearse", __file__), "not XML"),
        (("rehearse", "--to", "99"), "no release is called '99'"),
        (("rehearse", "a.xml", "--server", "http://127.0.0.1:1"), "not both"),
        (("rehearse", "--server", "http://127.0.0.1:1"), "cannot be reached"),
        (("rehearse", "--server", "ftp://x"), "not a host's URL"),
        (("rehearse", "--password-file", "no-such-file", "--server", "http://127.0.0.1:1"), "no-such-file"),
        (
            ("rehearse", "--ca-file", "no-such-ca", "--server", "https://127.0.0.1:1"),
            "--ca-file: the CA file 'no-such-ca'",
        ),
        (
            ("rehearse", "--fingerprint", "AB", "--server", "https://127.0.0.1:1"),
            "not a certificate's fingerprint: 'AB'",
        ),
        (("rehearse", "--fingerprint", "AB", "--no-verify", "--server", "x"), "give one of --fingerprint, --no-verify"),
        (("rehearse", "--no-verify"), "--no-verify is for a live pool: give --server too"),
        (("rehearse", "a.xml", "--username", "root"), "--username is for a live pool: give --server too"),
        (("rehearse", "--wrong"), "No such option"),
        (("no-such-command",), "No such command"),
    ],
)
def test_bad_usage_is_exit_status_2(arguments: tuple[str, ...], expected: str) -> None:
    """Not readable, not reachable, not understood: one sentence on standard error, nothing on standard output."""
    done = xenctl(*arguments, XENCTL_PASSWORD="x")
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_live_pool_is_fetched_first(tmp_path: Path) -> None:
    """`--server` takes the dump from a pool that is served on sockets, whichever of its hosts is named, and leaves it as it
    was; the password comes from a file or the environment."""
    pool = MockPool.create(release="4.1.0", hosts=2, vms=4, password="s3cret")
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    with PoolServer(pool) as server:
        before = {vm.ref: dict(vm) for vm in pool.store.table("VM").values()}
        member = server.hosts()[1]["url"]
        done = xenctl("rehearse", "--server", member, "--password-file", str(secret), "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["ok"], found["from"], found["to"], len(found["hosts"])) == (True, "4.1.0", "5.0.0", 2)
        assert before == {vm.ref: dict(vm) for vm in pool.store.table("VM").values()}
        assert pool.store.table("session") == {}
        wrong = xenctl("rehearse", "--server", member, XENCTL_PASSWORD="wrong")
    assert wrong.returncode == 2
    assert "SESSION_AUTHENTICATION_FAILED" in wrong.stderr


def test_a_live_pool_is_known_by_its_certificate() -> None:
    """A CA file or a fingerprint makes a host trusted, `--no-verify` goes without, and neither says a word; without any of
    them the error names the options, not the library's arguments."""
    pytest.importorskip("cryptography")
    pool = MockPool.create(release="8.2", hosts=1, vms=1)
    with PoolServer(pool, tls=True) as server:
        (shown,) = pool.fingerprints.values()
        for options in (("--ca-file", server.cafile), ("--fingerprint", shown["sha-256"]), ("--no-verify",)):
            done = xenctl(
                "rehearse", "--server", server.url, *options, "--to", "8.2.1", "--json", XENCTL_PASSWORD="secret"
            )
            assert (json.loads(done.stdout)["from"], done.stderr) == ("8.2.0", "")
        done = xenctl("rehearse", "--server", server.url, XENCTL_PASSWORD="secret")
    assert done.returncode == 2
    assert "pass --ca-file with the path of the pool's CA file, or --fingerprint with what" in done.stderr
    assert "or --no-verify to go without a check" in done.stderr


def test_old_tls_is_spoken_where_it_is_asked_for() -> None:
    """A host that refuses today's TLS: the error names `--legacy-tls`, or says that it did not help."""
    alert = bytes.fromhex("15 0301 0002 0246")  # protocol version
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            for _ in range(2):
                connection, _peer = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(alert)

        thread = threading.Thread(target=refuse)
        thread.start()
        command = ("rehearse", "--server", f"https://127.0.0.1:{listener.getsockname()[1]}", "--no-verify")
        modern, legacy = (xenctl(*command, *option, XENCTL_PASSWORD="x") for option in ((), ("--legacy-tls",)))
        thread.join()
    assert "pass --legacy-tls, with --fingerprint or --no-verify" in modern.stderr
    assert "even with --legacy-tls" in legacy.stderr


def test_a_warning_is_one_sentence() -> None:
    """That a password travels in the clear is told like an error, without a place in our code."""
    done = xenctl(
        *("rehearse", "--server", "http://192.0.2.1"),
        XENCTL_PASSWORD="x",
        http_proxy="http://127.0.0.1:1",
        no_proxy="",
    )
    assert done.returncode == 2
    warning, error = done.stderr.splitlines()
    assert warning.startswith("xenctl: http://192.0.2.1 is spoken to without TLS")
    assert "with --legacy-tls for a host before 7.0" in warning
    assert error.startswith("xenctl: session.login_with_password on http://192.0.2.1: ")


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """Where click is missing the command names the extra."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module named click', name='click')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = xenctl("rehearse", PYTHONPATH=path)
    assert done.returncode == 2
    assert "xenctl[cli]" in done.stderr


def test_help_and_version() -> None:
    """The help names the command's job."""
    assert "Rehearse the rolling upgrade" in xenctl("rehearse", "--help").stdout


def test_names_that_the_terminal_cannot_show_stop_nothing() -> None:
    """Where standard output is not UTF-8, odd characters in names become question marks."""
    done = xenctl("rehearse", str(DATA / "pool-4.0.1.xml"), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "0 invariants broken" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("rehearse", "--server", ""), "not a host's URL"),
        (("rehearse", "--server", "http://127.0.0.1:1"), "XENCTL_PASSWORD"),
    ],
)
def test_what_an_unset_variable_leaves_empty_is_bad_usage(arguments: tuple[str, ...], expected: str) -> None:
    """An empty URL, or no password and nobody to ask, is exit status 2 and says what to do."""
    environment = {"XENCTL_PASSWORD": "x"} if arguments[-1] == "" else {}
    done = xenctl(*arguments, **environment)
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr
