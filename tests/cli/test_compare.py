# SPDX-License-Identifier: Apache-2.0
"""``gaff compare`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaff.cli.main import main
from tests.report.compare.compared_runs import write_run
from tests.report.naive import naive_curve


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    given = (("base", None), ("k50", 50), ("k100", 100))
    return [write_run(Path(name), k=k, iterations=200).name for name, k in given]


def test_it_prints_the_table_and_writes_five_files(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs]) == 0
    said = capsys.readouterr().out
    files = [f"compare.{ending}" for ending in ("html", "md", "tex", "csv", "json")]
    assert said.splitlines()[-5:] == [f"  {name}" for name in files]
    assert all(Path(name).stat().st_size > 200 for name in files)
    last = [loss for _, loss in naive_curve(Path("k50"))[-10:]]
    for text in (said, *(Path(name).read_text() for name in files[:3])):
        assert f"{sum(last) / 10:.3f}" in text
        assert "Δ base" in text or r"$\Delta$ base" in text
    assert sorted(path.name for path in Path.cwd().iterdir()) == sorted([*files, *runs])


def test_json_is_printed_and_nothing_written(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert main(["compare", *runs, "--json", "--align", "tokens"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(Path.cwd().rglob("*")) == before
    assert (told["schema"], told["align"], told["baseline"]) == ("gaff.compare/1", "tokens", "base")
    assert [run["name"] for run in told["runs"]] == runs
    assert [run["reset_every"] for run in told["runs"]] == [None, 50, 100]
    last = [loss for _, loss in naive_curve(Path("k100"))[-10:]]
    assert told["runs"][2]["final"]["mean"] == pytest.approx(sum(last) / 10)
    assert told["config"]["gaff.reset_every"] == {"base": "never", "k50": "50", "k100": "100"}


def test_names_title_and_place_are_chosen(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    last = [loss for _, loss in naive_curve(Path("k50"))[-40:]]
    arguments = [
        "--last",
        "40",
        "--names",
        "none, fifty,hundred",
        "--baseline",
        "k100",
        "--title",
        "My runs",
        "-o",
        "out/mine.html",
    ]
    assert main(["compare", *runs, *arguments]) == 0
    assert "Δ hundred" in capsys.readouterr().out
    assert "<title>My runs</title>" in Path("out/mine.html").read_text()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"mine.{e}" for e in ("csv", "html", "json", "md", "tex")
    ]
    fifty = json.loads(Path("out/mine.json").read_text())["runs"][1]
    assert fifty["name"] == "fifty"
    assert fifty["final"]["mean"] == pytest.approx(sum(last) / 40)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["base"], "a comparison needs at least two runs"),
        (["base", "nowhere"], "nowhere: this is no run directory: it has no journal.jsonl"),
        (["base", "k50", "k50/../base"], "this run is given twice, the first time as base"),
        (["base", "k50", "--names", "a"], "--names has 1 different names for 2 runs"),
        (["base", "k50", "--names", "a,a"], "--names has 1 different names for 2 runs"),
        (["base", "k50", "--baseline", "k100"], "this baseline is none of the runs compared"),
        (["base", "k50", "--last", "201"], "base: this run has logged 200 losses, less than --last 201"),
        (["base", "k50", "-o", "page.md"], "the page may not end in .md"),
        (["base", "k50", "-o", "nowhere/page.html"], "its directory does not exist"),
        (["base", "k50", "-o", "k50"], "this is a directory"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: list[str], sentence: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before


def test_without_any_loss_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(Path(name), k=50, iterations=0, planned=100)
    assert main(["compare", "a", "b"]) == 1
    assert "no loss is logged yet" in capsys.readouterr().out
    assert main(["compare", "a", "b", "--json"]) == 0
    assert not list(tmp_path.glob("compare.*"))
