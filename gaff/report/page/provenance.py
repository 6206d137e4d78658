# SPDX-License-Identifier: Apache-2.0
"""Where a run comes from: versions, commits, machines, hashes.  Reads what the run left behind; runs nothing of it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gaff
from gaff.report.page.redaction import without_secrets
from gaff.report.page.reported import Row
from gaff.supervisor.journal import Entry
from gaff.trainers.neox.checkout import Checkout

_LOG_HEAD = 1 << 20  # bytes of a log in which a trainer says its versions
_SMALL = 1 << 20  # bytes of a checkpoint's file up to which it is hashed
_MOST_HASHES = 12
_PACKAGES = ("torch", "deepspeed", "numpy", "transformers", "flash-attn", "triton")

# What GPT-NeoX (`git_hash` among its arguments) and DeepSpeed print at the start.
_LOGGED = (
    ("GPT-NeoX commit", re.compile(r"^\s*git_hash \.+ ?([0-9a-f]{7,40})\b", re.MULTILINE)),
    ("DeepSpeed", re.compile(r"DeepSpeed info: version=([^\s,]+)")),
    ("processes", re.compile(r"Total number of GPUs determined to be: (\d+)")),
)


def environment(run_dir: Path, plan: dict[str, Any], entries: Sequence[Entry]) -> tuple[Row, ...]:
    """On what it ran: hosts, jobs, trainer, and the versions that its newest log and its interpreter tell of."""
    started = [entry for entry in entries if entry.event == "run_started"]
    logged = _logged(run_dir, entries)
    installed = _installed(entries)
    rows = [
        ("trainer", _each(entry.text("trainer") for entry in started)),
        ("host", _each(entry.text("host") for entry in started)),
        ("job", _each(entry.text("job") for entry in started)),
        ("layout", str(plan.get("layout") or "")),
        ("processes", logged.get("processes", "")),
        ("DeepSpeed", logged.get("DeepSpeed", installed.get("deepspeed", ""))),
        *((name, version) for name, version in installed.items() if name != "deepspeed"),
    ]
    return tuple(Row(label, value) for label, value in rows if value)


def provenance(run_dir: Path, identity: dict[str, Any], entries: Sequence[Entry]) -> tuple[Row, ...]:
    """Who made it: the run's id, its command, commits, when, and SHA-256 of config and last checkpoint."""
    started = [entry for entry in entries if entry.event == "run_started"]
    times = [entry.time for entry in entries if entry.time is not None]
    commands = (entry.fields.get("command") for entry in started)
    command = next((shlex.join(map(str, command)) for command in commands if isinstance(command, list)), "")
    span = f"{times[0]:%Y-%m-%d %H:%M:%S} to {times[-1]:%Y-%m-%d %H:%M:%S} UTC" if times else ""
    rows = [
        ("run", str(identity.get("run_id") or "")),
        ("journal", span),
        ("command", without_secrets(command)),
        ("trained by GAFF", _each(entry.text("gaff") for entry in started)),
        ("GPT-NeoX commit", _logged(run_dir, entries).get("GPT-NeoX commit", "")),
        ("report made by", reporter()),
        *_hashes(run_dir, identity, entries),
    ]
    return tuple(Row(label, value) for label, value in rows if value)


def reporter() -> str:
    """The GAFF that makes the report, with its commit where it stands in a git checkout."""
    commit = Checkout(Path(gaff.__file__).resolve().parents[1]).commit
    return f"GAFF {gaff.__version__}" + (f", commit {commit}" if commit else "")


def _each(texts: Iterator[str | None]) -> str:
    """Each once, in order."""
    return ", ".join(dict.fromkeys(text for text in texts if text))


# --- what the trainer says ---


def _last_launch(entries: Sequence[Entry]) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.event == "segment_launched"), None)


def _logged(run_dir: Path, entries: Sequence[Entry]) -> dict[str, str]:
    launch = _last_launch(entries)
    log = launch.text("log") if launch else None
    try:
        with open(run_dir / (log or ""), "rb") as file:
            text = file.read(_LOG_HEAD).decode("utf-8", "replace")
    except OSError:
        return {}
    return {name: found[1] for name, pattern in _LOGGED if (found := pattern.search(text))}


def _installed(entries: Sequence[Entry]) -> dict[str, str]:
    """Versions beside the interpreter of the last launch, as they are now, by the names of their directories."""
    launch = _last_launch(entries)
    command = launch.fields.get("command") if launch else None
    python = Path(str(command[0])) if isinstance(command, list) and command else None
    if python is None or not python.is_absolute() or not python.name.startswith("python"):
        return {}
    found: dict[str, str] = {}
    for site in sorted(python.parents[1].glob("lib/python3*/site-packages")):
        found["Python"] = site.parent.name.removeprefix("python")
        for package in _PACKAGES:
            for info in site.glob(f"{package.replace('-', '_')}-*.dist-info"):
                found[package] = info.name.removesuffix(".dist-info").partition("-")[2]
    return found


# --- hashes ---


def _hashes(run_dir: Path, identity: dict[str, Any], entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    config = run_dir / "config.yml"
    if config.is_file():
        yield "sha256 of config.yml", _sha256(config)
    tag = _last_tag(Path(str(identity.get("save") or run_dir / "checkpoints")), entries)
    if tag is None:
        return
    files = sorted(path for path in tag.rglob("*") if path.is_file())
    yield "last checkpoint", f"{tag.name}, {len(files):,} files, {sum(path.stat().st_size for path in files):,} bytes"
    small = [path for path in files if path.stat().st_size <= _SMALL and path.parent != tag]
    for path in small[:_MOST_HASHES]:
        yield f"sha256 of {path.relative_to(tag.parent)}", _sha256(path)


def _last_tag(save: Path, entries: Sequence[Entry]) -> Path | None:
    """The tag of the newest iteration that the journal knows to be whole, where it is still there."""
    done = [n for e in entries if e.event == "segment_done" and (n := e.number("iteration")) is not None]
    tag = save / f"global_step{done[-1]}" if done else None
    return tag if tag is not None and tag.is_dir() else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
