# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery diff`` as a user calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MODEL
from gaff.checkpoint.layout.read import read_layout
from gaff.cli.main import main
from tests.checkpoint.planting import become_another_run, change, count_from

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["surgery", "diff", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pair(checkpoint: GetTag, tmp_path: Path) -> tuple[Path, Path]:
    """A tag, and a copy of it with another model copy of the embedding, in all but the first rows of each block."""
    tag = checkpoint(NAME)
    other = Path(shutil.copytree(tag, tmp_path / "other" / tag.name))

    def all_but_first_rows(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:480], values[480:] + 0.25])

    change(other, read_layout(tag).of_kind(INPUT_EMBEDDING, MODEL), all_but_first_rows)
    return tag, other


def test_equal_tags_exit_0(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    tag = checkpoint(NAME)
    code, output, errors = run(capsys, tag, tag.parent)
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == "A and B are equal"


def test_tags_that_differ_exit_1_with_a_table_by_layer(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = run(capsys, *pair)
    assert (code, errors) == (1, "")
    lines = output.splitlines()
    assert lines[0] == f"A  {pair[0]}  iteration 5, TP 2, PP 2, DP 2, ZeRO stage 1, float32"
    (embedding,) = [line for line in lines if line.startswith("embedding")]
    assert embedding.split()[:4] == ["embedding", "0.25", "0.88", "92.2%"]
    assert [line.split() for line in lines if line.startswith("layer ")] == [
        ["layer", number, "equal", "equal", "equal", "equal"] for number in "23"
    ]
    assert lines[-1] == "1 of 28 parameters differ"
    assert "The model copies of B (iteration 5) are not its own masters in 1 of 28 parameters" in output
    assert max(map(len, lines[3:])) <= 160


def test_parameters_have_a_line_each_when_asked_for(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = run(capsys, *pair, "--all")
    assert code == 1
    assert "2.attention.query_key_value.weight" in output
    assert "torch_rng_state" in output
    code, output, _ = run(capsys, *pair, "--parameters", "*.query_key_value.weight")
    assert code == 0
    assert "2.attention.query_key_value.weight" in output
    assert "embedding" not in output


def test_json_is_complete(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run(capsys, *pair, "--json")
    found = json.loads(output)
    assert (code, found["schema"], found["equal"]) == (1, "gaff.diff/1", False)
    assert len(found["parameters"]) == 28
    difference = found["parameters"][INPUT_EMBEDDING]["copies"]["model"]
    assert (difference["elements"], difference["different"]) == (12288, 2 * (6144 - 480))
    assert difference["max"] == pytest.approx(0.25, rel=1e-6)
    assert {number["name"] for number in found["numbers"]} >= {"iteration", "optimizer.step", "torch_rng_state"}


def test_a_run_with_swapped_optimizer_files_is_told_plainly(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    early = Path(shutil.copytree(tag, tag.with_name("global_step2")))
    become_another_run(early)
    count_from(early, 5, 2)
    code, output, _ = run(capsys, tag, "--against-all")
    assert (code, "no tag of another iteration has the master weights of A" in output) == (0, True)
    for shard in early.glob("*_optim_states.pt"):
        shutil.copy(shard, tag)
    sentence = (
        "The master weights of A (iteration 5) are those of B (iteration 2): its optimizer files were swapped; "
        "training goes on from the old weights."
    )
    for arguments in ((tag, early), (tag, "--against-all")):
        code, output, _ = run(capsys, *arguments)
        assert (code, sentence in output) == (1, True)
    code, output, _ = run(capsys, tag, "--against-all", "--json")
    assert (code, json.loads(output)["sound"]) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TAG"], "name B, or add --against-all"),
        (["TAG", "TAG", "--against-all"], "name B, or add --against-all"),
        (["TAG", "nowhere"], "there is no such directory"),
        (["TAG", "TAG", "--parameters", "nonsense"], "has no parameter 'nonsense'"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    code, output, errors = run(capsys, *(tag if argument == "TAG" else argument for argument in arguments))
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert message in errors


def test_neither_torch_nor_deepspeed_is_needed(checkpoint: GetTag) -> None:
    tag = str(checkpoint(NAME))
    code = (
        "import sys\nfrom gaff.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "loaded = {'torch', 'deepspeed', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "surgery", "diff", tag, tag], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
