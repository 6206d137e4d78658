# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, to_json, verb
from gaff.errors import EXIT_DONE, EXIT_FAILED


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    about = "check that a checkpoint is whole, its copies agree, and operations changed nothing else"
    parser = verb(verbs, "verify", about)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.verify import verify_tag

    tag = find_checkpoint(options.checkpoint)
    faults = verify_tag(tag)
    if options.json:
        listed = [{"id": f.id, "what": f.what, "where": str(f.where), "remedy": f.remedy} for f in faults]
        print(to_json({"schema": "gaff.verify/1", "checkpoint": str(tag), "sound": not faults, "faults": listed}))
    elif faults:
        print("\n".join(str(fault) for fault in faults))
    else:
        print(f"{tag}: sound: every file is whole, all copies agree, operations changed nothing else")
    return EXIT_FAILED if faults else EXIT_DONE
