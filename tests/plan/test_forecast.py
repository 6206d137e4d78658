# SPDX-License-Identifier: Apache-2.0
"""``gaff plan`` beyond the config: ratios, epochs, time, GPU hours, jobs; in text and in JSON."""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.cli.plan import add_parser, render_plan
from gaff.cli.plan_forecast import forecast
from gaff.data.indexed_dataset import write_dataset
from gaff.errors import InputError
from gaff.plan.config import Config, load_config
from gaff.plan.plan import build_plan
from gaff.report.summary import SCHEMA, SUMMARY_NAME
from gaff.supervisor.run_directory import RunDirectory

Load = Callable[..., Config]
Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
CONFIGS = Path(__file__).parents[2] / "neox_configs"
PYTHIA = CONFIGS / "pythia-70m.yml"


def plan_words(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["plan", *words])
    code: int = args.run(args)
    return code


def text_of(capsys: Capture, *words: str, config: Path = PYTHIA) -> str:
    plan_words("--config", str(config), *words)
    return capsys.readouterr().out


def rows_of(text: str) -> dict[str, str]:
    """Name and sentence of each row of the plan, its lines joined."""
    rows: dict[str, str] = {}
    name = ""
    for line in text.split("\nsegment ")[0].splitlines():
        begins = bool(line) and not line.startswith(" ")
        first, _, rest = line.partition("  ") if begins else ("", "", line)
        name = first or name
        rows[name] = f"{rows.get(name, '')} {rest.strip()}".strip()
    return rows


def json_of(capsys: Capture, *words: str, config: Path = PYTHIA) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text_of(capsys, *words, "--json", config=config))
    return found


@pytest.fixture
def data(project: Path) -> int:
    """The good config's data: the tokens of its training part, which are 97 of 100 documents."""
    write_dataset(project / "data" / "text_document", ([1] * 100 for _ in range(100)), np.dtype("<u2"))
    return 9700


@pytest.fixture
def measured(project: Path, load: Load) -> Path:
    """A finished run of the good config: 250 ms an iteration, 40 s in 4 launches between them."""
    run = project / "runs" / "before"
    run.mkdir(parents=True)
    RunDirectory(run, run).config.write_text(load().to_yaml())
    seconds = {"active": 140.0, "training": 100.0, "boundaries": 40.0, "resets": 0.5}
    told = {"schema": SCHEMA, "ms_per_iteration": 250.0, "seconds": seconds, "segments": 4, "attempts": 5}
    (run / SUMMARY_NAME).write_text(json.dumps(told))
    return run


# --- ratios ---


def test_pythia_70m_has_the_ratios_of_its_paper(capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, "-o", "global_num_gpus=32"))
    assert rows["parameters"] == "70,426,624, of them 18,915,328 without embeddings"
    assert "36.6% of the model, and as many in the output (73.1% together)" in rows["embedding"]
    assert "73% of Pythia-70M, 31% of RoBERTa-base and under 1% of GPT-3" in rows["in comparison"]
    assert rows["per parameter"] == "4,258 tokens, 15,854 without embeddings (Chinchilla 20, Llama-2-7B 286)"
    assert rows["between resets"] == "2,097,152,000 tokens, 0.70% of the run"


def test_the_ratios_are_in_the_json_too(capsys: Capture) -> None:
    found = json_of(capsys, "-o", "global_num_gpus=32")
    assert found["schema"] == "gaff.plan/1"
    tokens = 143_000 * 1024 * 2048
    assert found["tokens_per_parameter"] == {
        "all": tokens / 70_426_624,
        "without_embeddings": tokens / 18_915_328,
        "compared": {"Chinchilla": 20, "Llama-2-7B": 286},
    }
    assert found["tokens_between_resets"] == 1000 * 1024 * 2048
    assert found["model"]["without_embeddings"] == 18_915_328
    assert found["model"]["embedding_share"] == pytest.approx(0.7314, abs=1e-4)
    assert found["model"]["embedding_share_compared"]["RoBERTa-base"] == pytest.approx(0.31, abs=0.005)


def test_without_a_number_of_gpus_ratios_are_left_out_and_say_so_in_json(capsys: Capture) -> None:
    assert {"per parameter", "between resets"}.isdisjoint(rows_of(text_of(capsys)))
    found = json_of(capsys)
    assert (found["tokens_per_parameter"]["all"], found["tokens_between_resets"]) == (None, None)


