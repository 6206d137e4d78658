# SPDX-License-Identifier: Apache-2.0
"""Log lines of real GPT-NeoX runs (logs/) and what other processes do to them."""

from __future__ import annotations

import math
import re
import tracemalloc
from pathlib import Path

import pytest

from gaff.trainers.contract import (
    CheckpointSaved,
    ErrorLogged,
    Event,
    IterationLogged,
    LoadFailed,
    ResumedAt,
    StoppedAt,
    ValidationLogged,
)
from gaff.trainers.faults import explain
from gaff.trainers.loglines import LogParser, read_events, read_log

LOGS = Path(__file__).parent / "logs"

LINE = (
    " samples/sec: 25.495 | iteration      305/     400 | elapsed time per iteration (ms): 156.9 |"
    " learning rate: 2.318E-04 | approx flops per GPU: 18.9GFLOPS | lm_loss: 2.168231E+00 |"
    " number of skipped iterations:   0 | number of nan iterations:   0 |"
)
EVENT = IterationLogged(
    iteration=305,
    total=400,
    loss=2.168231,
    learning_rate=2.318e-4,
    ms_per_iteration=156.9,
    samples_per_s=25.495,
    skipped=0,
    nan=0,
)


def events_of(text: str) -> list[Event]:
    return list(read_events(text.splitlines(keepends=True)))


def of_kind(events: list[Event], kind: type) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def one_line(text: str) -> IterationLogged:
    (event,) = events_of(text)
    assert isinstance(event, IterationLogged)
    return event


# --- whole logs ---


def test_resumed_run_gives_every_iteration_and_one_checkpoint() -> None:
    events = list(read_log(LOGS / "resumed.log"))
    lines = [e for e in events if isinstance(e, IterationLogged)]
    assert events[0] == ResumedAt(300)
    assert [line.iteration for line in lines] == [305, 310, 315, 320, 325, 330, 335, 340, 345, 350]
    assert lines[0] == EVENT
    assert events[-2:] == [CheckpointSaved("global_step400"), StoppedAt(400)]


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_no_line_of_a_real_log_is_lost(log: Path) -> None:
    text = log.read_text()
    events = list(read_log(log))
    lines = [(e.iteration, e.loss) for e in events if isinstance(e, IterationLogged)]
    validations = [e.loss for e in events if isinstance(e, ValidationLogged)]
    saves = {e.tag for e in events if isinstance(e, CheckpointSaved)}
    assert lines == [(int(i), float(x)) for i, x in re.findall(r"\| iteration +(\d+)/.* lm_loss: (\S+) \|", text)]
    assert validations == [float(x) for x in re.findall(r" results at .*lm_loss value: (\S+) \|", text)]
    assert saves == set(re.findall(r"Checkpoint (global_step\d+) is ready", text))


@pytest.mark.parametrize("more", ["", " loss scale: 4096.0 |", " z_loss: 1.000000E-02 | aux_loss: 2.500000E-01 |"])
@pytest.mark.parametrize("skipped", ["  0", "  5", "120"])
def test_a_whole_line_says_the_same_read_in_one_go_or_field_by_field(more: str, skipped: str) -> None:
    before, _, after = LINE.partition(" number of skipped iterations:   0")
    line = f"{before}{more} number of skipped iterations: {skipped}{after}"
    piecewise = f"node17: {line}"  # which no line of one go begins with
    assert one_line(line) == one_line(piecewise)
    assert one_line(line).skipped == int(skipped)


def test_eight_ranks_say_each_thing_once() -> None:
    events = list(read_log(LOGS / "eight-ranks.log"))
    assert of_kind(events, LoadFailed) == [LoadFailed("Unable to load checkpoint.")]
    assert of_kind(events, CheckpointSaved) == [CheckpointSaved("global_step5")]
    assert of_kind(events, ErrorLogged) == []


def test_fp16_line_carries_the_loss_scale() -> None:
    lines = [e for e in read_log(LOGS / "fp16.log") if isinstance(e, IterationLogged)]
    assert [(line.iteration, line.loss, line.loss_scale) for line in lines[:2]] == [
        (1, 6.323815, 4096.0),
        (2, 6.087361, 4096.0),
    ]


def test_validation_lines_tell_split_and_iteration() -> None:
    assert of_kind(list(read_log(LOGS / "validation.log")), ValidationLogged) == [
        ValidationLogged(5, 5.448185, "validation"),
        ValidationLogged(None, 5.657679, "validation"),
        ValidationLogged(None, 5.09711, "test"),
    ]


