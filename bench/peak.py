"""What the processor does at most: arithmetic that stays in registers, and torch's products."""

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
from harness import held_to_avx2

SIZES = (384, 512, 768, 1024, 1536, 2048, 3072)
"""Of square matrices: which of them a library multiplies fastest differs by processor."""

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

static double total(vec sum[SUMS]) {
    vec all = {0};
    for (int i = 0; i < SUMS; i++) all += sum[i] * (float)i;
    float one = 0;
    for (int lane = 0; lane < LANES; lane++) one += all[lane];
    return one;
}

double run_float32(long turns, float factor, float added) {
    vec sum[SUMS] = {0};
    /* Each is another number: of equal ones, compilers compute one. */
    for (int i = 0; i < SUMS; i++) sum[i] += (float)i;
    for (long turn = 0; turn < turns; turn++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * factor + added;
    return total(sum);
}

long operations_float32(void) { return 2L * SUMS * LANES; }

#ifdef __AVX512BF16__
#include <immintrin.h>

/* Each lane adds the products of two pairs. */
double run_bfloat16(long turns, float factor, float added) {
    vec sum[SUMS] = {0};
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor), _mm512_set1_ps(added));
    for (int i = 0; i < SUMS; i++) sum[i] += (float)i;
    for (long turn = 0; turn < turns; turn++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = (vec)_mm512_dpbf16_ps((__m512)sum[i], a, a);
    return total(sum);
}

long operations_bfloat16(void) { return 4L * SUMS * LANES; }
#endif
"""

_TURNS = 5_000_000


def arithmetic_peak(dtype_name: str = "float32", repeats: int = 40) -> float:
    """Operations a second in registers, in as many threads as torch has, the best of several.

    A multiplication and an addition are two. In bfloat16 they are the products of AVX512-BF16,
    added up in float32. Not a number without a C compiler, or without such products.
    """
    compiled = _compiled()
    run = getattr(compiled, f"run_{dtype_name}", None)
    if run is None:
        return float("nan")
    run.restype = ctypes.c_double
    run.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    operations = getattr(compiled, f"operations_{dtype_name}")
    operations.restype = ctypes.c_long
    threads = torch.get_num_threads()
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            # Calls of C run side by side.
            list(pool.map(lambda _: run(_TURNS, 0.999, 0.001), range(threads)))
            best = min(best, time.perf_counter() - start)
    return threads * _TURNS * operations() / best


def float32_peak(repeats: int = 40) -> float:
    """`arithmetic_peak` in float32."""
    return arithmetic_peak("float32", repeats)


def product_peak(dtype_name: str, seconds: float = 0.4) -> tuple[float, int]:
    """Best rate of torch's products of square matrices, and the size that has it.

    Args:
        dtype_name: format of the matrices.
        seconds: for each size of `SIZES`.

    Returns:
        Floating-point operations a second, and the rows of the matrices.
    """
    rates = []
    for size in SIZES:
        best = _fastest_product(dtype_name, size, seconds)
        rates.append((2.0 * size**3 / best, size))
        # Where a format is imitated, larger matrices would take minutes.
        if best > seconds:
            break
    return max(rates)


def _fastest_product(dtype_name: str, size: int, seconds: float) -> float:
    a = torch.ones(size, size, dtype=getattr(torch, dtype_name))
    # The first product of a format also prepares.
    torch.mm(a, a)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return best


@functools.cache
def _compiled() -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        return None
    march = "x86-64-v3" if held_to_avx2() else "native"
    with tempfile.TemporaryDirectory() as temporary:
        source, library = Path(temporary) / "peak.c", Path(temporary) / "peak.so"
        source.write_text(_SOURCE)
        flags = ["-O3", f"-march={march}", "-mprefer-vector-width=512", "-shared", "-fPIC"]
        command = [compiler, *flags, str(source), "-o", str(library)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        return ctypes.CDLL(str(library))
