"""Generating text: tokens a second beside nanoGPT and transformers, and beside reading memory.

python bench/generation.py --nanogpt PATH --llama PATH
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from harness import Result, Samples, Table, Target, publish
from llama import LlamaProcess, missing_for_llama
from peak import float32_peak, product_peak
from peers import SHAKESPEARE_GPU
from torch import nn

from minitx import engine
from minitx.checkpoint.gguf import write_gguf
from minitx.checkpoint.huggingface import save_model
from minitx.config import ModelConfig, SamplingConfig
from minitx.config.requests import GGUFType
from minitx.generation import generate
from minitx.generation.text_reader import TextReader
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer, train_tokenizer
from minitx.tokenizer.llama_cpp import llama_vocabulary

PROMPT = "\n"
NEW_TOKENS = 250
MANY = 32
TURN_SECONDS = 0.7
RUNS_OF_MANY = 3
FEW = 50
LLAMA = "llama.cpp (node-llama-cpp)"
LLAMA_FORMATS = {"float32": "float32", "int8": "q8_0"}
GGUF_TYPES: dict[str, GGUFType] = {"float32": "f32", "q8_0": "q8_0"}
LONG_PROMPT = 255


@dataclass(frozen=True)
class Contender:
    """Something that generates text.

    Attributes:
        run: generates so many tokens for each of `texts` texts.
        texts: side by side.
        model: that we read with; None for a peer.
        weight_bytes: of each weight of its matrices where one text is read.
    """

    run: Callable[[int], object]
    texts: int = 1
    model: Transformer | None = None
    weight_bytes: int = 4

    @property
    def n_bytes(self) -> int:
        """Of weights that a step reads; 0 for a peer."""
        return 0 if self.model is None else self.weight_bytes * _n_weights(self.model)


@dataclass(frozen=True)
class Parts:
    """Microseconds of one token of one text: in the pass through the model, and in all."""

    reading: float
    token: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--llama", type=Path, help="where `npm install node-llama-cpp` was run")
    parser.add_argument("--out", type=Path, help="write the JSON here instead")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    given = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    model = _model("qwen3", tokenizer)
    contenders = _ours(model, tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        directories = {}
        for family in ("qwen3", "gpt2"):
            directories[family] = Path(temporary) / family
            directories[family].mkdir()
            save_model(directories[family], _model(family, tokenizer), tokenizer)
        contenders |= _transformers(directories)
        if given.nanogpt is not None:
            contenders["nanoGPT (no cache)"] = _nanogpt(given.nanogpt)
        contenders |= _llama(given.llama, model, tokenizer, Path(temporary))
        bandwidths: list[float] = []
        peaks: list[float] = []
        timed = _turns(contenders, given.rounds, bandwidths, peaks)
        starts = _starts(directories["qwen3"])
    one = {name: who for name, who in contenders.items() if who.model and who.texts == 1}
    found = Found(
        contenders, timed, bandwidths, peaks, _first_token(model, tokenizer), starts,
        {name: _flatness(who, tokenizer) for name, who in one.items()},
        {name: _parts(who, timed[name].median / NEW_TOKENS) for name, who in one.items()},
        _prompt(model),
    )  # fmt: skip
    publish(_result(found), given.out)


def _tokenizer() -> Tokenizer:
    letters = "".join(map(chr, range(33, 33 + SHAKESPEARE_GPU.vocabulary - 2)))
    return train_tokenizer("\n " + letters, "char", 0)


def _model(family: str, tokenizer: Tokenizer) -> Transformer:
    load = SHAKESPEARE_GPU
    gated = family == "qwen3"
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=load.context, n_layers=load.layers,
        n_heads=load.heads, n_kv_heads=load.heads, d_model=load.width,
        d_ff=round(load.width * 8 / 3 / 8) * 8 if gated else 4 * load.width,
        head_dim=load.width // load.heads, architecture="qwen3" if gated else "gpt2",
    )  # fmt: skip
    return Transformer(config).eval()


def _ours(model: Transformer, tokenizer: Tokenizer) -> dict[str, Contender]:
    one = SamplingConfig(temperature=0.8, max_new_tokens=NEW_TOKENS)
    found: dict[str, Contender] = {}
    for name, weight_bytes in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
        kept = Transformer(model.config).eval()
        kept.load_state_dict(model.state_dict())
        if name != "float32":
            engine.quantize(kept, name)
        for texts in (1, MANY):
            config = replace(one, num_samples=texts)
            label = f"minitx {name}" + (f", {texts} samples" if texts > 1 else "")
            found[label] = Contender(
                lambda n, kept=kept, config=config: generate(
                    kept, tokenizer, [PROMPT], replace(config, max_new_tokens=n)
                ),
                texts,
                kept,
                weight_bytes,
            )
    return found


def _n_weights(model: Transformer) -> int:
    # Of the matrices, which are multiplied by.
    return sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))


def _transformers(directories: Mapping[str, Path]) -> dict[str, Contender]:
    found: dict[str, Contender] = {}
    with contextlib.suppress(ImportError):
        import transformers

        transformers.logging.set_verbosity_error()
        for family, directory in directories.items():
            theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
            ids = torch.zeros(1, 1, dtype=torch.int64)

            def run(n: int, theirs=theirs, ids=ids) -> None:
                theirs.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=n,
                    min_new_tokens=n, do_sample=True, temperature=0.8, top_k=0,
                    pad_token_id=0,
                )  # fmt: skip

            found[f"transformers {transformers.__version__} {family}"] = Contender(run)
    return found


def _nanogpt(checkout: Path) -> Contender:
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    load = SHAKESPEARE_GPU
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = GPT(
            GPTConfig(
                block_size=load.context, vocab_size=load.vocabulary, n_layer=load.layers,
                n_head=load.heads, n_embd=load.width, dropout=0.0, bias=False,
            )
        ).eval()  # fmt: skip
    start = torch.zeros(1, 1, dtype=torch.int64)
    return Contender(lambda n: theirs.generate(start, n, temperature=0.8))


def _llama(
    installed: Path | None, model: Transformer, tokenizer: Tokenizer, room: Path
) -> dict[str, Contender]:
    # Each format with the number of threads that is best for it.
    found: dict[str, Contender] = {}
    if installed in (None, Path()):
        return found
    lacks = missing_for_llama(installed)
    if lacks:
        print(f"llama.cpp is left out: {lacks}", file=sys.stderr, flush=True)
        return found
    vocabulary = llama_vocabulary(tokenizer, model.config.vocab_size, ())
    for weight_format in LLAMA_FORMATS.values():
        path = room / f"{weight_format}.gguf"
        write_gguf(path, model, tokenizer, vocabulary, GGUF_TYPES[weight_format])
        best = float("inf")
        for threads in range(1, torch.get_num_threads() + 1):
            process = LlamaProcess(installed, path, threads)
            process.run(8)
            start = time.perf_counter()
            process.run(NEW_TOKENS)
            seconds = time.perf_counter() - start
            if seconds < best:
                best, found[f"{LLAMA} {weight_format}"] = seconds, Contender(process.run)
    return found


def _turns(
    contenders: Mapping[str, Contender], rounds: int, bandwidths: list[float], peaks: list[float]
) -> dict[str, Samples]:
    # In turn, with a reading of the memory's and the processor's speed in each round.
    for contender in contenders.values():
        contender.run(8)
    timed: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        bandwidths.append(_read_bandwidth())
        peaks.append(float32_peak())
        for name, contender in contenders.items():
            turn, before = time.perf_counter(), len(timed[name])
            while True:
                start = time.perf_counter()
                contender.run(NEW_TOKENS)
                timed[name].append(time.perf_counter() - start)
                runs = len(timed[name]) - before
                # The first of many texts also waits for the system to find memory for them.
                enough = contender.model is None or contender.texts == 1 or runs >= RUNS_OF_MANY
                if enough and time.perf_counter() - turn > TURN_SECONDS:
                    break
            rate = contender.texts * NEW_TOKENS / timed[name][-1]
            print(f"{name}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
    return {name: Samples(tuple(values)) for name, values in timed.items()}


def _read_bandwidth(megabytes: int = 200, repeats: int = 3) -> float:
    """Bytes a second that a sum over a long vector reads, the best of several."""
    source = torch.ones(megabytes * 250_000)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        source.sum()
        best = min(best, time.perf_counter() - start)
    return 4 * source.numel() / best


def _first_token(model: Transformer, tokenizer: Tokenizer) -> dict[int, float]:
    # Seconds to the first token after a prompt of so many tokens, in a process that has just
    # loaded: nothing is warm but what loading warms.
    found = {}
    for size in (1, 64, LONG_PROMPT):
        config = SamplingConfig(max_new_tokens=1)
        times = [
            generate(model, tokenizer, ["A" * size], config)[0].seconds_to_first_token
            for _ in range(5)
        ]
        found[size] = statistics.median(times)
    return found


@torch.inference_mode()
def _prompt(model: Transformer) -> list[float]:
    # Rates at which a long prompt is read, as parts of that of large products, in turn with them.
    config, text = model.config, [0] * LONG_PROMPT
    # A prompt's last token alone goes through the head; each looks at those before it.
    flops = 2 * LONG_PROMPT * (_n_weights(model) - model.head.weight.numel())
    flops += 2 * config.n_layers * config.n_heads * config.head_dim * LONG_PROMPT**2
    parts = []
    for _ in range(5):
        peak, best = product_peak("float32", 0.1)[0], float("inf")
        for _ in range(5):
            reader = TextReader(model)
            start = time.perf_counter()
            reader.read([text])
            best = min(best, time.perf_counter() - start)
        parts.append(flops / best / peak)
    return parts


def _starts(directory: Path) -> dict[str, float]:
    # Seconds of a whole process: torch alone, and `minitx generate` of one token.
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "minitx generate, 1 token": [
            sys.executable, "-m", "minitx", "generate", str(directory), "--prompt", "A",
            "--max-new-tokens", "1", "--device", "cpu",
        ],
    }  # fmt: skip
    found = {}
    for name, command in commands.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        # The first may have read files from the disk.
        found[name] = statistics.median(times[1:])
    return found


def _flatness(contender: Contender, tokenizer: Tokenizer) -> tuple[float, float]:
    # Tokens a second over the first and the last of a text, the median of several texts. Each
    # token is a character, so each is told at once.
    assert contender.model is not None
    config = SamplingConfig(temperature=0.8, max_new_tokens=NEW_TOKENS)
    first, last = [], []
    for _ in range(5):
        times: list[float] = []
        generate(
            contender.model, tokenizer, [PROMPT], config,
            lambda *_, times=times: times.append(time.perf_counter()),
        )  # fmt: skip
        first.append(FEW / (times[FEW] - times[0]))
        last.append(FEW / (times[-1] - times[-1 - FEW]))
    return statistics.median(first), statistics.median(last)


@torch.inference_mode()
def _parts(contender: Contender, seconds: float) -> Parts:
    # A pass at the middle of the text, by itself.
    model = contender.model
    assert model is not None
    reader = TextReader(model)
    reader.read([[0] * (NEW_TOKENS // 2)])
    reader.cache.reserve(NEW_TOKENS)
    reading = []
    for _ in range(40):
        start = time.perf_counter()
        reader.feed([0])
        reading.append(time.perf_counter() - start)
        reader.cache.truncate(NEW_TOKENS // 2)
    return Parts(1e6 * statistics.median(reading), 1e6 * seconds)


@dataclass(frozen=True)
class Found:
    """What was measured; see the functions that measure it."""

    contenders: Mapping[str, Contender]
    timed: Mapping[str, Samples]
    bandwidths: list[float]
    peaks: list[float]
    first: Mapping[int, float]
    starts: Mapping[str, float]
    flatness: Mapping[str, tuple[float, float]]
    parts: Mapping[str, Parts]
    prompt: list[float]

    @property
    def bandwidth(self) -> float:
        return statistics.median(self.bandwidths)

    @property
    def peak(self) -> float:
        return statistics.median(self.peaks)

    @property
    def rates(self) -> dict[str, float]:
        return {
            name: self.contenders[name].texts * NEW_TOKENS / samples.median
            for name, samples in self.timed.items()
        }

    @property
    def peers(self) -> list[str]:
        return [name for name, who in self.contenders.items() if who.model is None]

    def part(self, name: str, with_text: bool = False) -> float:
        """Of what memory allows; with the keys and values of the text counted, if asked."""
        n_bytes = self.contenders[name].n_bytes
        if with_text:
            model = self.contenders[name].model
            assert model is not None
            config = model.config
            position = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 4
            n_bytes += position * NEW_TOKENS // 2
        return self.rates[name] * n_bytes / self.bandwidth


def _result(found: Found) -> Result:
    rates, peers = found.rates, found.peers
    rows = []
    for name, rate in rates.items():
        who = found.contenders[name]
        alone = who.model is not None and who.texts == 1
        rows.append(
            [
                name,
                f"{rate:,.0f}",
                f"{100 * found.timed[name].spread:.0f} %",
                f"{found.bandwidth / who.n_bytes:,.0f}" if alone else "",
                f"{100 * found.part(name):.0f} %" if alone else "",
                f"{100 * found.part(name, with_text=True):.0f} %" if alone else "",
                *(f"{rate / rates[peer]:.1f}" if alone else "" for peer in peers),
            ]
        )
    speed = Table(
        f"{NEW_TOKENS} tokens after a prompt of 1, all texts of a run together:",
        ["who", "tokens/s", "spread", "memory allows", "part of it", "with keys and values",
         *(f"ratio to {peer}" for peer in peers)],
        rows,
    )  # fmt: skip
    many = _many_table(found)
    growth = Table(
        f"As the text grows, tokens/s over the first and the last {FEW} of {NEW_TOKENS} tokens:",
        ["who", "first", "last", "last to first"],
        [
            [name, f"{first:,.0f}", f"{last:,.0f}", f"{100 * last / first:.0f} %"]
            for name, (first, last) in found.flatness.items()
        ],
    )
    parts = Table(
        "Where the time of a token goes, in the middle of a text, microseconds:",
        ["who", "memory allows", "the pass through the model", "drawing, text, prompt"],
        [
            [
                name,
                f"{1e6 * found.contenders[name].n_bytes / found.bandwidth:,.0f}",
                f"{one.reading:,.0f}",
                f"{one.token - one.reading:,.0f}",
            ]
            for name, one in found.parts.items()
        ],
    )
    waits = Table(
        "Waiting:",
        ["what", "seconds"],
        [
            *([f"first token after a prompt of {n}", f"{s:.3f}"] for n, s in found.first.items()),
            *([f"whole process: {name}", f"{s:.2f}"] for name, s in found.starts.items()),
        ],
    )
    return Result(
        name="generation",
        title="Generation",
        about=f"One process generates with each library in turn, at {SHAKESPEARE_GPU.name}, "
        f"context {SHAKESPEARE_GPU.context}, random weights, temperature 0.8. What memory allows "
        "is the rate at which all weights could be read once for each token: bytes a second that "
        "a sum over 200 MB reads, measured in each round, over the bytes of the weights in that "
        "format. The next column counts the keys and values of the text too, which are float32 "
        "in every format. Peers compute in float32.",
        tables=[
            Table(
                "The limit, measured in the same run:",
                ["limit", "median", "lowest and highest of the rounds"],
                [
                    _limit("memory read", "GB/s", found.bandwidths),
                    _limit("float32 arithmetic", "GFLOP/s", found.peaks),
                ],
            ),
            speed,
            many,
            growth,
            parts,
            waits,
        ],
        targets=_targets(found),
        notes=[
            "A matrix that stays in the processor's cache is read faster than memory allows: of "
            "weights in 8 or 16 bits a large part may.",
            f"{MANY} samples read the weights once for all, but each its "
            "own keys and values, which soon are more bytes than the weights. Arithmetic "
            "allows what all cores can multiply and add without leaving their registers. No "
            "program does better than the lower of both, but for what stays in the processor's "
            "cache; one that reads and computes in turn does what the last column says.",
            "In the table of where a token's time goes, the pass is timed by itself, after whole "
            "texts, and the last column is the difference. Where memory was slower in that moment, "
            "it comes out too small, or below zero.",
        ],
        raw={
            "bandwidth": found.bandwidths,
            "flops_a_second": found.peaks,
            "seconds": {name: list(samples.seconds) for name, samples in found.timed.items()},
            "prompt_part_of_product_peak": found.prompt,
            "first_token_seconds": {str(n): s for n, s in found.first.items()},
            "process_seconds": dict(found.starts),
            "tokens_per_second_first_and_last": {k: list(v) for k, v in found.flatness.items()},
            "microseconds": {name: vars(one) for name, one in found.parts.items()},
        },
    )


def _limit(name: str, unit: str, rounds: list[float]) -> list[str]:
    low, median, high = (f(rounds) / 1e9 for f in (min, statistics.median, max))
    return [name, f"{median:.1f} {unit}", f"{low:.1f} to {high:.1f}"]


def _allowed(found: Found, who: Contender) -> tuple[float, float, float]:
    # Tokens a second of texts side by side, in the middle of a text, that memory allows,
    # arithmetic, and both in turn: keys and values are read, and two products made with each.
    assert who.model is not None
    config = who.model.config
    kept = 2 * config.n_layers * config.head_dim * NEW_TOKENS // 2
    step_bytes = who.n_bytes + 4 * who.texts * kept * config.n_kv_heads
    memory = who.texts * found.bandwidth / step_bytes
    arithmetic = found.peak / (2 * (_n_weights(who.model) + kept * config.n_heads))
    return memory, arithmetic, 1 / (1 / memory + 1 / arithmetic)


def _many_table(found: Found) -> Table:
    rows = []
    for name, who in found.contenders.items():
        if who.model is None or who.texts == 1:
            continue
        one = found.rates[name.removesuffix(f", {who.texts} samples")]
        rows.append(
            [
                name,
                f"{found.rates[name]:,.0f}",
                f"{found.rates[name] / one:.1f}",
                *(f"{rate:,.0f}" for rate in _allowed(found, who)),
            ]
        )
    return Table(
        f"{MANY} texts side by side, tokens/s of all together:",
        ["who", "tokens/s", "times one text", "memory allows", "arithmetic allows",
         "both in turn allow"],
        rows,
    )  # fmt: skip


def _targets(found: Found) -> list[Target]:
    rates, targets = found.rates, []
    for name in ("float32", "bfloat16", "int8"):
        label = f"minitx {name}"
        part = found.part(label)
        targets.append(
            Target(f"90 % of what memory allows, {name}", f"{100 * part:.0f} %", part >= 0.9)
        )
        for peer in found.peers:
            if LLAMA in peer:
                continue
            aim = 3.0 if "transformers" in peer else 20.0
            ratio = rates[label] / rates[peer]
            targets.append(
                Target(f"{aim:.0f} times {peer}, {name}", f"{ratio:.1f} times", ratio >= aim)
            )
    for name, theirs in LLAMA_FORMATS.items():
        aim, peer = f"2 times llama.cpp in {theirs}, {name}", f"{LLAMA} {theirs}"
        ratio = rates[f"minitx {name}"] / rates[peer] if peer in rates else None
        measured = "not measured" if ratio is None else f"{ratio:.1f} times"
        targets.append(Target(aim, measured, ratio is not None and ratio >= 2))
    label = f"minitx float32, {MANY} samples"
    part = rates[label] / _allowed(found, found.contenders[label])[2]
    targets.append(
        Target(f"{MANY} samples at 90 % of both in turn", f"{100 * part:.0f} %", part >= 0.9)
    )
    part = statistics.median(found.prompt)
    targets.append(
        Target(f"a prompt of {LONG_PROMPT} at 70 % of the products' peak", f"{100 * part:.0f} %",
               part >= 0.7)
    )  # fmt: skip
    slowest = max(found.first.values())
    targets.append(Target("first token under 50 ms", f"{1000 * slowest:.0f} ms", slowest < 0.05))
    process = found.starts["minitx generate, 1 token"]
    targets.append(Target("process under 1.5 s", f"{process:.2f} s", process < 1.5))
    return targets


if __name__ == "__main__":
    main()
