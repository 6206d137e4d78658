# SPDX-License-Identifier: Apache-2.0
"""Merging files and overrides into one Config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config, load_config
from gaff.plan.settings import InitSpec

Write = Callable[..., Path]
Load = Callable[..., Config]
Problems = Callable[..., list[Problem]]


def test_the_gaff_block_is_taken_out(load: Load) -> None:
    config = load()
    assert "gaff" not in config.neox
    assert (config.gaff.reset_every, config.gaff.seed, config.gaff.moments) == (100, 7, "zero")
    assert config.get("optimizer.params.lr") == 0.001
    assert config.get("absent", 5) == 5


def test_places_name_file_and_line_and_fall_back_to_what_is_around(load: Load) -> None:
    config = load()
    assert config.where("train_iters") == Location("run.yml", 4)
    assert config.where("gaff.reset_every") == Location("run.yml", 2)
    assert config.where("optimizer.params.eps") == Location("run.yml", 26)
    assert config.where("optimizer.params.absent") == Location("run.yml", 23)
    assert config.where("absent") is None


def test_a_later_file_replaces_whole_keys_and_says_where_both_stand(write: Write, project: Path) -> None:
    second = write(name="second.yml", text="x: 1\noptimizer: {type: Lion}\ntrain-iters: 500\n")
    config = load_config([write(), second])
    assert config.get("optimizer") == {"type": "Lion"}
    assert config.get("train_iters") == 500
    said = [str(warning) for warning in config.warnings]
    assert said[0].startswith("second.yml:2: `optimizer` replaces that of run.yml:21")
    assert said[1].startswith("second.yml:3: `train_iters` replaces that of run.yml:4")
    assert config.where("optimizer.params.lr") == Location("second.yml", 2)


def test_the_gaff_blocks_of_several_files_merge_key_by_key(write: Write) -> None:
    second = write(name="second.yml", text="gaff:\n  reset_every: 50\n  moments: keep\n")
    config = load_config([write(), second])
    assert (config.gaff.reset_every, config.gaff.seed, config.gaff.moments) == (50, 7, "keep")
    [warning] = config.warnings
    assert str(warning).startswith("second.yml:2: `gaff.reset_every` replaces that of run.yml:2")


def test_overrides_reach_into_mappings_and_leave_the_rest(load: Load) -> None:
    config = load("optimizer.params.lr=0.5", "gaff.reset-every=20", "train-iters=60", "gaff.init=normal:0.1", "save=")
    assert config.get("optimizer.params") == {"lr": 0.5, "betas": [0.9, 0.95], "eps": 1e-8}
    assert config.gaff.reset_every == 20
    assert config.get("train_iters") == 60
    assert config.gaff.init == InitSpec("normal", 0.1)
    assert config.get("save") is None
    assert config.where("gaff.reset_every") == Location("-o gaff.reset-every=20")
    assert config.warnings == ()


@pytest.mark.parametrize("text", ["train_iters", "=5", "gaff=1", "a..b=1", "train_iters.x=1", "train_iters=[1"])
def test_an_override_that_makes_no_sense_is_refused_with_itself_as_place(load: Load, text: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    [problem] = caught.value.problems
    assert problem.where == Location(f"-o {text}")


def test_all_problems_of_all_files_come_in_one_error(write: Write) -> None:
    first = write("seed: 7", "sed: 7", name="a.yml")
    second = write(name="b.yml", text="min_lr: 1e-4\n")
    with pytest.raises(InputError) as caught:
        load_config([first, second], ["gaff.moments=none"])
    assert [(p.id, str(p.where)) for p in caught.value.problems] == [
        ("yaml-trap", "b.yml:1"),
        ("unknown-gaff-key", "a.yml:3"),
        ("gaff-value", "-o gaff.moments=none"),
    ]


def test_a_missing_file_does_not_hide_the_others_problems(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load_config([Path("absent.yml"), write("1.0e-8", "1e-8")])
    assert [problem.id for problem in caught.value.problems] == ["config-missing", "yaml-trap"]


def test_unknown_gaff_key_names_the_nearest(problems: Problems) -> None:
    [first, second] = problems("reset_every: 100", "reset_evry: 100")
    assert str(first) == (
        "run.yml:2: `gaff.reset_evry` is not a key of the gaff block; did you mean `reset_every`? else remove it."
    )
    assert second.id == "reset-every-missing"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reset_every: 0", "must be an integer of at least 1, or `never`, not the number `0`"),
        ("reset_every: -5", "must be an integer of at least 1, or `never`, not the number `-5`"),
        ("reset_every: true", "must be an integer of at least 1, or `never`, not the true/false value `true`"),
        ("reset_every: 1.5", "must be an integer of at least 1, or `never`, not the number `1.5`"),
        ("reset_every: often", "must be an integer of at least 1, or `never`, not the text `often`"),
        ("reset_every:", "must be an integer of at least 1, or `never`, not empty"),
        ("reset_every: 10\n  first_reset: 0", "must be an integer of at least 1, not the number `0`"),
        ("reset_every: 10\n  save_forgotten: 1", "must be true or false, not the number `1`"),
        ("reset_every: 10\n  moments: reset", "must be `zero` or `keep`, not the text `reset`"),
        ("reset_every: 10\n  trainer: [neox]", "must be `auto` or `neox` or `bundled`, not a list"),
        ("reset_every: 10\n  init: gaussian", "must be config, matched, step0, normal:STD, uniform:BOUND"),
        ("reset_every: 10\n  init: normal:-1", "must be normal: followed by a number above 0"),
        ("reset_every: 10\n  init: normal:1e300", "above 0 (from 1.2e-38 to 10000), not the text `normal:1e300`"),
        ("reset_every: 10\n  init: uniform:1e-300", "above 0 (from 1.2e-38 to 10000)"),
        ("reset_every: 10\n  init: normal:nan", "above 0 (from 1.2e-38 to 10000)"),
        ("reset_every: 10\n  init: normal:inf", "above 0 (from 1.2e-38 to 10000)"),
        ("reset_every: 10\n  init: uniform:x", "must be config, matched, step0, normal:STD, uniform:BOUND"),
        ("reset_every: 10\n  neox_dir: 5", "must be a path, not the number `5`"),
        ("reset_every: 10\n  parameters: embedding", "a pattern of parameter names, or a list of these, not the text"),
        ("reset_every: 10\n  parameters: 5", "or a list of these, not the number `5`"),
        ("reset_every: 10\n  parameters:", "or a list of these, not empty"),
        ("reset_every: 10\n  parameters: []", "with at least one, not a list"),
        ("reset_every: 10\n  parameters:\n    - input_embedding\n    - 7", "or a list of these, not the number `7`"),
        ("reset_every: 10\n  parameters: {a: b}", "or a list of these, not a mapping"),
    ],
)
def test_mistyped_gaff_values_say_what_was_expected(problems: Problems, line: str, expected: str) -> None:
    [problem] = problems("reset_every: 100", line)
    assert problem.id == "gaff-value"
    assert expected in problem.what
    assert problem.where == Location("run.yml", 2 + line.count("\n"))


@pytest.mark.parametrize("block", ["gaff: 5\nx:\n  reset_every: 100", "gaff:\nx:\n  reset_every: 100"])
def test_a_block_that_is_none_is_refused(problems: Problems, block: str) -> None:
    [problem] = problems("gaff:\n  reset_every: 100", block)
    assert problem.where == Location("run.yml", 1)


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("config", InitSpec("config")),
        ("matched", InitSpec("matched")),
        ("step0", InitSpec("step0")),
        ("normal:1e-2", InitSpec("normal", 0.01)),
        ("uniform:0.0279508497187", InitSpec("uniform", 0.0279508497187)),
    ],
)
def test_init_is_parsed_and_written_back_without_loss(load: Load, written: str, spec: InitSpec) -> None:
    config = load(f"gaff.init={written}")
    assert config.gaff.init == spec
    assert load(f"gaff.init={spec}").gaff.init == spec


def test_paths_become_absolute_against_the_working_directory(load: Load, project: Path) -> None:
    config = load("save=out/../ckpt", "vocab_file=v.json", "tokenizer_type=HFTokenizer", "hostfile=none",
                  "train_data_paths=[a, /b]", "gaff.neox_dir=neox", "gaff.init=e.safetensors")  # fmt: skip
    assert config.get("save") == str(project / "ckpt")
    assert config.get("data_path") == str(project / "data/text_document")
    assert config.get("vocab_file") == str(project / "v.json")
    assert config.get("hostfile") == "none"
    assert config.get("train_data_paths") == [str(project / "a"), "/b"]
    assert config.gaff.neox_dir == str(project / "neox")
    assert config.gaff.init.path == str(project / "e.safetensors")


@pytest.mark.parametrize("tokenizer", ["CharLevelTokenizer", "TiktokenTokenizer"])
def test_vocab_file_stays_where_the_tokenizer_reads_no_file(load: Load, tokenizer: str) -> None:
    assert load(f"tokenizer_type={tokenizer}", "vocab_file=gpt2").get("vocab_file") == "gpt2"


@pytest.mark.parametrize("key", ["train_iter", "exit_intervals", "num_layer"])
def test_a_near_miss_of_a_gpt_neox_key_is_a_warning(load: Load, key: str) -> None:
    [warning] = load(f"{key}=5").warnings
    assert warning.id == "key-near-miss"
    assert str(warning.where) == f"-o {key}=5"


def test_keys_of_another_gpt_neox_pass_through_untouched(load: Load) -> None:
    config = load("brand_new_option={a: 1}")
    assert config.get("brand_new_option") == {"a": 1}
    assert config.warnings == ()


def test_the_effective_config_reads_back_equal(load: Load, write: Write) -> None:
    config = load("gaff.init=normal:0.0279508497187", "gaff.moments=keep", "min_lr=2.5e-5", "x=[[[flash], 6]]",
                  "git_hash='1e5'", "comment='yes'", "gaff.first_reset=33")  # fmt: skip
    again = load_config([write(name="effective.yml", text=config.to_yaml())])
    assert again == config
    assert yaml.load(config.to_yaml(), Loader=yaml.FullLoader)["gaff"]["reset_every"] == 100


@pytest.mark.parametrize(
    ("written", "parameters", "dumped"),
    [
        ("input_embedding", ("input_embedding",), None),
        ("[input_embedding]", ("input_embedding",), None),
        ("output_embedding", ("output_embedding",), "output_embedding"),
        ("['*.attention.dense.weight']", ("*.attention.dense.weight",), "*.attention.dense.weight"),
        ("[5.norm.*, input_embedding]", ("5.norm.*", "input_embedding"), ["5.norm.*", "input_embedding"]),
    ],
)
def test_parameters_read_back_equal_and_one_is_written_as_plain_text(
    load: Load, write: Write, written: str, parameters: tuple[str, ...], dumped: object
) -> None:
    config = load(f"gaff.parameters={written}")
    assert config.gaff.parameters == parameters
    assert load_config([write(name="effective.yml", text=config.to_yaml())]) == config
    assert yaml.load(config.to_yaml(), Loader=yaml.FullLoader)["gaff"].get("parameters") == dumped


def test_a_baseline_reads_back_as_a_baseline(load: Load, write: Write) -> None:
    config = load("gaff.reset_every=never")
    assert config.gaff.reset_every is None
    assert load_config([write(name="effective.yml", text=config.to_yaml())]) == config


def test_a_value_that_yaml_takes_for_text_is_told_once(write: Callable[..., Path]) -> None:
    wrong = write("reset_every: 100", "reset_every: 1e3", name="wrong.yml")
    for path, overrides in ((wrong, []), (write(), ["gaff.reset_every=1e3"])):
        with pytest.raises(InputError) as caught:
            load_config([path], overrides)
        assert [problem.id for problem in caught.value.problems] == ["yaml-trap"]


@pytest.mark.parametrize("depth", [60, 300, 5000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ("{a: ", "}")])
def test_deep_nesting_is_one_sentence(write: Callable[..., Path], depth: int, left: str, right: str) -> None:
    deep = left * depth + right * depth
    for path, overrides in ((write("eval_iters: 0", f"x: {deep}", name="deep.yml"), []), (write(), [f"x={deep}"])):
        with pytest.raises(InputError) as caught:
            load_config([path], overrides)
        [problem] = caught.value.problems
        assert problem.id == "config-too-deep"
        assert len(str(problem)) < 200 + len(overrides) * len(deep)