@pytest.mark.parametrize(
    ("log", "decisive", "advice"),
    [
        (
            "fault-dp-size-changed",
            "ZeRORuntimeException: The checkpoint being loaded used a DP world size of 1",
            "GPUs",
        ),
        ("fault-eps-is-a-string", "TypeError: multi_tensor_adam(): incompatible function arguments", "1.0e-8"),
        ("fault-exit0-zero2-with-tp", "ZeRO stage 2/3 and model paralleism are not", "model_parallel_size: 1"),
        (
            "fault-missing-tag",
            "AssertionError in check_ckpt_list (state_dict_factory.py:168): assert len(self.ckpt_list) > 0",
            "missing",
        ),
        ("fault-port-busy", "DistNetworkError: The server socket has failed to listen", "port"),
        ("fault-truncated-shard", "RuntimeError: PytorchStreamReader failed reading zip archive", "truncated"),
    ],
)
def test_fault_gives_its_decisive_line_once_and_what_to_do(log: str, decisive: str, advice: str) -> None:
    (error,) = of_kind(list(read_log(LOGS / f"{log}.log")), ErrorLogged)
    assert isinstance(error, ErrorLogged)
    assert decisive in error.message
    assert advice in (explain(error.message) or "")


@pytest.mark.parametrize(
    ("log", "decisive"),
    [
        ("fault-missing-rng", "Unable to load optimizer from checkpoint runs/dos_rng/global_step10"),
        ("fault-latest-missing", "Unable to load checkpoint."),
    ],
)
def test_failed_load_is_told_though_the_trainer_exits_0(log: str, decisive: str) -> None:
    (failed,) = of_kind(list(read_log(LOGS / f"{log}.log")), LoadFailed)
    assert isinstance(failed, LoadFailed)
    assert failed.message.startswith(decisive)


def test_training_from_scratch_after_a_failed_load_says_so() -> None:
    events = list(read_log(LOGS / "fault-latest-missing.log"))
    assert events[:2] == [LoadFailed("Unable to load checkpoint."), ResumedAt(0)]


# --- iteration lines, whole and hurt ---


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        "\x1b[32m" + LINE + "\x1b[0m",
        "  28.356 " + LINE,
        "node1: " + LINE,
        LINE + "DUMMY 0 pid 4711",
        "DUMMY 0 pid 4711" + LINE,
        LINE.replace("18.9GFLOPS", "18.9"),
        LINE.replace("18.9GFLOPS | ", "1.2PFLOPS | MFU: 41.20% | HFU: 51.00% | "),
        LINE.replace("18.9GFLOPS", "18.DUMMYDUMMY 0 pid9GFLOPS"),
        LINE.replace("elapsed time", "elapsed \ntime"),
        LINE.replace("E+00 |", "E+00\nDUMMY\n |"),
    ],
    ids=[
        "as printed",
        "coloured",
        "elapsed seconds in front",
        "host in front",
        "another rank behind",
        "another rank in front",
        "flops without unit",
        "with MFU and HFU",
        "another rank inside a field that is not read",
        "line break inside",
        "another rank's line inside",
    ],
)
def test_iteration_line_is_read(text: str) -> None:
    assert one_line(text) == EVENT


def test_field_that_another_rank_cut_is_none_and_the_others_stay() -> None:
    event = one_line(LINE.replace("2.168231E+00", "2.16DUMMY8231E+00"))
    assert event.loss is None
    assert (event.iteration, event.ms_per_iteration, event.learning_rate) == (305, 156.9, 2.318e-4)


def test_line_cut_off_by_a_kill_has_no_half_numbers() -> None:
    event = one_line(LINE[: LINE.index("2.168231E+00") + 6])
    assert (event.iteration, event.learning_rate, event.loss) == (305, 2.318e-4, None)


def test_line_cut_off_before_its_iteration_is_nothing() -> None:
    assert events_of(LINE[: LINE.index("/     400")]) == []


def test_line_never_completed_is_given_up_when_the_next_one_comes() -> None:
    cut = LINE[: LINE.index("lm_loss")]
    events = events_of(cut + "\n" + LINE.replace("305/", "310/"))
    assert [(e.iteration, e.loss) for e in events if isinstance(e, IterationLogged)] == [(305, None), (310, 2.168231)]


def test_checkpoint_in_the_same_line_is_seen_too() -> None:
    line = LINE + "[2026-11-21 02:58:48,162] [INFO] [Torch] Checkpoint global_step305 is ready now!"
    assert events_of(line) == [EVENT, CheckpointSaved("global_step305")]


@pytest.mark.parametrize(("text", "check"), [("NAN", math.isnan), ("INF", math.isinf), ("-INF", math.isinf)])
def test_loss_that_is_no_number_is_told_as_such(text: str, check: object) -> None:
    loss = one_line(LINE.replace("2.168231E+00", text)).loss
    assert loss is not None
    assert callable(check)
    assert check(loss)


def test_other_losses_are_kept_by_name() -> None:
    event = one_line(LINE.replace("lm_loss:", "rewards/chosen: -1.500000E-01 | dpo loss: 6.931472E-01 | lm_loss:"))
    assert event.loss == 2.168231
    assert event.losses == {"rewards/chosen": -0.15, "dpo loss": 0.6931472}


def test_interval_of_skipped_iterations_only_has_no_loss() -> None:
    event = one_line(
        LINE.replace("2.168231E+00", "0.000000E+00").replace("skipped iterations:   0", "skipped iterations:   5")
    )
    assert (event.loss, event.skipped) == (None, 5)


