# SPDX-License-Identifier: Apache-2.0
"""``gaff neox``: get GPT-NeoX into an environment of its own, and say which one is used."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaff.cli.output import note, say
from gaff.errors import EXIT_DONE, EXIT_FAILED

_ABOUT_INSTALL = """\
Install unmodified GPT-NeoX at a tested commit, with its packages in an environment of its own, which GAFF then uses
where nothing else is named.  What will be fetched, from where and how much, is said first.  The same command does only
what is lacking: run it again after it failed or was killed.  It goes to --home, else to GAFF_HOME, else to gaff in the
user's data directory (XDG_DATA_HOME, ~/.local/share).
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    family = subparsers.add_parser(
        "neox",
        help="GPT-NeoX itself: install, info",
        description="Get GPT-NeoX into an environment of its own, or say which one is used and in what state it is.",
    )
    verbs = family.add_subparsers(metavar="VERB", required=True)
    _add_install(verbs)
    _add_info(verbs)


def _add_install(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("install", help="install GPT-NeoX with its packages", description=_ABOUT_INSTALL)
    parser.add_argument("--home", type=Path, metavar="DIR", help="where to install")
    parser.add_argument("--ref", metavar="COMMIT", help="another commit, branch or tag than the tested one")
    parser.add_argument(
        "--source",
        metavar="URL|PATH",
        help="another repository or copy; an existing checkout is used in place, unless --ref is given",
    )
    parser.add_argument("--cpu", action="store_true", help="the packages that run without a GPU")
    parser.add_argument("--python", metavar="PY", help="make the environment of this Python (GAFF's own)")
    parser.add_argument(
        "--torch",
        metavar="SPEC",
        help="another torch, as 'torch==2.6.0'; pip options may follow, as '--index-url URL' of CPU builds",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and stop there")
    parser.add_argument("--json", action="store_true", help="print the record as JSON; progress on standard error")
    parser.set_defaults(run=install)


def _add_info(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "info",
        help="which GPT-NeoX is used, and in what state it is",
        description="Which GPT-NeoX is used where a config names none: checkout, packages, what is compiled. "
        "Exit code 1 when there is none, or it cannot run.",
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="where `gaff neox install` installed")
    parser.add_argument("--neox-dir", type=Path, metavar="DIR", help="this checkout; else GPT_NEOX_DIR, else installed")
    parser.add_argument("--json", action="store_true", help="print one JSON object (schema gaff.neox-info/1)")
    parser.set_defaults(run=info)


def install(options: argparse.Namespace) -> int:
    from gaff.trainers.neox.home import default_home
    from gaff.trainers.neox.install import Install, Request

    tell = note if options.json else say
    ref, source, python = (given or None for given in (options.ref, options.source, options.python))
    planned = Install(Request(options.home, ref, source, options.cpu, python, options.torch))
    tell(planned.notice())
    if not options.dry_run:
        installed = planned.perform(tell)
        tell(f"GPT-NeoX is ready: {installed.checkout}\n  Python {installed.python}")
        if planned.home != default_home():
            tell(f"  GAFF looks for it there after: export GAFF_HOME={shlex.quote(str(planned.home))}")
        tell("  see `gaff neox info`")
    if options.json:
        print(json.dumps(planned.site.to_json(), indent=1))
    return EXIT_DONE


def info(options: argparse.Namespace) -> int:
    from gaff.cli.plan import encodable
    from gaff.trainers.neox.info import describe

    found = describe(options.neox_dir, options.home)
    where = f" --home {shlex.quote(found['home'])}" if options.home else ""
    print(json.dumps(found, indent=1) if options.json else encodable("\n".join(_rendered(found, where))))
    used = found["in_use"]
    runs = used is not None and not (used["problem"] or used["python"]["problem"] or used["python"]["missing"])
    return EXIT_DONE if runs else EXIT_FAILED


def _rendered(found: dict[str, Any], where: str) -> Iterator[str]:
    """The lines for a terminal; ``where`` is what has to follow ``gaff neox install`` to install there."""
    install = f"gaff neox install{where}"
    used = found["in_use"]
    if used is None:
        yield "no GPT-NeoX: none is named in --neox-dir or GPT_NEOX_DIR, and none is installed"
        yield f"  get it   {install}   # on a machine without GPUs: {install} --cpu"
    else:
        yield f"GPT-NeoX {used['checkout']} (named by {used['named_by']})"
        yield from (f"  {name:9}{text}" for name, text in _lines(used, install))
    yield f"installed in {found['home']}"
    for one in found["installations"]:
        state = "ready" if one["usable"] else "not complete" if one["completed"] is None else "no longer usable"
        yield f"  {Path(one['root']).name:18}{state}; checkout {one['checkout']}"
    if not found["installations"]:
        yield "  nothing"


def _lines(used: dict[str, Any], install: str) -> Iterator[tuple[str, str]]:
    python = used["python"]
    named = os.environ.get("GPT_NEOX_PYTHON")  # wins over whatever is installed
    if used["problem"]:
        yield "problem", used["problem"]
        return
    if used["commit"] is None:
        yield "commit", "unknown: git does not say"
    else:
        yield "commit", used["commit"] + (" (the tested one)" if used["pinned"] else " (not the tested one)")
        changes = used["changes"] or []
        yield "files", "as committed" if not changes else f"{len(changes)} differ: {', '.join(changes[:5])}"
    if python["problem"]:
        yield "Python", f"{python['executable']} does not run ({python['problem']})"
        yield "mend it", "unset GPT_NEOX_PYTHON, or name another there" if named else _made_for(used, install)
        return
    yield "Python", f"{python['version']} {python['executable']}"
    for name, one in python["versions"].items():
        if one["version"] is not None:
            yield "", f"{name} {one['version']} ({'tested' if one['tested'] else 'not tested'})"
    if python["missing"]:
        yield "lacks", ", ".join(python["missing"])
        first = "unset GPT_NEOX_PYTHON; " if named else ""
        yield "mend it", first + _made_for(used, install)
    yield "helper", "compiled" if used["helper_built"] else "not compiled; GPT-NeoX does it at its first start"
    none = "none compiled; DeepSpeed compiles what it needs at its first start"
    yield "ops", ", ".join(used["ops"]) or (none if used["extensions"] else "in torch's own directory, not looked into")


def _made_for(used: dict[str, Any], install: str) -> str:
    """The command that makes, or mends, an environment for a checkout that is there."""
    return f"{install} --source {shlex.quote(used['checkout'])}   # without GPUs: with --cpu"
