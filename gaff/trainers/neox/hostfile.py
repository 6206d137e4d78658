# SPDX-License-Identifier: Apache-2.0
"""Hostfiles: which one DeepSpeed will take, what it says, and which of its GPUs a config's filters leave.

Sources: DeepSpeed 0.16.5 ``launcher/runner.py`` (``_parse_hostfile``, ``parse_resource_filter``, ``main``), GPT-NeoX
``arguments.py`` (``get_deepspeed_main_args`` appends ``--hostfile $DLTS_HOSTFILE``, which beats the key).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config
from gaff.plan.typed import integer, text

ALWAYS_TAKEN = Path("/job/hostfile")  # DeepSpeed takes it, where it is there, without being asked
VARIABLE = "DLTS_HOSTFILE"

_MOST_SLOTS = 4096  # of one host; a slip of the finger would otherwise fill the memory, DeepSpeed's too
_LINE = re.compile(r"(\S+)\s+slots=(\d+)")
_HOST = re.compile(r"[\w.@:-]*\w")  # what pdsh, ssh and mpirun take for a name, an address, or USER@HOST

#: Host -> its GPUs (or CPU ranks) that take part, by number.
Slots = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """The hostfile that DeepSpeed will read, and who names it: a key, a variable, or nobody (it lies there)."""

    path: Path
    named_by: str  # "hostfile", DLTS_HOSTFILE or "" for ALWAYS_TAKEN


def find_hostfile(config: Config, environ: Mapping[str, str]) -> Found | None:
    """The hostfile of a launch; None for one machine without any."""
    key, variable = text(config, "hostfile"), environ.get(VARIABLE)
    if key:
        return Found(Path(key), "hostfile")
    if variable:
        return Found(Path(variable), VARIABLE)
    return Found(ALWAYS_TAKEN, "") if ALWAYS_TAKEN.is_file() else None


def read_hostfile(path: Path) -> dict[str, int]:
    """Host -> number of slots, in the file's order, which is that of the ranks.

    Raises:
        InputError: it cannot be read, or DeepSpeed would refuse it; one problem for each line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        what = f"the hostfile cannot be read ({error.strerror})"
        remedy = "write lines of the form `HOST slots=GPUS`, or remove the key for one machine"
        raise InputError(Problem("hostfile-unreadable", what, remedy, Location(str(path)))) from None
    hosts: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        why = _wrong(line, match, hosts)
        if why:
            where = Location(str(path), number)
            problems.append(Problem("hostfile-line", why, "write one line `HOST slots=GPUS` for each host", where))
        elif match:
            hosts[match[1]] = int(match[2])
    if not problems and not hosts:
        remedy = "write one line `HOST slots=GPUS` for each host"
        problems.append(Problem("hostfile-empty", "the hostfile names no host", remedy, Location(str(path))))
    if problems:
        raise InputError(problems)
    return hosts


def _wrong(line: str, match: re.Match[str] | None, hosts: Mapping[str, int]) -> str | None:
    if match is None:
        return f"`{line}` is no line of a hostfile"
    if not _HOST.fullmatch(match[1]) or match[1].startswith("-"):
        return f"`{match[1]}` is no name of a host"
    if match[1] in hosts:
        return f"the host {match[1]} stands in the hostfile twice"
    if len(match[2]) > 9 or int(match[2]) > _MOST_SLOTS:
        return f"{match[1]} cannot have so many slots"
    return "a host with no slots has nothing to do" if int(match[2]) == 0 else None


def chosen(hosts: Mapping[str, int], config: Config) -> dict[str, tuple[int, ...]]:
    """What ``include``, ``exclude``, ``num_nodes`` and ``num_gpus`` leave of the hosts.

    Raises:
        InputError: the filters do not go together, name what is not there, or leave nothing.
    """
    slots = {host: tuple(range(count)) for host, count in hosts.items()}
    filters = [key for key in ("include", "exclude") if text(config, key)]
    limits = [key for key in ("num_nodes", "num_gpus") if (integer(config, key) or 0) > 0]
    if len(filters) + bool(limits) > 1:
        keys = [*filters, *limits]
        what = f"{' and '.join(f'`{key}`' for key in keys)} do not go together"
        raise InputError(config.problem("host-filters", keys[0], what, "keep one of them"))
    for key in filters:
        slots = _filtered(slots, config, key)
    nodes, per_node = integer(config, "num_nodes") or 0, integer(config, "num_gpus") or 0
    if nodes > len(slots):
        what = f"`num_nodes: {nodes}` asks for more hosts than the {len(slots)} of the hostfile"
        raise InputError(config.problem("host-filters", "num_nodes", what, "lower it, or add hosts"))
    if nodes > 0:
        slots = dict(list(slots.items())[:nodes])
    if per_node > 0:
        few = [host for host, own in slots.items() if len(own) < per_node]
        if few:
            what = f"`num_gpus: {per_node}` asks for more than {few[0]} has in the hostfile"
            raise InputError(config.problem("host-filters", "num_gpus", what, "lower it, or mend the hostfile"))
        slots = {host: own[:per_node] for host, own in slots.items()}
    return slots


def _filtered(slots: Slots, config: Config, key: str) -> dict[str, tuple[int, ...]]:
    """``NODE[:SLOT,SLOT…]@NODE…`` applied, as an inclusion or an exclusion."""
    named: dict[str, set[int]] = {}
    for part in str(text(config, key)).split("@"):
        host, colon, listed = part.partition(":")
        if host not in slots:
            raise _bad_filter(config, key, f"names the host {host or '(none)'}, which the hostfile does not have")
        if key == "include" and not colon:  # runner.parse_inclusion_exclusion of 0.16.5 takes it for no slots at all
            raise _bad_filter(config, key, f"names no slots of {host}, and DeepSpeed then leaves it out")
        numbers = listed.split(",") if colon else [str(n) for n in slots[host]]
        wrong = [n for n in numbers if not n.strip().isdecimal() or int(n) not in slots[host]]
        if wrong:
            raise _bad_filter(config, key, f"names slot {wrong[0] or '(none)'} of {host}, which is not there")
        named.setdefault(host, set()).update(int(n) for n in numbers)
    keep_named = key == "include"
    left = {host: tuple(n for n in own if (n in named.get(host, ())) == keep_named) for host, own in slots.items()}
    left = {host: own for host, own in left.items() if own}
    if not left:
        raise _bad_filter(config, key, "leaves no slot at all")
    return left


def _bad_filter(config: Config, key: str, why: str) -> InputError:
    what = f"`{key}: {text(config, key)}` {why}"
    return InputError(config.problem("host-filters", key, what, "write NODE[:SLOT,SLOT]@NODE[:SLOT,SLOT]"))
