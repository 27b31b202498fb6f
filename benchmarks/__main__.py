"""Measure everything that has a mark and print it; with `--check`, fail where a mark is missed.

Ratios are of figures measured in turn in the same run, so that a machine whose speed drifts does not decide them; medians
are quoted. Times of the fake are processor time, by how much slower than the machine that marks are for this one is while
they are measured; those over sockets are real time.
"""

from __future__ import annotations

import argparse
import sys

from . import client, fake, planner, rehearsals

PARTS = {
    "rehearsals": rehearsals.figures,
    "client": client.figures,
    "fake": fake.figures,
    "open": fake.open_figures,
    "planner": planner.figures,
}
FINISHED = ("rehearsals", "client", "fake", "planner")
"""The parts that are measured where none is named: those whose marks are all meant to be met already."""


def main() -> int:
    """Print every figure; exit status 1 with `--check` where a mark is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure what has a mark.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} ({', '.join(FINISHED)})")
    parser.add_argument("--check", action="store_true", help="fail where a mark is missed")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (5)")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}; there are {', '.join(PARTS)}")
    missed = 0
    for part in options.parts or FINISHED:
        for figure in PARTS[part](options.runs):
            print(figure, flush=True)
            missed += not figure.met
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
