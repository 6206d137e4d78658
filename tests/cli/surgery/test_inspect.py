# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery inspect`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.cli.main import main
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"


def test_a_save_directory_stands_for_its_latest_tag(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["surgery", "inspect", str(checkpoint(NAME).parent)]) == 0
    output = capsys.readouterr().out
    assert "TP 2, PP 2, DP 2, ZeRO stage 1" in output
    assert "39.3% of the model" in output


@pytest.mark.parametrize("name", ALL_NAMES)
def test_json_has_every_copy(name: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["surgery", "inspect", str(checkpoint(name)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "gaff.inspection/2"
    copies = found["looked_into"][0]["copies"]
    weights = sum(copy["numel"] for copy in copies if copy["kind"] in ("model", "master"))
    assert weights % 12288 == 0
    assert weights > 0


def test_other_parameters_are_looked_into_by_name(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["output_embedding", "*.input_layernorm.bias"]
    assert main(["surgery", "inspect", str(checkpoint(NAME)), "--json", "--parameters", *names]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["looked_into"]] == [
        "2.input_layernorm.bias",
        "3.input_layernorm.bias",
        "6.final_linear.weight",
    ]


def test_numbers_that_are_not_finite_are_null_in_json(
    checkpoint: GetTag, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.checkpoint.planting import change, copies_of, read_layout

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    tag = checkpoint(NAME)
    change(tag, copies_of(read_layout(tag), "0.word_embeddings.weight"), lambda values: values * float("nan"))
    assert main(["surgery", "inspect", str(tag), "--json"]) == 0
    embedding = json.loads(capsys.readouterr().out, parse_constant=refuse)["looked_into"][0]
    assert embedding["norm"] is None
    assert embedding["mean"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "there is no such directory"),
        (["TAG", "--parameters", "nonsense"], 2, "has no parameter 'nonsense'"),
        (["BROKEN"], 1, "lacks 1 of its files"),
    ],
)
def test_what_cannot_be_inspected_is_one_sentence(
    arguments: list[str], code: int, message: str, checkpoint: GetTag, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = checkpoint(NAME)
    if arguments == ["BROKEN"]:
        (tag / "layer_03-model_01-model_states.pt").unlink()
    given = [str(tag) if argument in ("TAG", "BROKEN") else argument for argument in arguments]
    assert main(["surgery", "inspect", *given]) == code
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert message in errors


def test_many_copies_are_counted_and_listed_on_demand(checkpoint: GetTag, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["surgery", "inspect", str(checkpoint(NAME)), "--parameters", "*"]
    assert main([*arguments, "--json"]) == 0
    copies = sum(len(one["copies"]) for one in json.loads(capsys.readouterr().out)["looked_into"])
    assert main(arguments) == 0
    page = capsys.readouterr().out
    assert "copies: 2 model, 4 master, 4 exp_avg, 4 exp_avg_sq, in 6 files" in page
    assert f"--all lists each of the {copies} copies" in page
    assert "bytes [" not in page
    assert main([*arguments, "--all"]) == 0
    assert capsys.readouterr().out.count("  bytes [") == copies
