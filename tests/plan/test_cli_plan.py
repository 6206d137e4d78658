# SPDX-License-Identifier: Apache-2.0
"""``gaff plan``: what it prints where, its exit code, and what it must not import."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from gaff.cli.plan import add_parser, render_plan
from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.plan.plan import build_plan
from gaff.plan.settings import ContainerSettings, GaffSettings, KeepSettings, WatchSettings

Write = Callable[..., Path]
Load = Callable[..., Config]
CONFIGS = Path(__file__).parents[2] / "neox_configs"


def gaff_plan(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["plan", *words])
    code: int = args.run(args)
    return code


def test_a_good_config_prints_its_table_and_exits_0(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--config", str(write())) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines()]
    assert ["resets", "3,", "every", "100", "iterations"] in rows
    assert ["3", "200", "300", "100", "reset", "3"] in rows
    assert ["4", "300", "400", "100", "end"] in rows
    for word in ("parameters", "embedding", "tokens", "checkpoints", "of the model", "per tag", "in all"):
        assert word in out


def test_errors_go_to_stderr_with_the_plan_still_on_stdout(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--config", str(write()), "-o", "data_path=absent", "-o", "finetune=true") == 2
    out, err = capsys.readouterr()
    assert "reset 3" in out
    assert len(err.splitlines()) == 2
    assert "-o data_path=absent: the data files" in err


def test_without_a_usable_length_the_errors_are_raised(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        gaff_plan("--config", str(write()), "-o", "train_iters=0", "-o", "finetune=true")
    assert [problem.id for problem in caught.value.problems] == ["not-positive", "finetune"]


def test_no_config_is_wrong_usage() -> None:
    with pytest.raises(InputError, match="--config"):
        gaff_plan()


def test_json_holds_plan_and_problems(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--config", str(write()), "--json", "-o", "finetune=true") == 2
    whole = json.loads(capsys.readouterr().out)
    assert whole["schema"] == "gaff.plan/1"
    assert [problem["id"] for problem in whole["problems"]] == ["finetune"]


def test_several_configs_and_overrides_are_taken_in_order(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    second = write(name="b.yml", text="gaff: {reset_every: 50}\ntrain_iters: 300\n")
    words = ["--config", str(write()), "--config", str(second), "-o", "train_iters=200", "--json"]
    assert gaff_plan(*words) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["reset_every"], whole["train_iters"]) == (50, 200)
    assert "key-in-two-files" in {warning["id"] for warning in whole["warnings"]}


def test_keys_lists_every_gaff_key_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--keys") == 0
    lines = capsys.readouterr().out.splitlines()
    inner = [line for line in lines if line.startswith("  ")]
    lines = [line for line in lines if line not in inner]
    blocks = [*fields(ContainerSettings), *fields(WatchSettings), *fields(KeepSettings)]
    assert [line.split()[0] for line in inner] == [item.name for item in blocks]
    assert all(item.metadata["doc"] in line for item, line in zip(blocks, inner, strict=True))
    assert [line.split()[0] for line in lines] == [item.name for item in fields(GaffSettings)]
    assert all(item.metadata["doc"] in line for item, line in zip(fields(GaffSettings), lines, strict=True))


def test_keys_can_be_printed_where_standard_output_is_no_utf_8() -> None:
    words = [sys.executable, "-m", "gaff", "plan", "--keys"]
    done = subprocess.run(words, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_infinity_in_the_config_leaves_the_json_valid(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--config", str(write()), "--json", "-o", "extra_save_iters=[.inf]") == 2
    whole = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    [change] = [change for change in whole["changes"] if change["key"] == "extra_save_iters"]
    assert change["given"] == [None]


def test_a_missing_hostfile_is_told_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert gaff_plan("--config", str(write()), "-o", "hostfile=absent") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "absent is not there" in line


def segments_of(text: str) -> list[str]:
    """The lines of the table of segments."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("segment "))
    return lines[begin : lines.index("", begin)]


def test_a_long_list_of_segments_is_cut_in_the_middle(load: Load) -> None:
    table = segments_of(render_plan(build_plan(load("gaff.reset_every=1", "log_interval=1"))))
    assert "  … 388 more segments …" in table
    assert table[-1].split() == ["400", "399", "400", "1", "end"]
    assert sum("reset " in line for line in table) == 11


def test_columns_are_aligned(load: Load) -> None:
    table = segments_of(render_plan(build_plan(load("train_iters=40000", "gaff.reset_every=10000",
                                                    "lr_decay_iters=40000"))))  # fmt: skip
    assert len({line.index(word) for line, word in zip(table[1:], ["reset"] * 3 + ["end"], strict=True)}) == 1


