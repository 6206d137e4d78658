# SPDX-License-Identifier: Apache-2.0
"""``gaff compare``: several runs on one page, and in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.arguments import whole_number
from gaff.cli.output import say
from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Location, Problem

_DEFAULT_PAGE = Path("compare.html")
_BESIDE = (".md", ".tex", ".csv", ".json")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="several runs beside each other: curves, final numbers, recovery by k, a table for a paper",
        description="Write compare.html, one file that works offline, and beside it the table as Markdown, LaTeX, CSV "
        "and JSON; print the table. Runs may be going on, and of any length. Those that differ in their seeds alone "
        "are taken together, with mean and standard deviation.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, at least two")
    parser.add_argument(
        "-o", dest="page", type=Path, default=_DEFAULT_PAGE, metavar="FILE", help="the page; all else goes beside it"
    )
    parser.add_argument(
        "--align",
        choices=("iteration", "tokens", "hours"),
        default="iteration",
        help="lay the curves along it, and compare with the baseline after as many (iteration)",
    )
    parser.add_argument("--names", metavar="A,B,…", help="what the runs are called; else their directories' names")
    parser.add_argument(
        "--baseline", type=Path, metavar="RUN", help="the run to compare with; else the first without resets"
    )
    parser.add_argument(
        "--last",
        type=whole_number(1),
        metavar="N",
        help="logged losses that a final loss is the mean of (a twentieth of the shortest run's, at most 100)",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    parser.add_argument("--json", action="store_true", help="print the numbers (schema gaff.compare/1), write nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The verb itself.  Returns the exit code: 1 where no loss is logged yet in any of the runs."""
    from gaff.report.compare.comparison import compare
    from gaff.report.compare.runs import read_runs
    from gaff.report.compare.writing import json_of, text_of, write_files

    names = options.names.split(",") if options.names is not None else ()
    _check_page(options.page)
    comparison = compare(read_runs(options.runs, names), options.align, options.baseline, options.last)
    if options.json:
        say(json_of(comparison).rstrip())
        return EXIT_DONE
    if not comparison.has_losses:
        say("no loss is logged yet in any of the runs")
        return EXIT_FAILED
    files = write_files(comparison, options.page, options.title or f"{len(comparison.runs)} runs compared")
    say("\n".join([text_of(comparison), *(f"  {path}" for path in files)]))
    return EXIT_DONE


def _check_page(page: Path) -> None:
    """Raise where the files cannot be written, before anything long begins."""
    where = Location(str(page))
    if page.suffix in _BESIDE:
        what = f"the page may not end in {page.suffix}, which one of the files beside it has"
        raise InputError(Problem("page-name", what, "name it as compare.html", where))
    if page.is_dir() or not page.parent.is_dir():
        what = "this is a directory" if page.is_dir() else "its directory does not exist"
        raise InputError(Problem("page-place", what, "name a file in a directory that is there", where))
