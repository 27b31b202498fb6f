"""The `xenctl` command. Needs the extra `cli` (click and rich)."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command; says what is missing where the extra is not installed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that the terminal cannot show are no reason to stop
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is told to end stops as with Ctrl-C
    try:
        from .commands import cli

        cli()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        print(f"xenctl: the command needs {missing}; install it with: pip install 'xenctl[cli]'", file=sys.stderr)
        sys.exit(2)
