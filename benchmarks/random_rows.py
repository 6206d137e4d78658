# SPDX-License-Identifier: Apache-2.0
"""What a random value and a byte of CRC-32 cost, beside NumPy's own normals and zlib, in the same run.

    python benchmarks/random_rows.py [--width 2048] [--chunk-rows 128] [--chunks 50] [--rounds 7]

Every contender works on one chunk after the other, on one thread and on two; contenders take turns, round by round.
Printed are medians, and each as a ratio to GAFF's: 2.00 takes twice as long.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import threading
import time
import zlib
from collections.abc import Callable

import numpy as np

from gaff.checkpoint.crc import crc32
from gaff.checkpoint.random_rows import key_for, open_uniform, standard_normal

THREADS = (1, 2)
Work = Callable[[int, int], object]  # (thread, chunk) -> result, thrown away


def seconds(work: Work, threads: int, chunks: int) -> float:
    """How long ``threads`` take for ``chunks`` each."""

    def run(thread: int) -> None:
        for chunk in range(chunks):
            work(thread, chunk)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def drawn(method: Callable[..., object], rows: int, width: int) -> Work:
    key = key_for("benchmark")
    return lambda thread, chunk: method(key, (1000 * thread + chunk) * rows, rows, width)


def numpy_normals(bits: type[np.random.BitGenerator], shape: tuple[int, int]) -> Work:
    generators = [np.random.Generator(bits(number)) for number in THREADS]
    return lambda thread, _: generators[thread].standard_normal(shape, dtype=np.float32)


def compare(title: str, unit: str, contenders: dict[str, Work], size: int, arguments: argparse.Namespace) -> None:
    """Time the contenders by turns and print them; the first is the one that the others are compared with.

    ``size`` is how many values or bytes a chunk has; ``unit`` is ``ns/value`` or ``GB/s``, over all threads together.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for work in contenders.values():
        work(0, 0)  # tables, imports
    for _ in range(arguments.rounds):
        for name, work in contenders.items():
            for threads in THREADS:
                taken = seconds(work, threads, arguments.chunks)
                times.setdefault((name, threads), []).append(taken / (threads * arguments.chunks * size))
    print(f"\n{title:<38}" + "".join(f"{f'{t} thread(s)':>16}{'ratio':>8}" for t in THREADS))
    best = next(iter(contenders))
    for name in contenders:
        line = f"{name:<38}"
        for threads in THREADS:
            each = statistics.median(times[name, threads])
            shown = each * 1e9 if unit == "ns/value" else 1e-9 / each
            line += f"{f'{shown:.2f} {unit}':>16}{each / statistics.median(times[best, threads]):8.2f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--chunk-rows", type=int, default=128)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows, width = shape = (arguments.chunk_rows, arguments.width)
    print(f"{platform.machine()}, NumPy {np.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}, chunks of {rows} x {width}")
    contenders = {
        "gaff standard_normal": drawn(standard_normal, rows, width),
        "gaff open_uniform": drawn(open_uniform, rows, width),
        "numpy standard_normal, PCG64": numpy_normals(np.random.PCG64, shape),
        "numpy standard_normal, PCG64DXSM": numpy_normals(np.random.PCG64DXSM, shape),
        "numpy standard_normal, Philox": numpy_normals(np.random.Philox, shape),
    }
    compare("float32 values", "ns/value", contenders, rows * width, arguments)
    data = np.random.default_rng(0).bytes(4 * rows * width)
    checksums: dict[str, Work] = {
        "gaff crc32 (isal where installed)": lambda *_: crc32(data),
        "zlib.crc32": lambda *_: zlib.crc32(data),
    }
    compare("CRC-32 of bytes in cache", "GB/s", checksums, len(data), arguments)


if __name__ == "__main__":
    main()
