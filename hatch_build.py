"""Compile `src/minitx/fast/kernels/*.c` when minitx is installed, where there is a C compiler.

Each processor family gets a library of its own, and `minitx.fast.library` loads the one that fits.
Without a compiler nothing is built, and minitx computes the same with PyTorch and NumPy, slower.
`CC` names the compiler; one for another processor or system makes a wheel for that one.
To compile again after a change to a C file: python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

KERNELS = Path(__file__).parent / "src" / "minitx" / "fast" / "kernels"

# Sums may be reordered into vectors; infinities and NaN keep their meaning.
FLAGS = ["-std=gnu11", "-O3", "-fvisibility=hidden"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]

X86 = {
    "avx512-bf16": ["-march=x86-64-v4", "-mavx512bf16", "-mprefer-vector-width=512"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
}
"""Families of x86-64 beside `plain`, which is what every processor of a kind has: SSE2, or NEON."""


class Compiler(NamedTuple):
    """A C compiler, and for what it compiles, for example ``x86_64-linux-gnu``."""

    command: list[str]
    target: str
    is_clang: bool

    @property
    def families(self) -> dict[str, list[str]]:
        """Those of its target, and what makes it compile for them."""
        return {**(X86 if self.target.startswith("x86_64") else {}), "plain": []}

    @property
    def suffix(self) -> str:
        """Of a library's name."""
        return ".dll" if "windows" in self.target or "mingw" in self.target else ".so"

    @property
    def openmp(self) -> tuple[list[str], list[str]]:
        """Flags to compile and to link with.

        The runtime is torch's own, which has been loaded when the kernels are: a second one would
        have threads of its own, and they would wait for each other. Clang on Linux needs LLVM's.
        On Windows nothing can be left open until then, and the kernels get one thread.
        """
        if self.suffix == ".dll":
            return [], []
        if "darwin" in self.target:
            return ["-Xclang", "-fopenmp"], []
        return ["-fopenmp"], ["-fopenmp"] if self.is_clang else []


class NativeBuildHook(BuildHookInterface):
    """Called by hatchling for each wheel, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make it a wheel for the compiler's platform if that gave anything."""
        if self.target_name == "wheel" and compile_all():
            build_data["artifacts"] += [f"src/minitx/fast/kernels/*{s}" for s in (".so", ".dll")]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag(_compiler())}"


def compile_all(families: tuple[str, ...] = (), into: Path = KERNELS) -> list[Path]:
    """Build the libraries of all families, or of some.

    Returns:
        Those there are now; empty without a working compiler, or with `MINITX_KERNELS=none`.
    """
    for old in (*into.glob("kernels_*.so"), *into.glob("kernels_*.dll")):
        old.unlink()
    compiler = _compiler()
    if compiler is None or os.environ.get("MINITX_KERNELS") == "none":
        return []
    wanted = {f: flags for f, flags in compiler.families.items() if not families or f in families}
    built = (_compile(compiler, family, flags, into) for family, flags in wanted.items())
    return [library for library in built if library is not None]


def _compile(compiler: Compiler, family: str, flags: list[str], into: Path) -> Path | None:
    library = into / f"kernels_{family}{compiler.suffix}"
    flags = [*flags, *([] if compiler.suffix == ".dll" else ["-fPIC"])]
    link = ["-undefined", "dynamic_lookup"] if "darwin" in compiler.target else []
    # A compiler without OpenMP still gives kernels, for one thread.
    for compile_openmp, link_openmp in (compiler.openmp, ([], [])):
        with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [
                [*compiler.command, *FLAGS, *flags, *compile_openmp, "-c", str(source),
                 "-o", f"{objects}/{source.stem}.o"]
                for source in sorted(KERNELS.glob("*.c"))
            ]  # fmt: skip
            if not all(pool.map(_succeeds, commands)):
                continue
            made = [command[-1] for command in commands]
            if _succeeds(
                [*compiler.command, "-shared", *link, *link_openmp, *made, "-o", str(library)]
                + ([] if compiler.suffix == ".dll" else ["-lm"])
            ):
                return library
    return None


def _compiler() -> Compiler | None:
    named = shlex.split(os.environ.get("CC", "").replace(os.sep, "/"))  # Windows has others
    command = named or [shutil.which("cc") or shutil.which("clang") or ""]
    try:
        target, version = (
            subprocess.run([*command, flag], capture_output=True, text=True, check=True).stdout
            for flag in ("-dumpmachine", "--version")
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return Compiler(command, target.strip(), "clang" in version)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _platform_tag(compiler: Compiler | None) -> str:
    # This platform's, with the machine that was compiled for: `linux-x86_64`, `macosx-11.0-arm64`.
    tag, machine = sysconfig.get_platform(), compiler.target.split("-")[0] if compiler else ""
    if platform.system() != "Windows":
        tag = f"{tag.rpartition('-')[0]}-{machine}"
    return tag.replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    print("\n".join(map(str, compile_all())) or "nothing was built: no working C compiler")
    sys.exit(0)