def test_a_baseline_has_nothing_between_resets(capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, "-o", "global_num_gpus=32", "-o", "gaff.reset_every=never"))
    assert "per parameter" in rows
    assert "between resets" not in rows


# --- epochs ---


def test_epochs_over_the_training_part_of_the_data(data: int, write: Write, capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, config=write()))
    trained = 400 * 4 * 32
    assert rows["epochs"].startswith(f"{trained / data:.3g} over 9,700 training tokens in ")
    found = json_of(capsys, config=Path("run.yml"))["data"]
    assert (found["tokens"], found["epochs"]) == (data, trained / data)
    assert [(item["key"], item["share"]) for item in found["sets"]] == [("data_path", 1.0)]


def test_several_data_sets_may_be_gone_through_more_or_less_often(
    data: int, project: Path, write: Write, capsys: Capture
) -> None:
    write_dataset(project / "data" / "other", ([1] * 100 for _ in range(5)), np.dtype("<u2"))
    two = ["-o", "train_data_paths=[data/text_document, data/other]", "-o", "train_data_weights=[1, 1]"]
    rows = rows_of(text_of(capsys, *two, "-o", "data_path=", config=write()))
    assert rows["epochs"].startswith(
        "4.88 over 10,500 training tokens in 2 data sets; from 2.56 to 51.2, the most over"
    )
    assert rows["epochs"].endswith("data/other")


def test_epochs_that_are_not_known_say_why(data: int, write: Write, capsys: Capture) -> None:
    config = write()
    assert (
        "not known without the number of GPUs"
        in rows_of(text_of(capsys, "-o", "global_num_gpus=", config=config))["epochs"]
    )
    found = json_of(capsys, "-o", "data_path=data/absent", config=config)
    assert found["data"] is None
    assert "absent.idx is not here" in found["data_unknown"]


# --- time, GPU hours, boundaries ---


def test_no_number_is_invented(capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, "-o", "global_num_gpus=32", "--time-limit", "4h"))
    assert rows["GPU hours"].startswith("not known: give --iteration-ms N, or --measured RUN")
    assert rows["jobs"] == "not known: it hangs on the time of an iteration"
    found = json_of(capsys, "--time-limit", "4h")
    assert (found["cost"], found["walltime"]) == (None, None)
    assert "--iteration-ms" in found["cost_unknown"]


def test_given_times_make_hours_boundaries_and_their_share(capsys: Capture) -> None:
    given = ("-o", "global_num_gpus=32", "--iteration-ms", "340", "--boundary-seconds", "75")
    rows = rows_of(text_of(capsys, *given))
    assert rows["iteration"] == "340 ms (--iteration-ms)"
    assert rows["training"] == "13:30:20 on 32 GPUs, 432 GPU hours"
    assert rows["boundaries"] == (
        "143 launches of the trainer, each 0:01:15 to save, reset and start (--boundary-seconds):"
        " 2:58:45 on 32 GPUs, 95.3 GPU hours, 18.1% of the run"
    )
    assert rows["in all"] == "16:29:05 on 32 GPUs, 528 GPU hours"
    cost = json_of(capsys, *given)["cost"]
    assert cost["gpu_hours"] == pytest.approx(32 * (143_000 * 0.34 + 143 * 75) / 3600)
    assert (cost["launches"], cost["boundaries_seconds"]) == (143, 143 * 75)


def test_with_an_iteration_alone_boundaries_are_asked_for(capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, "--iteration-ms", "340", "--time-limit", "4h"))
    assert rows["training"] == "13:30:20"
    assert rows["boundaries"].endswith("is not known: give --boundary-seconds N, or --measured RUN")
    assert rows["GPU hours"] == "not known: set global_num_gpus or a hostfile"
    assert "in all" not in rows
    assert rows["jobs"].startswith("not known: it hangs on the time of a start")


def test_a_run_that_was_measured_gives_both_times(measured: Path, write: Write, capsys: Capture) -> None:
    rows = rows_of(text_of(capsys, "--measured", str(measured), config=write()))
    assert rows["iteration"] == f"250 ms (measured in {measured})"
    assert rows["boundaries"].startswith("4 launches of the trainer, each 8 s to save, reset and start (measured in ")
    found = json_of(capsys, "--measured", str(measured), config=Path("run.yml"))
    assert found["cost"]["boundary_seconds"] == 8.0, "of five launches"
    assert found["cost"]["measured_differs_in"] == []
    assert "measured-elsewhere" not in {warning["id"] for warning in found["warnings"]}


