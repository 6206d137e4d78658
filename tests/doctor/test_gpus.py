# SPDX-License-Identifier: Apache-2.0
"""Reading ``nvidia-smi``: in the forms it has on real machines, through a program that answers as it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gaff.doctor.gpus import look, parse_cuda, parse_gpus, parse_processes, parse_slices
from tests.doctor.conftest import a100s

Programs = Callable[..., dict[str, str]]

TWO = """\
0, GPU-5f1c0e2a-1111-2222-3333-444455556666, NVIDIA A100-SXM4-80GB, 81920, 4, 535.104.05, Disabled, 8.0
1, GPU-77aa0e2a-1111-2222-3333-444455556666, NVIDIA A100-SXM4-80GB, 81920, 20313, 535.104.05, Disabled, 8.0
"""
BANNER = """\
Sat Nov 21 15:00:00 2026
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.104.05             Driver Version: 535.104.05   CUDA Version: 12.2     |
|-----------------------------------------+----------------------+----------------------+
"""
LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
# What a driver of the 470s says to --query-gpu=…,compute_cap
OLD_DRIVER = """\
case "$1" in
  --query-gpu=*compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
  --query-gpu=*) echo '0, GPU-1, Tesla V100-SXM2-16GB, 16160, 0, 470.82.01, [N/A]';;
  --query-compute-apps=*) ;;
  *) echo 'CUDA Version: 11.4';;
esac
"""


def test_gpus_are_read_from_csv() -> None:
    first, second = parse_gpus(TWO)
    assert (first.index, first.name, first.memory, first.capability) == (0, "NVIDIA A100-SXM4-80GB", 80 << 30, (8, 0))
    assert (second.used, second.mig, second.uuid[:8]) == (20313 << 20, False, "GPU-77aa")


def test_values_that_a_driver_does_not_know_are_nothing() -> None:
    (gpu,) = parse_gpus("0, GPU-1, NVIDIA GB10, [N/A], [N/A], 580.95.05, [N/A], 12.1\n")
    assert (gpu.memory, gpu.used, gpu.mig, gpu.capability) == (0, 0, False, (12, 1))


def test_a_name_with_a_comma_is_quoted_in_csv() -> None:
    (process,) = parse_processes('GPU-1, 4242, "/opt/my, python", 1024\n')
    assert (process.pid, process.name, process.used) == (4242, "/opt/my, python", 1 << 30)


def test_the_cuda_version_stands_in_the_banner() -> None:
    assert parse_cuda(BANNER) == (12, 2)
    assert parse_cuda("no driver") == ()


def test_slices_take_their_name_from_the_gpu_above_them() -> None:
    large, small = parse_slices(LIST)
    assert (large.memory, small.memory) == (20_000_000_000, 5_000_000_000)
    assert large.name == "NVIDIA A100-SXM4-40GB 3g.20gb"
    assert small.uuid == "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"


def test_a_machine_without_nvidia_smi(programs: Programs) -> None:
    gpus = look(programs())
    assert (gpus.asked, gpus.found, gpus.trouble) == (False, (), None)


def test_an_old_driver_is_asked_again_without_what_it_does_not_know(programs: Programs) -> None:
    gpus = look(programs(nvidia_smi=OLD_DRIVER))
    assert [(gpu.name, gpu.capability) for gpu in gpus.found] == [("Tesla V100-SXM2-16GB", ())]
    assert (gpus.driver, gpus.cuda) == ((470, 82, 1), (11, 4))


def test_a_driver_that_does_not_answer_is_told_in_its_own_words(programs: Programs) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    gpus = look(programs(nvidia_smi=f'echo "{said}"; exit 9'))
    assert (gpus.found, gpus.trouble) == ((), said)


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("1,9,2", [1]),  # CUDA stops at the first that is not there
        ("GPU-a3", [3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_shows_to_a_process(listed: str | None, seen: list[int]) -> None:
    environment = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert [gpu.index for gpu in a100s(4).visible(environment)] == seen
