# SPDX-License-Identifier: Apache-2.0
"""What the page shows, gathered from run directories."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import RunWriter, finished_run

from gaff.report.analysis.analyse import analyse
from gaff.report.metrics.gather import metrics_of
from gaff.report.page.build import page
from gaff.report.page.collect import reported_run
from gaff.report.page.reported import ConfigChange, ReportedRun
from gaff.report.summary import summary_of
from gaff.supervisor.journal import read_entries


def collected(run_dir: Path) -> ReportedRun:
    entries = read_entries(run_dir)
    metrics = metrics_of(run_dir, entries)
    analysis = analyse(metrics, entries)
    return reported_run(run_dir, "a run", metrics, analysis, summary_of(metrics, entries, analysis), entries)


def rows(run: ReportedRun) -> dict[str, str]:
    return {row.label: row.value for row in (*run.environment, *run.provenance)}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run as GPT-NeoX and the supervisor leave it."""
    finished_run(tmp_path)
    python = tmp_path / "env/bin/python"
    for package in ("torch-2.4.0+cu121", "flash_attn-2.5.6"):
        (tmp_path / f"env/lib/python3.10/site-packages/{package}.dist-info").mkdir(parents=True)
    log = tmp_path / "segments/0004/attempt-1.log"
    said = "  git_hash ........................ ea7aefd8....................default\n"
    said += "[INFO] [logging.py:107:log_dist] [Rank 0] DeepSpeed info: version=0.16.5, git-hash=unknown\n"
    log.write_text(said + log.read_text())
    run = RunWriter(tmp_path)
    run.now_s = 60
    run.entry(
        "run_started",
        gaff="0.1.0",
        trainer="neox",
        host="node17",
        job="4711",
        command=["gaff", "run", "-o", "gaff.environment.HF_TOKEN=abc"],
        resume_iteration=400,
        train_iters=400,
    )
    run.entry(
        "segment_launched",
        segment=4,
        attempt=1,
        start=300,
        stop=400,
        log="segments/0004/attempt-1.log",
        command=[str(python), "deepy.py"],
    )
    run.entry("segment_done", segment=4, iteration=400)
    (tmp_path / "config.yml").write_text("train_iters: 400\ngaff:\n  environment:\n    HF_TOKEN: abc\n")
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "853d", "save": str(tmp_path / "checkpoints")}))
    changes = [{"key": "exit_interval", "given": None, "written": [100, 100, 400], "why": "it stops there"}]
    (tmp_path / "plan.json").write_text(json.dumps({"layout": "bfloat16, ZeRO 1", "changes": changes}))
    (tmp_path / "checkpoints/global_step400/configs").mkdir(parents=True)
    (tmp_path / "checkpoints/global_step400/configs/neox.yml").write_text("lr: 1")
    (tmp_path / "checkpoints/global_step400/mp_rank_00_model_states.pt").write_bytes(b"1234567")
    return tmp_path


def test_environment_and_provenance_are_told(run_dir: Path) -> None:
    told = rows(collected(run_dir))
    expected = {
        "trainer": "neox",
        "host": "node17",
        "job": "4711",
        "layout": "bfloat16, ZeRO 1",
        "DeepSpeed": "0.16.5",
        "torch": "2.4.0+cu121",
        "flash-attn": "2.5.6",
        "Python": "3.10",
        "run": "853d",
        "trained by GAFF": "0.1.0",
        "GPT-NeoX commit": "ea7aefd8",
        "last checkpoint": "global_step400, 2 files, 12 bytes",
        "sha256 of config.yml": hashlib.sha256((run_dir / "config.yml").read_bytes()).hexdigest(),
        "sha256 of global_step400/configs/neox.yml": hashlib.sha256(b"lr: 1").hexdigest(),
    }
    assert {label: told.get(label) for label in expected} == expected
    assert told["report made by"].startswith("GAFF ")


def test_secrets_of_config_and_command_are_not_on_the_page(run_dir: Path) -> None:
    html = page(collected(run_dir))
    assert "HF_TOKEN: (hidden)" in html
    assert "HF_TOKEN=(hidden)" in html
    assert "abc" not in html.split('<script type="application/json"')[0].split("</style>")[1]


def test_changes_of_the_config_are_told(run_dir: Path) -> None:
    assert collected(run_dir).changes == (ConfigChange("exit_interval", "", "100 · 400", "it stops there"),)


def test_a_run_with_nothing_but_logs_and_journal_has_a_page(tmp_path: Path) -> None:
    run = collected(finished_run(tmp_path))
    assert (run.config, run.changes, run.health) == (None, (), ())
    assert "Config" not in page(run)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"changes": 3}', '{"changes": [{"key": 5}, 7]}', "\x00\xff"])
def test_damaged_files_cost_only_their_part(run_dir: Path, content: str) -> None:
    for name in ("plan.json", "run.json"):
        (run_dir / name).write_text(content)
    run = collected(run_dir)
    assert run.changes == ()
    assert rows(run)["host"] == "node17"


def test_health_is_told_in_the_journals_words_and_order(tmp_path: Path) -> None:
    finished_run(tmp_path)
    run = RunWriter(tmp_path)
    said: list[tuple[str, dict[str, Any]]] = [
        ("warning", {"id": "slow", "what": "an iteration takes 45 s"}),
        ("trainer_failed", {"what": "the trainer was killed by SIGKILL"}),
        ("restart_planned", {"number": 1, "of": 10, "iteration": 200}),
        ("stop_asked", {"signal": "SIGTERM", "waits_for": 3000}),
        ("stop_asked", {"signal": "SIGTERM", "waits_for": None}),
        ("leftovers_killed", {"processes": [1, 2]}),
        ("tag_set_aside", {}),
        ("segment_done", {"iteration": 400}),
    ]
    for event, fields in said:
        run.entry(event, **fields)
    assert [(event.kind, event.what, event.text) for event in collected(tmp_path).health] == [
        ("trouble", "slow", "an iteration takes 45 s"),
        ("trouble", "trainer failed", "the trainer was killed by SIGKILL"),
        ("care", "restart planned", "number 1 of 10, from iteration 200"),
        ("note", "stop asked", "SIGTERM; after the checkpoint of iteration 3,000"),
        ("note", "stop asked", "SIGTERM; at once"),
        ("care", "leftovers killed", "processes 1, 2 of an earlier launch"),
        ("trouble", "tag set aside", "iteration — —"),
    ]