def test_what_is_given_wins_over_what_was_measured(measured: Path, write: Write, capsys: Capture) -> None:
    given = ("--measured", str(measured), "--iteration-ms", "300")
    cost = json_of(capsys, *given, config=write())["cost"]
    assert (cost["ms_per_iteration"], cost["ms_per_iteration_source"]) == (300, "--iteration-ms")
    assert cost["boundary_seconds"] == 8.0


def test_a_run_of_another_shape_is_a_hint_only(measured: Path, write: Write, capsys: Capture) -> None:
    words = ("--measured", str(measured), "-o", "hidden_size=128", "-o", "global_num_gpus=4")
    found = json_of(capsys, *words, config=write())
    assert found["cost"]["measured_differs_in"] == ["hidden_size", "global_num_gpus"]
    [warning] = [warning for warning in found["warnings"] if warning["id"] == "measured-elsewhere"]
    assert warning["what"].endswith("a run that differs from this one in `hidden_size`, `global_num_gpus`")
    text = " ".join(text_of(capsys, *words, config=Path("run.yml")).split())
    assert "in `hidden_size`, `global_num_gpus`; take them for a hint" in text


@pytest.mark.parametrize(
    ("here", "there", "differs"),
    [("auto", "neox", []), ("neox", "auto", []), ("auto", "bundled", ["gaff.trainer"]), ("bundled", "bundled", [])],
)
def test_a_rehearsals_trainer_is_another_but_auto_and_neox_are_one(
    measured: Path, load: Load, write: Write, capsys: Capture, here: str, there: str, differs: list[str]
) -> None:
    RunDirectory(measured, measured).config.write_text(load(f"gaff.trainer={there}").to_yaml())
    found = json_of(capsys, "--measured", str(measured), "-o", f"gaff.trainer={here}", config=write())
    assert found["cost"]["measured_differs_in"] == differs


@pytest.mark.parametrize(
    ("content", "id"),
    [
        (None, "no-summary"),
        ("{", "no-summary"),
        ("[]", "nothing-measured"),
        ('{"ms_per_iteration": null}', "nothing-measured"),
        ('{"ms_per_iteration": NaN}', "nothing-measured"),
        ('{"ms_per_iteration": 0}', "nothing-measured"),
    ],
)
def test_a_run_without_a_measured_time_is_refused(measured: Path, write: Write, content: str | None, id: str) -> None:
    path = measured / SUMMARY_NAME
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError) as caught:
        plan_words("--config", str(write()), "--measured", str(measured))
    [problem] = caught.value.problems
    assert (problem.id, problem.where is not None and problem.where.file) == (id, str(path))


def test_a_summary_without_boundaries_gives_the_iteration_alone(measured: Path, write: Write, capsys: Capture) -> None:
    (measured / SUMMARY_NAME).write_text('{"ms_per_iteration": 250, "seconds": {"boundaries": null}}')
    cost = json_of(capsys, "--measured", str(measured), config=write())["cost"]
    assert (cost["ms_per_iteration"], cost["boundary_seconds"], cost["boundaries_seconds"]) == (250, None, None)


@pytest.mark.parametrize(
    "words",
    [
        ("--iteration-ms", "0"),
        ("--iteration-ms", "nan"),
        ("--iteration-ms", "-5"),
        ("--boundary-seconds", "inf"),
        ("--boundary-seconds", "-1"),
        ("--time-limit", "soon"),
        ("--time-limit", "0"),
    ],
)
def test_a_time_that_is_none_is_refused(words: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="is no time"):
        plan_words("--config", str(PYTHIA), *words)


# --- jobs ---


def test_jobs_in_a_chain(capsys: Capture) -> None:
    given = ("-o", "global_num_gpus=32", "--iteration-ms", "340", "--boundary-seconds", "75", "--time-limit", "4h")
    said = rows_of(text_of(capsys, *given))["jobs"]
    assert said.startswith("5 in a chain, 4:00:00 each: ")
    assert "148 launches of the trainer" in said
    found = json_of(capsys, *given)["walltime"]
    assert (found["limit_seconds"], found["jobs"], found["launches"], found["stuck_at"]) == (14_400, 5, 148, None)
    assert [found["each"][0][0], found["each"][-1][1]] == [0, 143_000]
    assert found["total_seconds"] == pytest.approx(143_000 * 0.34 + 148 * 75)


