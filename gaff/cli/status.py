# SPDX-License-Identifier: Apache-2.0
"""``gaff status``: how far a run is, from its run directory alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gaff.errors import EXIT_DONE, InputError, Location, Problem


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status", help="how far a run is", description="Say how far a run is, whether or not it is running now."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object (schema gaff.summary/1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.report.summary import render_summary, summarize

    if not (options.run_dir / "run.json").is_file():
        where = Location(str(options.run_dir))
        raise InputError(Problem("no-run", "is no run directory: it has no run.json", "name one, as runs/NAME", where))
    summary = summarize(options.run_dir)
    print(json.dumps(summary, indent=1) if options.json else render_summary(summary))
    return EXIT_DONE
