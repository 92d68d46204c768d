"""Compile `src/minitx/fast/kernels/*.c` when minitx is installed, where there is a C compiler.

Each processor family gets a library of its own, and `minitx.fast.library` loads the one that fits.
Without a compiler nothing is built, and minitx computes the same with PyTorch and NumPy, slower.
To compile again after a change to a C file: python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

KERNELS = Path(__file__).parent / "src" / "minitx" / "fast" / "kernels"

# Sums may be reordered into vectors; infinities and NaN keep their meaning.
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]

FAMILIES = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
}


class NativeBuildHook(BuildHookInterface):
    """Called by hatchling for each wheel, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make it a wheel for this platform if that gave anything."""
        if self.target_name == "wheel" and compile_all():
            build_data["artifacts"].append("src/minitx/fast/kernels/*.so")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"


def compile_all() -> list[Path]:
    """Build the libraries.

    Returns:
        Those there are now; empty without a working compiler, or with `MINITX_NATIVE=0`.
    """
    for old in KERNELS.glob("*.so"):
        old.unlink()
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or ""]
    if os.environ.get("MINITX_NATIVE") == "0" or not compiler[0] or os.name != "posix":
        return []
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    families = {**(FAMILIES if is_x86 else {}), "plain": []}
    sources = [str(path) for path in sorted(KERNELS.glob("*.c"))]
    built = []
    for family, flags in families.items():
        library = KERNELS / f"kernels_{family}.so"
        # A compiler without OpenMP still gives kernels, for one thread.
        for openmp in (["-fopenmp"], []):
            command = [*compiler, *FLAGS, *flags, *openmp, *sources, "-o", str(library), "-lm"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                built.append(library)
                break
    return built


def _platform_tag() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    print("\n".join(map(str, compile_all())) or "nothing was built: no working C compiler")
    sys.exit(0)
