# SPDX-License-Identifier: Apache-2.0
"""``gaff report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaff.cli.main import main
from tests.report.report_runs import RunWriter, finished_run

LOGS = Path(__file__).parents[1] / "trainers" / "logs"
NAMES = ["loss_curve.png", "loss_curve.svg", "metrics.csv", "report.html", "resets.csv", "summary.json"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "forgetful")


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != "journal.jsonl")


def test_a_run_gets_its_files_into_its_directory(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir)]) == 0
    assert files(run_dir) == NAMES
    assert "<title>forgetful</title>" in (run_dir / "report.html").read_text()
    told = capsys.readouterr().out
    assert "400 of 400 iterations" in told
    assert all(str(run_dir / name) in told for name in NAMES)


def test_elsewhere_everything_is_beside_the_page(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert main(["report", str(run_dir), "-o", str(out / "mine.html"), "--title", "a <b>title</b>"]) == 0
    expected = ["mine-metrics.csv", "mine-resets.csv", "mine.html", "mine.json", "mine.png", "mine.svg"]
    assert files(out) == expected
    assert "<title>a &lt;b&gt;title&lt;/b&gt;</title>" in (out / "mine.html").read_text()
    assert files(run_dir) == []


def test_several_runs_get_a_page_each(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name) for name in ("a", "b")]
    assert main(["report", *map(str, runs)]) == 0
    assert [files(run) for run in runs] == [NAMES, NAMES]


def test_the_summary_alone_writes_nothing(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir), "--json", "--within", "3"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [list(reset["within"]) for reset in summary["resets"]] == [["3"]] * 3
    assert files(run_dir) == []


def test_a_log_of_gpt_neox_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--from-log", str(LOGS / "resumed.log"), "--resets", "320,330"]) == 0
    assert files(tmp_path) == [
        *("report-metrics.csv", "report-resets.csv", "report.html", "report.json", "report.png", "report.svg")
    ]
    assert [reset["iteration"] for reset in json.loads(Path("report.json").read_text())["resets"]] == [320, 330]


def test_event_files_for_tensorboard_are_written_where_asked(run_dir: Path, tmp_path: Path) -> None:
    assert main(["report", str(run_dir), "--json", "--tensorboard", str(tmp_path / "events")]) == 0
    assert list((tmp_path / "events").glob("*tfevents*"))


def test_a_run_that_has_logged_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunWriter(tmp_path).started()
    assert main(["report", str(tmp_path)]) == 1
    assert "no loss is logged yet" in capsys.readouterr().out
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either run directories or --from-log"),
        (["RUN", "--from-log", "LOG"], "give either run directories or --from-log"),
        (["RUN", "--resets", "every:100"], "--resets is for logs alone"),
        (["RUN", "RUN", "-o", "page.html"], "take one run"),
        (["ELSEWHERE"], "this is no run directory"),
        (["--from-log", "missing.log"], "the log cannot be read"),
    ],
)
def test_what_cannot_be_reported_gets_one_sentence(
    arguments: list[str], sentence: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"RUN": str(run_dir), "LOG": str(LOGS / "resumed.log"), "ELSEWHERE": str(tmp_path)}
    assert main(["report", *(named.get(word, word) for word in arguments)]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--resets", "sometimes"], ["--within", "0"], ["--within", "x"]])
def test_a_wrong_option_is_refused_with_what_it_may_be(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", "--from-log", "x.log", *arguments])
    assert left.value.code == 2
    assert "is neither" in (told := capsys.readouterr().err) or "is not above 0" in told or "is no number" in told
