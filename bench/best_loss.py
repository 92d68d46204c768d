"""The best holdout loss on tiny Shakespeare, past nanoGPT's figure for a GPU.

python bench/best_loss.py --corpus FILE

The protocol: recipes are compared with --validate, which never opens the holdout: it cuts the last
tenth off the train part and holds that out instead. Then this runs once without it. The last
checkpoint counts, not the best, so that nothing is chosen by the holdout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Result, Table, Target, publish

NANOGPT_GPU = 1.4697
"""nanoGPT's README: the best validation loss of train_shakespeare_char on a GPU."""

AIM = 1.44


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="tiny Shakespeare")
    parser.add_argument("--budget", default="28m", help="of minitx train")
    parser.add_argument("--validate", action="store_true", help="hold out a part of the train part")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    given, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        text = given.corpus.read_text()
        corpus = work / "corpus.txt"
        corpus.write_text(text[: int(len(text) * 0.9)] if given.validate else text)
        command = ["minitx", "train", str(corpus), "--kind", "char"]
        command += ["--budget", given.budget, *flags]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", *command, "--out", str(work / "run")],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        publish(_result(work / "run", seconds, given, flags), given.out)


def _result(run: Path, seconds: float, given: argparse.Namespace, flags: list[str]) -> Result:
    from minitx.checkpoint.huggingface import load_model
    from minitx.checkpoint.rundir import RunDirectory
    from minitx.corpus import load_encoded
    from minitx.evaluation.scoring import score, windows_for

    directory = RunDirectory.open(run)
    config = directory.read_config()
    model = load_model(directory.usable_checkpoint("last")).model
    ids = load_encoded(directory.data).holdout_ids
    context = config.model.context_length
    plain = score(model, ids).loss
    overlapping = score(model, ids, windows_for(model, stride=context // 4)).loss
    part = "a tenth of the train part" if given.validate else "the holdout"
    shape = f"{config.model.n_layers} layers, {config.model.d_model} wide"
    rows = [
        ["command", " ".join(["minitx train FILE --kind char --budget", given.budget, *flags])],
        ["model", f"{shape}, {config.model.n_parameters / 1e6:.1f} M parameters"],
        ["dropout", f"{config.model.dropout:g}"],
        ["steps", f"{config.train.steps:,} of {config.train.batch_size * context:,} tokens"],
        ["whole process", f"{seconds / 60:.1f} min"],
        [f"loss of {part} at context {context}, windows side by side", f"{plain:.4f}"],
        ["the same, windows overlapping by three quarters", f"{overlapping:.4f}"],
    ]
    targets = [
        Target(f"loss at context {context} below {AIM}", f"{plain:.4f}", plain < AIM),
        Target(f"past nanoGPT's {NANOGPT_GPU} on a GPU", f"{plain:.4f}", plain < NANOGPT_GPU),
    ]
    return Result(
        name="best_loss",
        title="The best loss in half an hour",
        about="One run of the planned recipe on tiny Shakespeare in characters. Recipes were "
        "compared on a slice cut from the train part; the holdout, the last tenth, was scored "
        "once, with the last checkpoint, in nats per character.",
        tables=[Table("The run:", ["what", "value"], rows)],
        targets=[] if given.validate else targets,
        raw={"loss": plain, "overlapping": overlapping, "seconds": seconds, "context": context},
    )


if __name__ == "__main__":
    main()
