# SPDX-License-Identifier: Apache-2.0
"""``gaff report``: a run, or logs of one, as a page with pictures and tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.cli.arguments import percentage
from gaff.cli.output import say
from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Location, Problem

if TYPE_CHECKING:
    from gaff.report.page.reported import ReportedRun

_DEFAULT_PAGE = Path("report.html")  # of logs, which have no directory of their own


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "report",
        help="the page of a run: curves, recoveries, boundaries, config, provenance",
        description="Write report.html, one file that works offline, with the loss curve as PNG and SVG, the series "
        "and the resets as CSV and the summary as JSON beside it: into the run directory, or where -o says. The run "
        "may be going on. With --from-log, of a GPT-NeoX run that GAFF did not supervise.",
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--from-log", nargs="+", type=Path, metavar="LOG", help="what GPT-NeoX printed, files in the order of time"
    )
    parser.add_argument(
        "--resets",
        type=_resets,
        default=(),
        metavar="WHERE",
        help="of --from-log: every:K, or iterations as 1000,2000, or `restarts`: wherever the log resumes",
    )
    parser.add_argument("-o", dest="page", type=Path, metavar="FILE", help="the page; all else goes beside it")
    parser.add_argument("--title", metavar="TEXT", help="of the page; else the directory's or the log's name")
    parser.add_argument(
        "--within",
        type=percentage,
        action="append",
        metavar="X",
        help="count iterations until the loss is within X%% of the level before a reset; may be given several times"
        " (10, 5, 2, 1)",
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write event files for TensorBoard there as well"
    )
    parser.add_argument("--json", action="store_true", help="print the summary (schema gaff.summary/1), write nothing")
    parser.set_defaults(run=run)


def _resets(text: str) -> object:
    from gaff.report.metrics.from_logs import parse_resets

    try:
        return parse_resets(text)
    except ValueError:
        told = f"{text} is neither every:K, nor iterations as 1000,2000, nor `restarts`"
        raise argparse.ArgumentTypeError(told) from None


def run(options: argparse.Namespace) -> int:
    """The verb itself.  Returns the exit code: 1 where no loss is logged yet."""
    from gaff.report.reporting import beside, inside, write_files
    from gaff.report.summary import render_summary

    _check(options)
    code = EXIT_DONE
    for reported, root in _reported(options):
        if options.tensorboard:
            from gaff.report.trackers.export import write_events

            write_events(reported.metrics, options.tensorboard)
        if options.json:
            say(json.dumps(reported.summary, indent=2, allow_nan=False))
            continue
        if not len(reported.metrics.curve[0]):
            say(f"{reported.source}: no loss is logged yet")
            code = EXIT_FAILED
            continue
        page = options.page or (None if root else _DEFAULT_PAGE)
        places = beside(page) if page else inside(root or Path())
        files = write_files(reported, places)
        say("\n".join([render_summary(reported.summary), *(f"  {path}" for path in files)]))
    return code


def _check(options: argparse.Namespace) -> None:
    """Raise what is wrong with the command line or with the run directories, before anything long begins."""
    if bool(options.runs) == bool(options.from_log):
        what = "give either run directories or --from-log with files"
        raise InputError(Problem("report-of-what", what, "see gaff report --help"))
    if options.resets and not options.from_log:
        what = "--resets is for logs alone; a run directory knows its resets"
        raise InputError(Problem("resets-known", what, "leave --resets out"))
    if len(options.runs) > 1 and (options.page or options.tensorboard):
        what = "-o and --tensorboard take one run"
        raise InputError(Problem("one-run", what, "give one run directory, or leave them out"))
    for root in options.runs:
        if not (root / "journal.jsonl").is_file():
            what = "this is no run directory: it has no journal.jsonl"
            remedy = "name the directory of a run, or logs with --from-log"
            raise InputError(Problem("no-run", what, remedy, Location(str(root))))


def _reported(options: argparse.Namespace) -> list[tuple[ReportedRun, Path | None]]:
    """Each with its run directory, None for logs."""
    from gaff.report.analysis.recovery import PERCENTAGES
    from gaff.report.metrics.from_logs import metrics_of_logs
    from gaff.report.reporting import report_of_logs, report_of_run

    percentages = tuple(sorted(options.within, reverse=True)) if options.within else PERCENTAGES
    if options.from_log:
        metrics = metrics_of_logs(options.from_log, options.resets)
        source = ", ".join(str(log) for log in options.from_log)
        return [(report_of_logs(metrics, options.title or options.from_log[0].stem, source, percentages), None)]
    return [(report_of_run(root, options.title or root.resolve().name, percentages), root) for root in options.runs]
