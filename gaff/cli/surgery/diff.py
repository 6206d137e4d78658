# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery diff``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, to_json, verb
from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Problem


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    about = (
        "say which parameters, copies and numbers of two checkpoints differ, and by how much (exit code 1 if any does)"
    )
    parser = verb(verbs, "diff", about)
    parser.add_argument("a", type=Path, metavar="A", help=CHECKPOINT)
    parser.add_argument("b", type=Path, nargs="?", metavar="B", help="another one, in the same layout or any other")
    parser.add_argument(
        "--against-all",
        action="store_true",
        help="in place of B: whether a tag of another iteration in A's save directory has the master weights of A",
    )
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=[],
        metavar="NAME",
        help="compare these only, a line each: input_embedding, output_embedding, position_embedding, or patterns",
    )
    parser.add_argument("--all", action="store_true", help="a line for each parameter, and the numbers that are equal")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.diff import diff_tags
    from gaff.checkpoint.diff_text import render_diff

    if options.against_all == (options.b is not None):
        what = "diff compares A with B, or A --against-all with its neighbours"
        raise InputError(Problem("no-target", what, "name B, or add --against-all"))
    if options.against_all:
        return _against_all(options)
    found = diff_tags(find_checkpoint(options.a), find_checkpoint(options.b), *options.parameters)
    every = options.all or bool(options.parameters)
    print(to_json(found, indent=1) if options.json else render_diff(found, every_parameter=every))
    return EXIT_DONE if found["equal"] else EXIT_FAILED


def _against_all(options: argparse.Namespace) -> int:
    from gaff.checkpoint.diff_text import render_against_all
    from gaff.checkpoint.masters import against_all

    found = against_all(find_checkpoint(options.a))
    print(to_json(found, indent=1) if options.json else render_against_all(found))
    return EXIT_DONE if found["sound"] else EXIT_FAILED
