# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery restore``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, operate, operating_verb


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = operating_verb(verbs, "restore", "put back what a reset forgot, moments too, whatever the layout")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("file", type=Path, metavar="FILE", help="what `gaff surgery reset --save-forgotten` wrote")
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these of what FILE holds: input_embedding, output_embedding, position_embedding, or patterns",
    )
    parser.add_argument(
        "--moments", choices=("keep", "zero"), default="keep", help="what becomes of moments that FILE lacks (keep)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.restore import RestoreRequest, plan_restore, restore

    tag = find_checkpoint(options.checkpoint)
    request = RestoreRequest(options.file, tuple(options.parameters), options.moments)
    return operate(options, tag, lambda layout: plan_restore(layout, request), lambda place: restore(place, request))
