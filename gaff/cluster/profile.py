# SPDX-License-Identifier: Apache-2.0
"""Cluster profiles: one small YAML file that says how jobs are submitted at a site.

Every scalar is read as the text that stands there (YAML 1.1 would make 86400 of ``time: 24:00:00``), and every key
knows its line, which a scheduler's refusal is traced back to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from gaff.cluster import profile_values as values
from gaff.cluster.profile_values import Wrong
from gaff.errors import InputError, Location, Problem

SchedulerName = Literal["slurm", "sge"]
Resubmit = Literal["requeue", "follower", "never"]

VARIABLE = "GAFF_PROFILE"
TEMPLATES = Path(__file__).parent / "templates"  # the repository's slurm/
READY = TEMPLATES / "profiles"
_DEEPEST = 20  # levels


def _about(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """How jobs are submitted.  Field docs (``metadata["doc"]``) are what ``gaff submit --keys`` prints."""

    scheduler: SchedulerName = field(default="slurm", metadata=_about("slurm or sge"))
    partition: str | None = field(default=None, metadata=_about("Slurm's partition, Grid Engine's queue (-q)"))
    account: str | None = field(
        default=None, metadata=_about("whom to charge: Slurm's account, Grid Engine's project (-P)")
    )
    qos: str | None = field(default=None, metadata=_about("Slurm's quality of service"))
    constraint: str | None = field(default=None, metadata=_about("node features, as a100&ib"))
    reservation: str | None = field(default=None, metadata=_about("a reservation of Slurm"))
    nodes: int = field(default=1, metadata=_about("nodes of one job"))
    gpus_per_node: int = field(default=8, metadata=_about("GPUs on each node; 0 for none"))
    ranks_per_node: int | None = field(
        default=None, metadata=_about("ranks on each node; its GPUs unless given. For runs without GPUs")
    )
    gres: str = field(
        default="gpu", metadata=_about("how the site calls its GPUs: gpu, gpu:a100; Grid Engine's resource")
    )
    cpus_per_node: int | None = field(default=None, metadata=_about("cores, Grid Engine's slots; what the site gives"))
    memory: str | None = field(
        default="0", metadata=_about("of each node, as 480G, 0 for all; Grid Engine: of each slot, by `mem`")
    )
    exclusive: bool = field(default=True, metadata=_about("whole nodes: one bad neighbour slows down all ranks"))
    time: str = field(default="24:00:00", metadata=_about("walltime of one job: 24:00:00, 2-12, 36h"))
    signal_seconds: int = field(
        default=120, metadata=_about("Slurm sends SIGUSR1 so long before the end, at most a minute earlier")
    )
    resubmit: Resubmit = field(
        default="requeue",
        metadata=_about("out of time: requeue (same job id), follower (a job that waits behind this one), never"),
    )
    parallel_environment: str = field(default="smp", metadata=_about("Grid Engine's -pe"))
    modules: tuple[str, ...] = field(default=(), metadata=_about("environment modules to load, after a purge"))
    setup: tuple[str, ...] = field(default=(), metadata=_about("further lines of shell before GAFF starts"))
    environment: tuple[tuple[str, str | None], ...] = field(
        default=(), metadata=_about("variables of the job; KEY: null hands on the value of the submitting shell")
    )
    scratch: str | None = field(default=None, metadata=_about("node-local directory for TMPDIR; may use variables"))
    container: Any = field(
        default=None, metadata=_about("where the config has none: its `gaff: container:` block, as in docs/neox.md")
    )
    command: tuple[str, ...] = field(default=(), metadata=_about("how GAFF is started; as the submitting one"))
    options: tuple[str, ...] = field(
        default=(), metadata=_about("further options of sbatch or qsub, one a line: --mail-type=END, -ac allow=L")
    )
    name: str = "profile"
    file: str = ""
    places: Mapping[str, Location] = field(default_factory=dict, compare=False, repr=False)

    def where(self, key: str) -> Location | None:
        """Where a key stands; the file where nobody wrote it; None where there is none."""
        return self.places.get(key) or (Location(self.file) if self.file else None)

    @property
    def slots(self) -> int:
        """Ranks on one node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def seconds(self) -> float:
        """The walltime of one job."""
        return values.seconds(self.time)


#: Keys of a profile: the fields that have a meaning for users.
KEYS = tuple(item.name for item in fields(ClusterProfile) if "doc" in item.metadata)

_PARSERS: Mapping[str, values.Parser] = {
    "scheduler": values.word(get_args(SchedulerName)),
    **dict.fromkeys(("partition", "account", "qos", "reservation", "gres"), values.token),
    "constraint": values.features,
    "nodes": values.whole(1),
    "gpus_per_node": values.whole(0),
    "ranks_per_node": values.whole(1),
    "cpus_per_node": values.whole(1),
    "memory": values.memory,
    "exclusive": values.boolean,
    "time": values.time,
    "signal_seconds": values.whole(10),
    "resubmit": values.word(get_args(Resubmit)),
    "parallel_environment": values.token,
    "modules": values.lines,
    "setup": values.lines,
    "environment": values.variables,
    "scratch": values.line,
    "container": values.block,
    "command": values.lines,
    "options": values.lines,
}
_NULLABLE = ("memory", *(item.name for item in fields(ClusterProfile) if item.default is None))


