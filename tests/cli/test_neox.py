# SPDX-License-Identifier: Apache-2.0
"""``gaff neox info``, and the command line of ``gaff neox install``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaff.cli.main import main
from gaff.doctor.subject import EMPTY
from gaff.trainers.neox.versions import PINNED_COMMIT
from gaff.trainers.select import find_neox
from tests.trainers.neox.install_parts import git, write_repository, write_tree


@pytest.fixture(autouse=True)
def _nothing_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPT_NEOX_DIR", "GPT_NEOX_PYTHON", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GAFF_HOME", str(tmp_path / "home"))


def install_by_hand(home: Path, name: str, checkout: Path, python: str, completed: str | None) -> Path:
    """What `gaff neox install` leaves behind, as far as it is read."""
    root = home / "neox" / name
    (root / "extensions" / "fused_adam").mkdir(parents=True)
    (root / "extensions" / "fused_adam" / "fused_adam.so").touch()
    record = {
        "schema": "gaff.neox-installation/1",
        "commit": None,
        "device": "cpu",
        "checkout": str(checkout),
        "python": python,
        "extensions": str(root / "extensions"),
        "completed": completed,
        "steps": {},
    }
    (root / "installation.json").write_text(json.dumps(record))
    return root


def bare_python(path: Path, missing: list[str]) -> Path:
    """Answers as a Python with GPT-NeoX's packages would, for the tests that only ask."""
    answer: dict[str, Any] = {
        "python": [3, 11, 7],
        "executable": str(path),
        "missing": missing,
        "versions": {"torch": "2.13.0+cpu", "deepspeed": "0.1"},
        "include": "/nowhere",
        "bindir": "",
        "suffix": ".cpython-311.so",
        "can_make": True,
    }
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(answer)}\nE\n")
    path.chmod(0o755)
    return path


def info(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code = main(["neox", "info", "--json", *map(str, arguments)])
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "gaff.neox-info/1"
    return code, found


def test_where_there_is_none_the_command_that_gets_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neox", "info"]) == 1
    assert "gaff neox install --cpu" in capsys.readouterr().out
    code, found = info(capsys)
    assert (code, found["in_use"], found["installations"]) == (1, None, [])


def test_an_option_wins_over_the_environment_and_that_over_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trees = {name: write_tree(tmp_path / name) for name in ("installed", "older", "named", "option")}
    python = bare_python(tmp_path / "python", [])
    home = tmp_path / "home"
    install_by_hand(home, "a-cpu", trees["installed"], str(python), "2026-01-02T00:00:00+00:00")
    install_by_hand(home, "b-cpu", trees["older"], str(python), "2026-01-01T00:00:00+00:00")
    install_by_hand(home, "c-cpu", trees["option"], str(python), None)
    install_by_hand(home, "d-cpu", tmp_path / "gone", str(python), "2026-01-03T00:00:00+00:00")

    code, found = info(capsys)
    used = found["in_use"]
    assert code == 0
    assert (used["checkout"], used["named_by"]) == (str(trees["installed"]), "gaff neox install")
    assert (used["python"]["executable"], used["ops"]) == (str(python), ["fused_adam"])
    assert [one["usable"] for one in found["installations"]] == [True, True, False, False]

    monkeypatch.setenv("GPT_NEOX_DIR", str(trees["named"]))
    _, found = info(capsys)
    assert (found["in_use"]["checkout"], found["in_use"]["named_by"]) == (str(trees["named"]), "GPT_NEOX_DIR")
    assert found["in_use"]["python"]["executable"] == sys.executable
    assert found["in_use"]["extensions"] is None

    monkeypatch.setenv("GPT_NEOX_DIR", str(trees["older"]))  # named, and installed for: run by what was installed
    assert info(capsys)[1]["in_use"]["python"]["executable"] == str(python)

    _, found = info(capsys, "--neox-dir", trees["option"])
    assert (found["in_use"]["checkout"], found["in_use"]["named_by"]) == (str(trees["option"]), "--neox-dir")
    assert found["in_use"]["python"]["executable"] == sys.executable  # that installation is not complete


def test_state_of_checkout_and_packages_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_repository(tmp_path / "gpt-neox")
    (tree / "train.py").write_text("changed\n")
    python = bare_python(tmp_path / "python", ["ftfy", "pkg_resources"])
    monkeypatch.setenv("GPT_NEOX_PYTHON", str(python))
    code, found = info(capsys, "--neox-dir", tree)
    used = found["in_use"]
    assert code == 1
    assert (used["commit"], used["pinned"]) == (git(tree, "rev-parse", "HEAD"), False)
    assert used["commit"] != PINNED_COMMIT
    assert used["changes"] == ["M train.py"]
    assert used["python"]["missing"] == ["ftfy", "setuptools<80"]
    assert used["python"]["versions"]["torch"] == {"version": "2.13.0+cpu", "tested": True}
    assert used["python"]["versions"]["deepspeed"] == {"version": "0.1", "tested": False}
    assert not used["helper_built"]
    (tree / "megatron" / "data" / "helpers.cpython-311.so").touch()
    assert info(capsys, "--neox-dir", tree)[1]["in_use"]["helper_built"]

    assert main(["neox", "info", "--neox-dir", str(tree)]) == 1
    said = capsys.readouterr().out
    assert "ops      in torch's own directory" in said
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tree))
    assert main(["neox", "info", "--neox-dir", str(tree)]) == 1
    assert "ops      none compiled" in capsys.readouterr().out
    assert "1 differ: M train.py" in said
    assert "deepspeed 0.1 (not tested)" in said
    assert f"gaff neox install --source {tree}" in said


