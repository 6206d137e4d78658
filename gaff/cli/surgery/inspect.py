# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, to_json, verb
from gaff.errors import EXIT_DONE


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = verb(verbs, "inspect", "say what a checkpoint is and where every copy of the embedding lives")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what to look into: input_embedding (default), output_embedding, position_embedding, or patterns of names",
    )
    parser.add_argument("--all", action="store_true", help="a line for each copy, however many (as --json has them)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.inspect import inspect_tag, render_inspection

    found = inspect_tag(find_checkpoint(options.checkpoint), *options.parameters)
    print(to_json(found, indent=1) if options.json else render_inspection(found, every_copy=options.all))
    return EXIT_DONE
