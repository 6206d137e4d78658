# SPDX-License-Identifier: Apache-2.0
"""``gaff status``: where a run stands, from its run directory alone, on any node."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gaff.cli.plan import encodable
from gaff.errors import EXIT_DONE

_EVERY_S = 2.0  # between two looks of --watch
_MOST_LOG_BYTES = 50_000_000  # for the table of resets: two seconds where metrics.jsonl lacks all of them


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="where a run stands",
        description="Say where a run stands, from its directory alone, on any node, whether or not it is running now. "
        "Changes nothing.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="look again every two seconds until the run and its job end; where the output is no terminal: a line for "
        "each change",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (schema gaff.status/1)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The verb itself.

    Raises:
        InputError: RUN is no run directory.
    """
    from gaff.report.status import StatusReader
    from gaff.report.status_text import render_status

    reader = StatusReader(options.run_dir, patient=not options.watch)
    if options.watch:
        return _watch(reader.read, as_json=options.json)
    status = reader.read()
    if options.json:
        print(json.dumps(status, indent=1, allow_nan=False))
    else:
        print(encodable("\n\n".join([render_status(status), *_summary(options.run_dir)])))
    return EXIT_DONE


def _summary(run_dir: Path) -> Iterator[str]:
    """The run in numbers with its table of resets, where its logs are short enough to be read through."""
    from gaff.report.summary import render_summary, summarize

    try:
        log_bytes = sum(log.stat().st_size for log in run_dir.glob("segments/*/attempt-*.log"))
    except OSError:  # one was removed just now
        return
    if 0 < log_bytes <= _MOST_LOG_BYTES:
        yield render_summary(summarize(run_dir))


def _watch(read: Callable[[], dict[str, Any]], *, as_json: bool) -> int:
    """Show the status until the run is no longer at work, or the user has seen enough (Ctrl-C)."""
    try:
        with _display(as_json) as show:
            status = read()
            show(status)
            while status["state"] == "running" or _is_queued(status):
                time.sleep(_EVERY_S)
                with suppress(OSError):  # a file system that is gone for a while
                    status = read()
                show(status)
    except KeyboardInterrupt:
        pass
    return EXIT_DONE


def _is_queued(status: dict[str, Any]) -> bool:
    """Whether a job of the run is still to come or to end."""
    return bool(status["job"] and status["job"]["state"])


@contextmanager
def _display(as_json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Redraws on a terminal; prints a line for each change anywhere else."""
    from gaff.report.status_text import render_status

    if as_json or not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        yield _lines(as_json)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        yield lambda status: live.update(Text(encodable(render_status(status))), refresh=True)


def _lines(as_json: bool) -> Callable[[dict[str, Any]], None]:
    from gaff.report.status_text import news, status_line

    shown: tuple[object, ...] = ()

    def show(status: dict[str, Any]) -> None:
        nonlocal shown
        if news(status) != shown:
            shown = news(status)
            at = f"{datetime.now():%H:%M:%S}"
            line = json.dumps(status, allow_nan=False) if as_json else encodable(f"{at}  {status_line(status)}")
            print(line, flush=True)

    return show
