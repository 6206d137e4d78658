# SPDX-License-Identifier: Apache-2.0
"""A trainer's output, line by line, as the events of :mod:`gaff.trainers.contract`.

What GPT-NeoX prints is no interface: ranks share one pipe and cut into each other's lines, launchers put host or rank
names in front, a killed process leaves half a line.  So nothing here asks for a whole, clean line.  Each field is
looked for by itself, and is only taken when it is complete (its printed form has a fixed number of digits).  What
cannot be read is None, never a guess and never an exception.

The knowledge of the format is in the tables; it was read from GPT-NeoX commit ea7aefd8 (``megatron/logging.py``,
``training.py``, ``checkpointing.py``) and from logs of real runs.  The bundled trainer words its lines the same way.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

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
from gaff.trainers.faults import stands_alone
from gaff.trainers.tracebacks import TracebackReader

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")

# GPT-NeoX prints the text of every config file in one line of its argument table; a comment in there is no event.
_ECHO = re.compile(r"^\s*(?:[\w.-]+:\s+)?config_files \.{3,}|--(?:megatron|deepspeed)_config[ =']")

# --- the iteration line (megatron/logging.py, training_log) ---

_ANCHOR = re.compile(r"\| iteration\s+(\d+)/\s*(\d+) \|")
_LINE_END = re.compile(r"number of nan iterations:\s*(\d+)")
# Losses are printed with %.6E, the learning rate with %.3E: the digits tell them apart whatever the loss is called.
_LOSS = re.compile(r" (?P<name>[A-Za-z_][\w./ -]*?): (?P<value>-?\d\.\d{6}E[+-]\d{2,3}|[+-]?(?:NAN|INF))")
_MAIN_LOSS = "lm_loss"
# A line that is nothing but one iteration line, whole, is read in one go: nearly all lines of a log are.
_WHOLE = re.compile(
    r" samples/sec: (\d+\.\d{3}) \| iteration +(\d+)/ *(\d+) \| elapsed time per iteration \(ms\): (\d+\.\d) \|"
    r" learning rate: (-?\d\.\d{3}E[+-]\d{2}) \|(?: approx flops per GPU: [\d.]+[A-Z]{0,2}FLOPS \|)?"
    r" lm_loss: (-?\d\.\d{6}E[+-]\d{2,3}) \|((?: [A-Za-z_][\w./ -]{0,60}: -?\d\.\d{6}E[+-]\d{2,3} \|)*)"
    r"(?: loss scale: (\d+\.\d) \|)? number of skipped iterations: +(\d+) \| number of nan iterations: +(\d+) \|\n?"
)
_MAX_LINES_HELD = 4
_MAX_READ = 1 << 18  # characters of a line at a time
_MAX_SHOWN = 600  # of a line that a person is shown
_MAX_MESSAGES = 10_000  # that are told apart; a trainer that raises more kinds of errors says nothing new by them


def _number(pattern: str) -> Callable[[str], float | None]:
    compiled = re.compile(pattern)

    def read(text: str) -> float | None:
        match = compiled.search(text)
        return float(match.group(1)) if match else None

    return read


_FIELDS: dict[str, Callable[[str], float | None]] = {
    "samples_per_s": _number(r"samples/sec: (\d+\.\d{3}) \| iteration"),
    "ms_per_iteration": _number(r"elapsed time per iteration \(ms\): (\d+\.\d)"),
    "learning_rate": _number(r"learning rate: (-?\d\.\d{3}E[+-]\d{2})"),
    "loss_scale": _number(r"loss scale: (\d+\.\d)"),
    "skipped": _number(r"number of skipped iterations:\s*(\d+)"),
    "nan": _number(r"number of nan iterations:\s*(\d+)"),
}


def _iteration_event(text: str) -> IterationLogged:
    anchor = _ANCHOR.search(text)
    assert anchor, "the caller has found the anchor"
    fields = {name: read(text) for name, read in _FIELDS.items()}
    losses = {m["name"]: float(m["value"]) for m in _LOSS.finditer(text, anchor.end())}
    loss = losses.pop(_MAIN_LOSS, None)
    skipped = int(fields["skipped"] or 0)
    if skipped and loss == 0.0:
        # Skipped iterations add nothing to the mean, so 0 is what is printed when all of the interval were skipped.
        loss = None
    return IterationLogged(
        iteration=int(anchor.group(1)),
        total=int(anchor.group(2)),
        loss=loss,
        learning_rate=fields["learning_rate"],
        ms_per_iteration=fields["ms_per_iteration"],
        samples_per_s=fields["samples_per_s"],
        skipped=skipped,
        nan=int(fields["nan"] or 0),
        losses=losses,
        loss_scale=fields["loss_scale"],
    )


def _whole_line(
    samples: str,
    iteration: str,
    total: str,
    ms: str,
    rate: str,
    loss: str,
    others: str,
    scale: str | None,
    skipped: str,
    nan: str,
) -> IterationLogged:
    """As :func:`_iteration_event`, from the groups of :data:`_WHOLE`."""
    left_out, value = int(skipped), float(loss)
    return IterationLogged(
        int(iteration),
        int(total),
        None if left_out and value == 0.0 else value,
        float(rate),
        float(ms),
        float(samples),
        left_out,
        int(nan),
        {m["name"]: float(m["value"]) for m in _LOSS.finditer(others)} if others else {},
        None if scale is None else float(scale),
    )


# --- all other lines: what to look for, and what it means ---


def _validation(match: re.Match[str]) -> Event:
    iteration = match["iteration"]
    split = "test" if match["split"] == "test" else "validation"
    return ValidationLogged(int(iteration) if iteration else None, float(match["value"]), split)


def _rank_died(code: int, line: str) -> Event:
    if code >= 0:
        return ErrorLogged(f"a rank exited with code {code}", (line,))
    known = -code in set(signal.Signals)
    return ErrorLogged(
        f"a rank was killed by signal {-code}{f' ({signal.Signals(-code).name})' if known else ''}", (line,)
    )


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Event]], ...] = tuple(
    (re.compile(pattern), event)
    for pattern, event in (
        (
            r"(?P<split>validation|test) results at (?:iteration (?P<iteration>\d+)|the end of training[^|]*?) "
            r"\| lm_loss value: (?P<value>-?\d\.\d{6}E[+-]\d{2,3}|[+-]?(?:NAN|INF))",
            _validation,
        ),
        (r"Loading checkpoint and starting from iteration (\d+)", lambda m: ResumedAt(int(m[1]))),
        (r"Checkpoint (global_step\d+) is ready now!", lambda m: CheckpointSaved(m[1])),
        (r"exiting the program at iteration (\d+)", lambda m: StoppedAt(int(m[1]))),
        (r"Unable to load checkpoint\.", lambda m: LoadFailed(m[0])),
        (r"Unable to load optimizer from checkpoint .*", lambda m: LoadFailed(m[0].strip())),
    )
)

# deepspeed/launcher/launch.py, once the ranks are gone.  A rank that a signal killed could not say so itself; an exit
# code adds something only where no rank said anything.
_RETURN_CODE = re.compile(r"exits with return code = (-?[1-9]\d*)")
_ONCE = (CheckpointSaved, LoadFailed, ErrorLogged)  # every rank says these


class LogParser:
    """Reads one launch's output.  Keeps state (half lines, open tracebacks, what other ranks said already).

    Messages that several ranks repeat give one event.  A chained traceback gives one event for each exception, the
    outermost last.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._tracebacks = TracebackReader()
        self._seen: set[tuple[type, str]] = set()

    def feed(self, line: str) -> list[Event]:
        """The events that ``line`` completes, in the order of the text; most lines have none."""
        if not self._held and not self._tracebacks.is_open and (whole := _WHOLE.fullmatch(line)):
            return [_whole_line(*whole.groups())]
        text = _ANSI.sub("", line).replace("\r", " ").rstrip("\n")
        if _ECHO.search(text):
            return self._new(self._death(text))  # the launcher quotes the dead rank's whole command line
        events = self._iterations(text)
        events += [build(match) for pattern, build in _RULES if (match := pattern.search(text))]
        events += self._errors(text)
        return self._new(events)

    def _errors(self, text: str) -> list[Event]:
        raised = self._tracebacks.feed(text)
        if raised is not None:
            return [raised]
        alone = stands_alone(text)
        if alone is not None:
            return [ErrorLogged(alone, (text.strip()[:_MAX_SHOWN],))]
        return self._death(text)

    def _death(self, text: str) -> list[Event]:
        died = _RETURN_CODE.search(text)
        if died and (int(died[1]) < 0 or not any(kind is ErrorLogged for kind, _ in self._seen)):
            return [_rank_died(int(died[1]), died[0])]
        return []

    def close(self) -> list[Event]:
        """Call at the end of the output: an iteration line that was never completed, with what it has."""
        held, self._held = self._held, []
        return [_iteration_event("".join(held))] if held else []

    def _iterations(self, text: str) -> list[Event]:
        starts = [match.start() for match in _ANCHOR.finditer(text)]
        if not starts:
            return self._continue_held(text) if self._held else []
        events = self.close()
        # What stands before an anchor (samples/sec) belongs to it, back to the end of the line before.
        ends = [match.end() for match in _LINE_END.finditer(text)]
        begin = 0
        for number, start in enumerate(starts):
            limit = starts[number + 1] if number + 1 < len(starts) else len(text)
            end = next((e for e in ends if start < e <= limit), None)
            if end is None and limit == len(text):
                self._held = [text[begin:]]
            else:
                events.append(_iteration_event(text[begin : end or limit]))
            begin = end or limit
        return events

    def _continue_held(self, text: str) -> list[Event]:
        """An iteration line was cut by a line break of another rank: its rest is in one of the next lines."""
        self._held.append(text)
        if _LINE_END.search(text) or len(self._held) > _MAX_LINES_HELD:
            return self.close()
        return []

    def _new(self, events: Iterable[Event]) -> list[Event]:
        return [event for event in events if self._is_new(event)]

    def _is_new(self, event: Event) -> bool:
        if not isinstance(event, _ONCE):
            return True
        text = event.tag if isinstance(event, CheckpointSaved) else re.sub(r"\d+", "#", event.message)
        key = (type(event), text)
        if key in self._seen or len(self._seen) >= _MAX_MESSAGES:
            return False
        self._seen.add(key)
        return True


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """All events of a finished output."""
    parser = LogParser()
    for line in lines:
        yield from parser.feed(line)
    yield from parser.close()


def read_log(path: Path) -> Iterator[Event]:
    """All events of a log file.  Bytes that are no UTF-8 are replaced, not refused, endless lines read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from read_events(iter(lambda: stream.readline(_MAX_READ), ""))
