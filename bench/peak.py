"""What the processor's arithmetic units do at most, measured by a loop that stays in registers."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

# Sums that don't wait for each other: more than the processor has under way at once. A vector is
# the widest that there is, and no vector goes to memory.
_SOURCE = """
#if defined __AVX512F__
#define LANES 16
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#define SUMS 12
typedef float vec __attribute__((vector_size(4 * LANES)));

double run(long turns, float factor, float added) {
    vec sum[SUMS] = {0}, all = {0};
    /* Each is another number: of equal ones, compilers compute one. */
    for (int i = 0; i < SUMS; i++) sum[i] += (float)i;
    for (long turn = 0; turn < turns; turn++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * factor + added;
    for (int i = 0; i < SUMS; i++) all += sum[i] * (float)i;
    float one = 0;
    for (int lane = 0; lane < LANES; lane++) one += all[lane];
    return one;
}

long operations(void) { return 2L * SUMS * LANES; }
"""

_TURNS = 5_000_000


def float32_peak(repeats: int = 3) -> float:
    """Float32 operations a second in as many threads as torch has, the best of several.

    A multiplication and an addition are two. Not a number without a C compiler.
    """
    compiled = _compiled()
    if compiled is None:
        return float("nan")
    threads = torch.get_num_threads()
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            # Calls of C run side by side.
            list(pool.map(lambda _: compiled.run(_TURNS, 0.999, 0.001), range(threads)))
            best = min(best, time.perf_counter() - start)
    return threads * _TURNS * compiled.operations() / best


@functools.cache
def _compiled() -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        source, library = Path(temporary) / "peak.c", Path(temporary) / "peak.so"
        source.write_text(_SOURCE)
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC"]
        command = [compiler, *flags, str(source), "-o", str(library)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        loaded = ctypes.CDLL(str(library))
    loaded.run.restype = ctypes.c_double
    loaded.run.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loaded.operations.restype = ctypes.c_long
    return loaded
