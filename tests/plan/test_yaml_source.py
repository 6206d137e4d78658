# SPDX-License-Identifier: Apache-2.0
"""Reading one YAML file as GPT-NeoX does, with places and traps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gaff.errors import InputError, Location
from gaff.plan.yaml_source import parse_value, parse_yaml, read_yaml


def error_of(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "run.yml")
    return str(caught.value)


def test_values_are_those_of_the_full_loader() -> None:
    text = "a-b: 1\nc: [1.0e-8, yes, ~, 0x10]\nd: {e-f: 1_000}\nbase: &x {p: 1}\nuse: {<<: *x, q: 2}\n"
    expected = {key.replace("-", "_"): value for key, value in yaml.load(text, Loader=yaml.FullLoader).items()}
    assert parse_yaml(text, "f").values == expected


def test_every_key_has_its_line() -> None:
    source = parse_yaml("# comment\na: 1\n\nouter:\n  inner:\n    - x\n    - y\n", "f.yml")
    lines = {dotted: place.line for dotted, place in source.places.items()}
    assert lines == {"a": 2, "outer": 4, "outer.inner": 5, "outer.inner.0": 6, "outer.inner.1": 7}
    assert source.places["a"] == Location("f.yml", 2)


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("1e-8", "write 1.0e-8"),
        ("6e-4", "write 6.0e-4"),
        ("1e8", "write 1.0e+8"),
        ("-2E3", "write -2.0e+3"),
        ("1.5e3", "write 1.5e+3"),
        (".5e4", "write 0.5e+4"),
    ],
)
def test_scientific_notation_that_yaml_takes_for_text_is_a_trap(written: str, remedy: str) -> None:
    assert isinstance(yaml.load(written, Loader=yaml.FullLoader), str)
    [problem] = parse_yaml(f"x: 1\noptimizer:\n  params:\n    eps: {written}\n", "run.yml").problems
    assert problem.id == "yaml-trap"
    assert str(problem).startswith(f"run.yml:4: `optimizer.params.eps: {written}` is text to YAML, not a number; ")
    assert problem.remedy == remedy
    assert isinstance(yaml.load(remedy.removeprefix("write "), Loader=yaml.FullLoader), float)


@pytest.mark.parametrize("written", ["1.0e-8", "1.e-8", "1e-8x", "e5", "'1e-8'", "0.1", "1", "abc"])
def test_other_scalars_are_no_trap_where_text_may_stand(written: str) -> None:
    assert parse_yaml(f"some_key: {written}\n", "f").problems == ()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("x: !!set {a, b}", "`x` is a `!!set`"),
        ('x: [1, !!binary "aGVsbG8="]', "`x.1` is a `!!binary`"),
        ("x: !!python/tuple [1, 2]", "`x` is a `!!python/tuple`"),
        ("x: {2024-01-01: 3}", "the key `x.2024-01-01` is a date"),
    ],
)
def test_what_json_does_not_hold_is_a_problem_with_its_line(written: str, told: str) -> None:
    """GPT-NeoX hands its config on as JSON, and so does `gaff plan --json`."""
    [problem] = parse_yaml(f"a: 1\n{written}\n", "run.yml").problems
    assert str(problem).startswith(f"run.yml:2: {told}")


def test_text_keys_may_look_like_numbers() -> None:
    assert parse_yaml("wandb_group: 1e4\n", "f").problems == ()


@pytest.mark.parametrize("line", ['lr: "0.1"', "train_iters: '400'", 'betas: ["0.9", 0.95]', "min_lr: '1e-4'"])
def test_numbers_in_quotes_are_traps_where_a_number_is_wanted(line: str) -> None:
    text = f"optimizer:\n  params: {{{line}}}\n" if line.startswith("betas") else f"a: 1\n{line}\n"
    [problem] = parse_yaml(text, "run.yml").problems
    assert problem.where == Location("run.yml", 2)
    assert problem.remedy == "remove the quotes"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("train_iters: 010", "octal number to YAML, that is 8"),
        ("train_iters: 1:30", "to base 60"),
        ("anything: 12:30:45", "to base 60"),
        ("anything: 2024-01-02", "a date"),
        ("train_iters: 09", "text to YAML"),
    ],
)
def test_other_yaml_1_1_surprises_are_traps(line: str, what: str) -> None:
    [problem] = parse_yaml(f"\n{line}\n", "run.yml").problems
    assert what in problem.what
    assert problem.where == Location("run.yml", 2)


def test_the_same_key_twice_is_a_warning_and_the_last_one_wins() -> None:
    source = parse_yaml("train-iters: 1\nx: 2\ntrain_iters: 3\n", "run.yml")
    assert source.values["train_iters"] == 3
    [warning] = source.warnings
    assert str(warning).startswith("run.yml:3: `train_iters` stands here a second time (first in line 1)")
    assert source.places["train_iters"].line == 3


def test_the_same_key_twice_in_the_gaff_block_is_an_error() -> None:
    source = parse_yaml("gaff:\n  reset_every: 1\n  reset-every: 2\n", "run.yml")
    assert [problem.id for problem in source.problems] == ["gaff-duplicate-key"]
    assert source.problems[0].where == Location("run.yml", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", "run.yml:3: this is not YAML"),
        ("a:\n\tb: 1\n", "run.yml:2: this is not YAML"),
        ("a: *nowhere\n", "run.yml:1: this is not YAML"),
        ("a: 1\n---\nb: 2\n", "run.yml:2: this is not YAML"),
        ("a: 1\nb: !!python/object:os.system x\n", "run.yml:2: this is not YAML"),
        ("x: 1\ny: \x07\n", "run.yml:2: a control character"),
        ("", "run.yml: the file holds no keys"),
        ("# only a comment\n", "run.yml: the file holds no keys"),
        ("- a\n- b\n", "run.yml:1: a config file is a list of `key: value` lines"),
        ("\njust words\n", "run.yml:2: a config file is a list of `key: value` lines"),
        ("a: 2024-99-99\n", "run.yml: a value cannot be read"),
    ],
)
def test_what_is_no_config_gets_one_sentence_with_its_line(text: str, message: str) -> None:
    said = error_of(text)
    assert said.startswith(message)
    assert "\n" not in said


def test_an_alias_that_holds_itself_is_a_problem() -> None:
    assert [problem.id for problem in parse_yaml("a: &x [*x]\n", "f").problems] == ["yaml-circular"]


def test_missing_file_directory_and_binary_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yml").write_bytes(b"a: 1\nb: \xff\xfe\n")
    for name, id in (("absent.yml", "config-missing"), (".", "config-is-directory"), ("binary.yml", "config-not-text")):
        with pytest.raises(InputError) as caught:
            read_yaml(tmp_path / name)
        assert caught.value.problems[0].id == id
        assert caught.value.exit_code == 2
    assert caught.value.problems[0].where == Location(str(tmp_path / "binary.yml"), 2)


def test_override_values_are_read_by_the_same_rules() -> None:
    assert parse_value("[0.9, 0.95]", "-o x", "betas") == ([0.9, 0.95], ())
    assert parse_value("", "-o x", "save") == (None, ())
    [problem] = parse_value("1e-8", "-o min_lr=1e-8", "min_lr")[1]
    assert str(problem) == "-o min_lr=1e-8: `min_lr: 1e-8` is text to YAML, not a number; write 1.0e-8."
