"""What `host.cert_distrib_atom` is told and answers: commands as S-expressions, to give hosts each other's certificates.

A command is `(CollectOne KIND NAME)`, `(CollectMany KIND (NAME...))`, `(Write (KIND RULE (FILE...)))` or `GenBundle`, a file
`((filename NAME)(content TEXT))`; a word that holds anything but plain characters is in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import trust
from .call import refuse

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

KINDS = {
    "HostPoolCertificate": trust.POOL_FOLDER,
    "HostPoolCert": trust.POOL_FOLDER,
    "ApplianceCertificate": trust.CA_FOLDER,
    "LegacyRootCert": trust.CA_FOLDER,
    "CRL": trust.CRL_FOLDER,
}
"""The folder of each kind of files, by its names then and now."""
RULES = ("Erase_old", "Merge")

TOKEN = re.compile(r'\s*(?:([()])|"((?:[^"\\]|\\.)*)"|([^\s()"]+))', re.DOTALL)
ESCAPE = re.compile(r"\\(?:(\d{3})|(.))", re.DOTALL)
LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b"}
PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")


def execute(pool: MockPool, machine: HostMachine, command: str) -> str:
    """Do a command on a host. Raises `INTERNAL_ERROR` for one that cannot be read or done."""
    try:
        name, arguments = _command(read(command))
        function = COMMANDS[name]
    except (ValueError, KeyError):
        raise refuse("INTERNAL_ERROR", "local_exec: failed to parse command") from None
    try:
        return function(pool, machine, *arguments)
    except (ValueError, TypeError, AttributeError):
        raise refuse("INTERNAL_ERROR", "local_exec: failed to parse command") from None
    except KeyError as error:
        raise refuse("INTERNAL_ERROR", f'Sys_error("{error.args[0]}: No such file or directory")') from None


def _command(tree: Any) -> tuple[str, list[Any]]:
    if isinstance(tree, str):
        return tree, []
    name, *arguments = tree
    if name == "Write" and len(arguments) == 1:
        arguments = arguments[0]
    return name, arguments


def _collect_one(pool: MockPool, machine: HostMachine, kind: str, name: str) -> str:
    return f"(CollectOneResult{_file(*_collected(pool, machine, kind, name))})"


def _collect_many(pool: MockPool, machine: HostMachine, kind: str, names: list[str]) -> str:
    found = [_file(*_collected(pool, machine, kind, name)) for name in names]
    return f"(CollectManyResult({''.join(found)}))"


def _collected(pool: MockPool, machine: HostMachine, kind: str, name: str) -> tuple[str, str]:
    """The name and content of a file; of a host's own certificate the name is its uuid."""
    folder = _folder(kind)
    if folder == trust.POOL_FOLDER:
        return f"{name}.pem", trust.own(pool, machine, "host_internal")
    return name, machine.system.files[folder + name].decode(errors="replace")


def _write(pool: MockPool, machine: HostMachine, kind: str, rule: str, files: list[Any]) -> str:
    if rule not in RULES:
        raise ValueError(rule)
    pairs = [dict(file) for file in files]
    folder = _folder(kind)
    written = {folder + pair["filename"]: pair["content"].encode() for pair in pairs}
    if rule == "Erase_old":
        trust.clear(machine.system, folder)
    trust.change(machine.system, written)
    return "WriteResult"


def _bundle(pool: MockPool, machine: HostMachine) -> str:
    trust.bundle(machine.system)
    return "GenBundleResult"


COMMANDS: dict[str, Callable[..., str]] = {
    "CollectOne": _collect_one,
    "CollectMany": _collect_many,
    "Write": _write,
    "GenBundle": _bundle,
}


def _folder(kind: Any) -> str:
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(kind)
    return KINDS[kind]


# --- the language


def read(text: str) -> Any:
    """A word, or a list of these. Raises `ValueError`."""
    tokens = list(_tokens(text))
    tree, rest = _tree(tokens)
    if rest:
        raise ValueError(f"more than one expression: {len(rest)} tokens are left")
    return tree


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Each token as its kind and its text."""
    at, end = 0, len(text.rstrip())
    while at < end:
        found = TOKEN.match(text, at, end)
        if found is None:
            raise ValueError(f"no expression at character {at}")
        at = found.end()
        bracket, quoted, word = found.groups()
        if bracket:
            yield bracket, ""
        else:
            yield "word", word if quoted is None else ESCAPE.sub(_unescaped, quoted)


def _unescaped(found: re.Match[str]) -> str:
    number, letter = found.groups()
    return chr(int(number)) if number else LETTERS.get(letter, letter)


def _tree(tokens: list[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
    stack: list[list[Any]] = [[]]
    for place, (kind, text) in enumerate(tokens):
        if kind == "(":
            stack.append([])
        elif kind == "word":
            stack[-1].append(text)
        elif len(stack) == 1:
            raise ValueError("a bracket closes that never opened")
        else:
            done = stack.pop()
            stack[-1].append(done)
        if len(stack) == 1:
            return stack[0][0], tokens[place + 1 :]
    raise ValueError("an expression ends too early")


def _file(name: str, content: str) -> str:
    return f"((filename {_word(name)})(content{_word(content, glued=True)}))"


def _word(text: str, *, glued: bool = False) -> str:
    if PLAIN.fullmatch(text):
        return f" {text}" if glued else text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return '"' + escaped.replace("\r", "\\r") + '"'