def test_a_directory_that_is_no_gpt_neox_or_a_python_that_does_not_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["neox", "info", "--neox-dir", str(tmp_path)]) == 1
    assert "is no GPT-NeoX checkout" in capsys.readouterr().out
    monkeypatch.setenv("GPT_NEOX_PYTHON", str(tmp_path / "none"))
    assert main(["neox", "info", "--neox-dir", str(write_tree(tmp_path / "tree"))]) == 1
    assert "does not run" in capsys.readouterr().out


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neox", "install", "--cpu", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["commit"] == PINNED_COMMIT
    assert "MB installed" in captured.err
    assert not (tmp_path / "home").exists()


def test_a_wrong_source_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neox", "install", "--source", "/no/such/place"]) == 2
    assert capsys.readouterr().err == (
        "gaff: /no/such/place: there is no such directory, and it is no URL either; "
        "name a GPT-NeoX checkout or git repository.\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--home", "~no-such-user/x"], "the system knows no home directory `~no-such-user`"),
        (["--source", "~no-such-user/x"], "the system knows no home directory `~no-such-user`"),
        (["--torch", "torch=='2"], "cannot be read as a shell does"),
        (["--torch", "--index-url URL"], "--torch names no torch"),
        (["--torch", " "], "--torch names no torch"),
        (["--python", "no-such-python"], "no-such-python does not run as a Python (No such file or directory)"),
    ],
)
def test_wrong_options_are_one_sentence_each(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["neox", "install", "--cpu", "--dry-run", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


def test_options_given_empty_count_as_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neox", "install", "--cpu", "--dry-run", "--ref", "", "--source", "", "--python", ""]) == 0
    assert PINNED_COMMIT[:12] in capsys.readouterr().out


def test_a_home_that_cannot_be_known_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAFF_HOME", "~no-such-user/x")
    assert main(["neox", "info"]) == 2
    assert "write the path in full" in capsys.readouterr().err


def test_info_takes_a_tilde_as_install_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert info(capsys, "--home", "~/x")[1]["home"] == str(tmp_path / "x")


def test_a_record_that_lacks_half_is_no_installation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "home" / "neox" / "x"
    root.mkdir(parents=True)
    (root / "installation.json").write_text('{"schema": "gaff.neox-installation/1", "checkout": 5}')
    assert info(capsys)[1]["installations"] == []


def test_info_describes_what_a_run_on_gpus_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = str(bare_python(tmp_path / "python", []))
    trees = {name: write_tree(tmp_path / name) for name in ("gpu", "cpu")}
    install_by_hand(tmp_path / "home", "a-cpu", trees["cpu"], python, "2026-01-02T00:00:00+00:00")
    older = install_by_hand(tmp_path / "home", "a", trees["gpu"], python, "2026-01-01T00:00:00+00:00")
    record = json.loads((older / "installation.json").read_text())
    (older / "installation.json").write_text(json.dumps({**record, "device": "gpu"}))
    found = find_neox(EMPTY, None, cpu=False)
    assert found is not None
    assert info(capsys)[1]["in_use"]["checkout"] == str(found.root) == str(trees["gpu"])


def test_remedies_of_info_work_when_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, home = write_tree(tmp_path / "a tree"), tmp_path / "other home"
    monkeypatch.setenv("GPT_NEOX_PYTHON", str(bare_python(tmp_path / "python", ["ftfy"])))
    main(["neox", "info", "--neox-dir", str(tree), "--home", str(home)])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "mend it" in line]
    assert f"unset GPT_NEOX_PYTHON; gaff neox install --home '{home}' --source '{tree}'" in line
    monkeypatch.setenv("GPT_NEOX_PYTHON", str(tmp_path / "none"))
    main(["neox", "info", "--neox-dir", str(tree)])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "mend it" in line]
    assert line.split(maxsplit=2)[2] == "unset GPT_NEOX_PYTHON, or name another there"


def test_paths_that_standard_output_cannot_show_are_no_crash(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "GAFF_HOME": str(tmp_path / "h\u00e9")}
    done = subprocess.run([sys.executable, "-m", "gaff", "neox", "info"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"/h?" in done.stdout
