# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery``: the operating table for the checkpoints of existing runs, one module a verb."""

from __future__ import annotations

import argparse

from gaff.cli.surgery import diff, finish, inspect, reset, resize, restart_lr, restore, splice, verify

_ABOUT = """\
Operate on a GPT-NeoX checkpoint: any tensor, pipeline and data parallelism, ZeRO stage 0 to 3, fp32, fp16 and bf16,
Adam, AdamW, Lion and SGD.  Neither torch nor DeepSpeed is needed, and a checkpoint is never executed.
An operation that is killed is finished by the next one, by `gaff surgery finish` or by `gaff run`.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    family = subparsers.add_parser(
        "surgery",
        help="operate on a checkpoint: inspect, reset, restore, verify, diff, splice, resize, restart-lr, finish",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = family.add_subparsers(metavar="VERB", required=True)
    for module in (inspect, reset, restore, verify, diff, splice, resize, restart_lr, finish):
        module.add_parser(verbs)