def test_echo_of_the_config_is_no_event() -> None:
    assert (
        events_of("  config_files .................... {'a.yml': '# Unable to load checkpoint. Try again'}updated")
        == []
    )


# --- errors ---


def traceback_of(prefix: str, *last: str) -> list[str]:
    lines = [
        "Traceback (most recent call last):",
        '  File "a/train.py", line 3, in main',
        "    go()",
        "    ^^^^",
        *last,
    ]
    return [prefix + line for line in lines]


def test_tracebacks_of_two_ranks_cut_into_each_other_are_told_apart() -> None:
    first = traceback_of("[rank0]: ", "ValueError: bad shape")
    second = traceback_of("[rank1]: ", "RuntimeError: Connection closed by peer")
    mixed = [line for pair in zip(first, second, strict=True) for line in pair]
    assert events_of("\n".join(mixed)) == [
        ErrorLogged("ValueError: bad shape"),
        ErrorLogged("RuntimeError: Connection closed by peer"),
    ]


def test_ranks_that_differ_in_numbers_only_are_one_error() -> None:
    lines = [
        line
        for rank in range(8)
        for line in traceback_of(
            f"node1: [rank{rank}]: ", f"torch.OutOfMemoryError: CUDA out of memory. GPU {rank} has"
        )
    ]
    assert events_of("\n".join(lines)) == [ErrorLogged("torch.OutOfMemoryError: CUDA out of memory. GPU 0 has")]


def test_chained_traceback_ends_with_the_outermost_exception() -> None:
    lines = [
        *traceback_of("", "KeyError: 'rng'"),
        "",
        "During handling of the above exception, another exception occurred:",
        "",
    ]
    lines += traceback_of("", "RuntimeError: no state")
    assert events_of("\n".join(lines))[-1] == ErrorLogged("RuntimeError: no state")


def test_log_lines_between_frames_are_no_exceptions() -> None:
    lines = traceback_of("", "[2026-11-21 02:58:48] [INFO] still here", "WARNING: not this", "OSError: this")
    assert events_of("\n".join(lines)) == [ErrorLogged("OSError: this")]


def test_message_that_quotes_a_whole_command_line_is_cut() -> None:
    (error,) = events_of("\n".join(traceback_of("", "subprocess.CalledProcessError: " + "x" * 100_000)))
    assert isinstance(error, ErrorLogged)
    assert len(error.message) == 600


LAUNCHER = "[2026-11-21] [ERROR] [launch.py:325:sigkill_handler] ['python'] exits with return code = {}"


def test_killed_rank_is_told_by_the_launcher_alone() -> None:
    assert events_of(LAUNCHER.format(-9)) == [ErrorLogged("a rank was killed by signal 9 (SIGKILL)")]


def test_launchers_return_code_adds_nothing_to_a_traceback() -> None:
    text = "\n".join([*traceback_of("[rank0]: ", "ValueError: bad shape"), LAUNCHER.format(1)])
    assert events_of(text) == [ErrorLogged("ValueError: bad shape")]


@pytest.mark.parametrize(
    "sentence",
    [
        "ZeRO stage 2/3 and the PipelineModule are incompatible, please set 'pipe_parallel_size' to 0 instead",
        "ZeRO stage 2/3 and pipeline paralleism are not supported simultaneously",
        "ERROR: Optimizer is None. Either set the optimizer dict in your config (if training) or set no_load_optim",
        "ERROR: Fused kernels configured but not properly installed. Please run `load()`",
    ],
)
def test_sentence_before_an_exit_with_0_is_an_error(sentence: str) -> None:
    assert events_of(sentence) == [ErrorLogged(sentence)]


def test_parser_lives_through_any_bytes(tmp_path: Path) -> None:
    log = tmp_path / "attempt-1.log"
    log.write_bytes(b"\xff\xfe\x00 | iteration \x80\n" + LINE.encode() + b"\n\x1b[")
    assert list(read_log(log)) == [EVENT]


def test_whole_line_gives_its_event_at_once() -> None:
    assert LogParser().feed(LINE + "\n") == [EVENT]


@pytest.mark.parametrize("unit", [" ", "\r", "srun: error: ", "NCCL WARN ", "a ", "| iteration 1/ 2 |", "\x1b["])
def test_a_line_of_any_length_is_read_in_one_go(unit: str) -> None:
    """Where the time grows with the square of the length, this one takes minutes."""
    parser = LogParser()
    parser.feed(unit * ((1 << 18) // len(unit)))
    parser.feed(unit * ((1 << 18) // len(unit)))
    assert [type(event) for event in parser.feed("Loading checkpoint and starting from iteration 3")][-1] is ResumedAt


def test_a_host_name_in_front_does_not_make_an_event_of_an_echoed_config() -> None:
    assert LogParser().feed("node1:   config_files ......... Unable to load checkpoint.") == []


def test_a_log_of_one_endless_line_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("#" * (8 << 20) + "\nLoading checkpoint and starting from iteration 3\n")
    tracemalloc.start()
    events = list(read_log(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert events == [ResumedAt(3)]
    assert most < 8 << 20