def test_with_a_measured_run_the_supervisor_reckons_as_it_did_there(
    measured: Path, write: Write, capsys: Capture
) -> None:
    """Its journal knows a start of 30 s and a slow launch: less is put into each job than the means would let fit."""
    words = ("--measured", str(measured), "--time-limit", "75s", "-o", "gaff.reset_every=never")
    without = json_of(capsys, *words, config=write())["walltime"]
    entry = {"event": "segment_exited", "ms_per_iteration": 250, "mean_ms": 300, "start_s": 30, "end_s": 4}
    (measured / "journal.jsonl").write_text(json.dumps(entry) + "\n")
    found = json_of(capsys, *words, config=Path("run.yml"))["walltime"]
    # job 1: 20 iterations tell the speed; of the 62 s left, 5 are kept back, 1.1 x 30 s are for the start and 1.5 x 4 s
    # for the save: 18 s, 54 iterations of 1.1 x 300 ms. Job 2 has 75 s, of which 31 s are left: 93 iterations.
    assert found["each"][:2] == [[0, 74, 2, 2 * 8 + 74 * 0.25], [74, 167, 1, 8 + 93 * 0.25]]
    assert found["jobs"] > without["jobs"]
    given = json_of(capsys, *words, "--boundary-seconds", "8", config=Path("run.yml"))["walltime"]
    assert given == without, "what is given wins"


def test_one_job_may_do_and_none_may_ever_end(capsys: Capture) -> None:
    given = ("--iteration-ms", "340", "--boundary-seconds", "75", "--time-limit")
    assert rows_of(text_of(capsys, *given, "2-0"))["jobs"] == "1 of 2 d 0:00:00, which takes 16:30:20"
    said = rows_of(text_of(capsys, *given, "1m"))["jobs"]
    assert said == "with 0:01:00 each the run never ends: no job comes to a checkpoint at all"


# --- how it looks ---

BUSY = (
    *("gaff.lr_schedule=restart", "gaff.reset_every=143", "log_interval=1", "lr_decay_iters=3000", "eval_iters=10"),
    *("optimizer.params.betas=[0.9,0.999]", "gradient_clipping=1.0", "model_parallel_size=2", "master_port=29500"),
)
LOOKS = {
    "as shipped": (),
    "1,000 resets, much to say": BUSY,
    "no model": ("hidden_size=null",),
    "baseline": ("gaff.reset_every=never",),
    "no learning rate": ("optimizer.type=OneBitAdam",),
}


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("look", LOOKS)
def test_no_line_is_wider_than_the_terminal(look: str, width: int) -> None:
    config = load_config([PYTHIA], ["global_num_gpus=32", *LOOKS[look]])
    plan = build_plan(config)
    outlook = forecast(config, plan, None, 340.0, 75.0, "90m")
    lines = render_plan(plan, outlook, unicode=True, width=width).splitlines()
    longest = max(lines, key=len)
    assert len(longest) <= min(width, 100), longest
    assert all(line == line.rstrip() for line in lines)
    assert not any(before == after == "" for before, after in pairwise(lines))


def test_a_thousand_resets_are_drawn_without_a_grey_block() -> None:
    plan = build_plan(load_config([PYTHIA], ["global_num_gpus=32", *BUSY]))
    assert len(plan.resets) == 999
    text = render_plan(plan, unicode=True)
    assert "░" not in text
    assert "each mark stands for up to 14 resets" in text
    assert "learning rate and segments 1 and 2, enlarged:" in text


@pytest.mark.parametrize(("columns", "most"), [(80, 80), (250, 100)])
def test_on_a_terminal_it_takes_the_terminals_width(columns: int, most: int) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gaff", "plan", "--config", str(PYTHIA), "-o", "global_num_gpus=32"],
        env={**environment, "PYTHONIOENCODING": "utf-8"}, stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65_536):
            output += chunk
    except OSError:  # its other end is closed
        pass
    finally:
        os.close(ours)
        process.wait()
    widest = max(len(line) for line in output.decode().splitlines())
    assert most - 15 < widest <= most
