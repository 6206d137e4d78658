# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery finish``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, tell, tell_nothing, verb
from gaff.errors import EXIT_DONE


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = verb(verbs, "finish", "finish an operation that was begun in a checkpoint and cut short")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.perform import finish_interrupted

    tag = find_checkpoint(options.checkpoint)
    record = finish_interrupted(tag)
    if record is not None:
        tell(options.json, tag, record.operation, "finished")
    else:
        tell_nothing(options.json, tag, "nothing was left half done")
    return EXIT_DONE
