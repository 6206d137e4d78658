# SPDX-License-Identifier: Apache-2.0
"""``gaff``: finds the verb, runs it, and turns errors into sentences and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from gaff import __version__
from gaff.cli.output import let_go, note, open_missing_streams
from gaff.errors import EXIT_FAILED, GaffError

_EXIT_INTERRUPTED = 130  # as a shell says it of a program that SIGINT ended; a run that can be carried on says 75
_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage or input, 75 interrupted and resumable, 130 interrupted"


_FAMILIES = ("run", "rehearse", "plan", "submit", "status", "report", "compare", "doctor", "neox", "surgery")


def build_parser(*families: str) -> argparse.ArgumentParser:
    """The whole command line, or these families of verbs alone: what another one imports costs start-up time."""
    parser = argparse.ArgumentParser(
        prog="gaff",
        description="Active forgetting for unmodified GPT-NeoX: trains in segments, resets embeddings exactly.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"gaff {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for family in families or _FAMILIES:
        import_module(f"gaff.cli.{family}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns its exit code."""
    open_missing_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser(*(name for name in given[:1] if name in _FAMILIES)).parse_args(given)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except GaffError as error:
        for problem in error.problems:
            note(f"gaff: {problem}")
        return error.exit_code
    except KeyboardInterrupt:
        note("gaff: interrupted.")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # `gaff plan | head`
        let_go(sys.stdout)
        return EXIT_FAILED
    except OSError as error:
        note(f"gaff: {error.filename or 'the system'}: {error.strerror or error}.")
        let_go(sys.stdout)
        return EXIT_FAILED
