"""Checkpoints written beside training, by a thread of their own.

The training loop only copies its tensors; turning them into files, hashing them and waiting for
the disk happens while the next steps run. One checkpoint is under way at a time.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError
from minitx.files import sync_directory, sync_file


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, by file name; nothing in it may change any more."""

    step: int
    best_step: int | None  # Of the best checkpoint so far, perhaps this one.
    files: dict[str, bytes]
    tensors: dict[str, dict[str, Tensor]]  # Of the safetensors files.


def write_checkpoint(run: RunDirectory, snapshot: Snapshot, keep: int) -> Path:
    """Write one checkpoint durably, move the pointers to it, and prune the old.

    At every instant the run has its earlier checkpoints whole, and the new one is either absent
    or whole.

    Raises:
        OSError: the new one is absent.
    """
    final = run.checkpoint(snapshot.step)
    beside = final.with_name(f".{final.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        for name, content in snapshot.files.items():
            (beside / name).write_bytes(content)
        for name, tensors in snapshot.tensors.items():
            save_file(tensors, beside / name, metadata={"format": "pt"})
        (beside / MANIFEST).write_bytes(manifest_bytes(beside, snapshot.step, snapshot.best_step))
        for path in beside.iterdir():
            sync_file(path)
        sync_directory(beside)
        for path in filter(Path.exists, (run.metrics_file, run.film_file)):
            # No checkpoint without the lines before it, also after a power cut.
            sync_file(path)
        _replace_directory(beside, final)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_directory(final.parent)
    run.point("last", snapshot.step)
    if snapshot.best_step == snapshot.step:
        run.point("best", snapshot.step)
    run.prune(keep)
    return final


class CheckpointWriter:
    """Writes snapshots in the background, one at a time, in order; see `RunDirectory.prune`."""

    def __init__(self, run: RunDirectory, keep: int) -> None:
        self._run = run
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._written: list[tuple[int, Path]] = []

    def submit(self, snapshot: Snapshot) -> None:
        """Start writing; waits for the snapshot before, if that is still under way.

        Raises:
            BadInputError: the one before could not be written.
        """
        self.wait()
        # A daemon, so that a second Ctrl-C does not wait for a slow disk: half a checkpoint is
        # none, and the next resume clears it away.
        self._thread = threading.Thread(
            target=self._write, args=(snapshot,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises:
            BadInputError: the last one could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise BadInputError(
                f"a checkpoint in {self._run.checkpoint_root} can't be written "
                f"({error.strerror or error})",
                "Free some space or restore access, then continue with minitx resume; the "
                "checkpoints before it are whole",
            ) from error

    def written(self) -> list[tuple[int, Path]]:
        """Steps and directories that reached the disk since the last call."""
        done, self._written = self._written, []
        return done

    def _write(self, snapshot: Snapshot) -> None:
        try:
            path = write_checkpoint(self._run, snapshot, self._keep)
        except OSError as error:
            self._error = error
        except Exception as error:
            # safetensors tells a full disk with an exception type of its own.
            self._error = OSError(str(error))
        else:
            self._written.append((snapshot.step, path))


def _replace_directory(new: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        # The same step again, after a resume: the old one makes room in one rename.
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