def find_profile(name: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file of a profile: a path, or the name of one that is ready or in ``~/.config/gaff/profiles``.

    Raises:
        InputError: none is named, or there is none of this name.
    """
    name = name or environ.get(VARIABLE)
    own = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gaff" / "profiles"
    names = sorted({path.stem for folder in (own, READY) for path in folder.glob("*.yml")})
    remedy = f"give --profile with a file, or one of {', '.join(names)}"
    if not name:
        raise InputError(Problem("profile-missing", "no cluster profile is named", f"{remedy}, or set {VARIABLE}"))
    is_path = os.sep in name or name.endswith((".yml", ".yaml"))
    places = [Path(name)] if is_path else [own / f"{name}.yml", READY / f"{name}.yml"]
    for path in places:
        if path.is_file():
            return path
    raise InputError(Problem("profile-missing", f"there is no cluster profile {name}", remedy))


def read_profile(path: Path, overrides: Sequence[str] = ()) -> ClusterProfile:
    """Read and check a profile.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE``, the value in YAML.

    Raises:
        InputError: with every problem in it.
    """
    given, places = _read(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            what = f"`--job {override}` has no value"
            raise InputError(Problem("profile-override", what, "write --job KEY=VALUE, as --job partition=short"))
        given[key] = _plain(_compose(text, f"--job {key}"), f"--job {key}")
        places[key] = Location(f"--job {key}")
    problems = list(_problems(given, places, path))
    if problems:
        raise InputError(problems)
    taken: dict[str, Any] = {key: _PARSERS[key](value) for key, value in given.items() if value is not None}
    taken |= {key: None for key, value in given.items() if value is None and key in _NULLABLE}
    return ClusterProfile(**taken, name=path.stem, file=str(path), places=places)


def _problems(given: Mapping[str, Any], places: Mapping[str, Location], path: Path) -> Iterator[Problem]:
    for key, value in given.items():
        where = places.get(key, Location(str(path)))
        if key not in _PARSERS:
            what = f"`{key}` is not a key of a cluster profile"
            yield Problem("profile-key", what, f"remove it; keys are {', '.join(KEYS)}", where)
            continue
        if value is None:
            continue
        try:
            _PARSERS[key](value)
        except Wrong as expected:
            shown = f"`{value.strip().splitlines()[0]}`" if isinstance(value, str) and value.strip() else _kind(value)
            what = f"`{key}` must be {expected}, not {shown}"
            yield Problem("profile-value", what, "mend this line", where)


def _kind(value: Any) -> str:
    return "a block" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else "empty text"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Location]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the cluster profile cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'})"
        raise InputError(Problem("profile-unreadable", what, "name a YAML file", Location(str(path)))) from None
    root = _compose(text, str(path))
    if not isinstance(root, yaml.MappingNode):
        what = "a cluster profile is a list of `key: value` lines, and this is not one"
        raise InputError(Problem("profile-form", what, "write one `key: value` per line", Location(str(path))))
    given: dict[str, Any] = {}
    places: dict[str, Location] = {}
    for key_node, value_node in root.value:
        key = str(key_node.value).replace("-", "_")
        where = Location(str(path), key_node.start_mark.line + 1)
        if key in given:
            what = f"`{key}` stands here twice"
            raise InputError(Problem("profile-twice", what, f"remove this line or {places[key]}", where))
        given[key], places[key] = _plain(value_node, str(path)), where
    return given, places


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Location(file, mark.line + 1 if mark else 0)
        what = f"this is not YAML ({getattr(error, 'problem', None) or 'it cannot be parsed'})"
        raise InputError(Problem("profile-syntax", what, "mend this line or the one above it", where)) from None


def _plain(node: yaml.Node | None, file: str, depth: int = 0) -> Any:
    """Text, lists and mappings; None for ``null``, ``~`` and nothing unless quoted."""
    if node is not None and depth > _DEEPEST:
        raise _syntax("a value holds itself, or is nested too deep", file, node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, file, depth + 1) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            if str(key.value) in found:
                raise _syntax(f"`{key.value}` stands in this block twice", file, key)
            found[str(key.value)] = _plain(value, file, depth + 1)
        return found
    if not isinstance(node, yaml.ScalarNode) or (not node.style and node.value in ("", "null", "~")):
        return None
    return node.value


def _syntax(what: str, file: str, node: yaml.Node) -> InputError:
    return InputError(Problem("profile-syntax", what, "mend this line", Location(file, node.start_mark.line + 1)))