BUSY = [
    *("train_iters=143000", "gaff.reset_every=1000", "gaff.lr_schedule=restart", "lr_decay_iters=3000"),
    *("optimizer.params.betas=[0.9,0.999]", "eval_iters=10", "gradient_clipping=1.0", "log_dir=a/long/path/" * 4),
    *("extra_save_iters=[0,1,2,4,8,16,32,64,128,256,512]", "exit_interval=7", "master_port=29500", "log_interval=30"),
    f"gaff.parameters={[f'{n}.attention.dense.weight' for n in (2, 3)]}",
]


@pytest.mark.parametrize("overrides", [[], BUSY], ids=["good", "busy"])
def test_text_fits_into_100_columns(load: Load, overrides: list[str]) -> None:
    lines = render_plan(build_plan(load(*overrides)), unicode=True).splitlines()
    longest = max(lines, key=len)
    assert len(longest) <= 100, longest
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("betas", ["[0, 0.9999999999999999]", "[0.9, 0.99999]", "[0.999, 0.99999999]"])
def test_extreme_betas_fit_into_100_columns(load: Load, betas: str) -> None:
    lines = render_plan(build_plan(load(f"optimizer.params.betas={betas}")), unicode=True).splitlines()
    assert max(map(len, lines)) <= 100


def test_text_shows_learning_rate_moments_and_changes(load: Load) -> None:
    text = render_plan(build_plan(load("gaff.lr_schedule=restart", "lr_decay_iters=", "eval_iters=10")), unicode=True)
    flat = " ".join(text.split())
    assert "learning rate 0.001 after 1 iteration of warm-up, then cosine over 100 iterations" in flat
    assert "begins anew after each of 3 resets" in flat
    assert "factor 0.45 0.61 0.86 1.03 1.10 1.04 1.00 1.10 at its highest" in flat
    assert "1.10 at its highest, at step 20 after a reset; within a tenth of 1 from step 6 on" in flat
    assert "eval_iters 0 (yours: 10) validation crashes GPT-NeoX" in flat
    assert "exit_interval 100, 200 … 400 GPT-NeoX stops" in flat
    assert "iteration 100 … 300 from segment 2 on: the exact tag" in flat
    assert "lr_decay_iters 100 `lr_schedule: restart`" in flat


def test_where_standard_output_is_no_utf_8_the_chart_is_ascii(write: Write) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gaff", "plan", "--config", str(write()), "-o", "gaff.reset_every=10"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    text = done.stdout.decode("ascii")
    assert "+----" in text
    assert "####" in text
    assert "^ " in text


def test_planning_imports_neither_numpy_nor_torch() -> None:
    words = ["plan", "--config", str(CONFIGS / "pythia-70m.yml"), "--iteration-ms", "340", "--boundary-seconds", "60"]
    program = (
        "import sys\nfrom gaff.cli.main import main\n"
        f"code = main({[*words, '--time-limit', '4h']!r})\n"
        "print([name for name in ('numpy', 'torch', 'rich', 'matplotlib', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    text, heavy = done.stdout.rstrip("\n").rsplit("\n", 1)
    assert "in a chain, 4:00:00 each" in text
    assert heavy == "[]"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_configs_lack_only_the_users_own_files(
    path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gaff_plan("--config", str(path), "--json", "-o", "global_num_gpus=64") == 2
    whole = json.loads(capsys.readouterr().out)
    assert {problem["id"] for problem in whole["problems"]} == {"data-file-missing", "tokenizer-file-missing"}
    high = ["embedding-share"] if path.stem in ("pythia-14m", "pythia-31m", "pythia-70m") else []
    assert [warning["id"] for warning in whole["warnings"]] == high
    assert len(whole["resets"]) == 142


@pytest.mark.parametrize(
    ("name", "pipe", "stage", "precision"),
    [("14m", 0, 0, "fp16"), ("31m", 0, 0, "fp16"), ("70m", 1, 1, "fp16"), ("160m", 1, 1, "fp16"),
     ("410m", 1, 1, "fp16"), ("1b", 1, 0, "bfloat16"), ("1-4b", 1, 1, "fp16")],
)  # fmt: skip
def test_shipped_configs_have_pythias_own_layouts(name: str, pipe: int, stage: int, precision: str) -> None:
    plan = build_plan(load_config([CONFIGS / f"pythia-{name}.yml"]))
    assert plan.layout == f"{precision}, ZeRO {stage}, tensor parallel 1, pipeline {pipe}"


def test_there_are_the_seven_configs() -> None:
    names = {path.stem for path in CONFIGS.glob("*.yml")}
    assert names == {f"pythia-{size}" for size in ("14m", "31m", "70m", "160m", "410m", "1b", "1-4b")}
