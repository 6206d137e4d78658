# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery restart-lr``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from gaff.cli.arguments import whole_number
from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, operate, operating_verb

_SETTINGS = """\
GPT-NeoX refuses a checkpoint whose schedule has other settings than its config.  Give it the same ones there, or
`use_checkpoint_lr_scheduler: true`, which takes the checkpoint's."""


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    about = "set the learning rate schedule to another iteration, and the rate of the next step with it"
    parser = operating_verb(verbs, "restart-lr", about)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "--iteration",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of the schedule, not of the training: 0 begins the warm-up anew (0)",
    )
    settings = parser.add_argument_group("settings of the schedule", _SETTINGS)
    settings.add_argument("--lr", type=_rate, metavar="RATE", help="its highest rate")
    settings.add_argument("--min-lr", type=_rate, metavar="RATE", help="the rate that the decay ends at")
    settings.add_argument("--warmup-iters", type=_rate, metavar="N", help="iterations of warm-up")
    settings.add_argument("--decay-iters", type=whole_number(1), metavar="N", help="iterations up to the decay's end")
    parser.set_defaults(run=run)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text!r}")
    return value


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.learning_rate import RestartRequest, plan_restart_lr, restart_lr

    tag = find_checkpoint(options.checkpoint)
    request = RestartRequest(options.iteration, options.lr, options.min_lr, options.warmup_iters, options.decay_iters)
    return operate(
        options, tag, lambda layout: plan_restart_lr(layout, request), lambda place: restart_lr(place, request)
    )
