# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery splice``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, operate, operating_verb


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = operating_verb(verbs, "splice", "give the body of one checkpoint the embeddings of another")
    parser.add_argument("--body", type=Path, required=True, metavar="CHECKPOINT", help=f"what is changed: {CHECKPOINT}")
    parser.add_argument(
        "--embeddings", type=Path, required=True, metavar="CHECKPOINT", help="what gives the embeddings; only read"
    )
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=[],
        metavar="NAME",
        help="input_embedding and, where it is untied, output_embedding (default), position_embedding, or patterns",
    )
    parser.add_argument(
        "--moments",
        choices=("zero", "keep", "take"),
        default="zero",
        help="the optimizer's moments of what is spliced in: zero (default), keep the body's, take the giver's",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.splice import SpliceRequest, plan_splice, splice

    tag = find_checkpoint(options.body)
    request = SpliceRequest(find_checkpoint(options.embeddings), tuple(options.parameters), options.moments)
    return operate(options, tag, lambda layout: plan_splice(layout, request), lambda place: splice(place, request))
