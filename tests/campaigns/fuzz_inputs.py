"""Inputs of the fuzz campaign: whole ones, changed at random.

A kind of input is a function of what is whole, of an empty directory, and of a source of chance.
It leaves files in the directory and returns the arguments of a command that reads them.
"""

import json
import re
import shutil
import struct
import sys

from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.rundir import RunDirectory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODEL_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "generation_config.json",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "2", "7", "0.5", "-0.5", "1e-9", "1e9", "1e308", "1e999", "nan", "inf", "-inf",
    "65536", "4294967296", "9223372036854775807", "9223372036854775808", "1" + "0" * 40, "0x10",
    "1_000", " 3 ", "", "١٢", "1,5", "true",
)  # fmt: skip
WORDS = (
    "", " ", "a", "To be", "none", "auto", "bpe", "char", "word", "cpu", "cuda:9", "float32",
    "last", "best", "..", "/", "/dev/null", "/dev/zero", "corpus.txt", "-", "--", "\x1b[2J", "\x00",
    "\udce9", "é", "e\u0301", "\U0001f600" * 3, "\u202e", "x" * 5000, "%s%n", "{}", "'\"`$(id)",
    "<|endoftext|>", "\n", "\r", "a=b", "3:1.5", "0-3",
)  # fmt: skip


class Base:
    """Whole files to be changed.

    Args:
        directory: holds ``corpus.txt`` and a finished run ``whole``.
    """

    def __init__(self, directory):
        self.run = directory / "whole"
        self.checkpoint = RunDirectory(self.run).checkpoint(4)
        self.text = (directory / "corpus.txt").read_bytes()
        self.toml = (self.run / "run.toml").read_bytes()

    def copy_model(self, place):
        """A model directory as other programs write it, without digests."""
        place.mkdir()
        for name in MODEL_FILES:
            shutil.copyfile(self.checkpoint / name, place / name)
        return place

    def copy_run(self, place):
        return shutil.copytree(self.run, place)


def corpus(base, place, chance):
    if chance.random() < 0.3:
        content = odd_text(chance)
    else:
        content = changed_bytes(base.text[: chance.choice((40, 400, 4000))], chance)
    name = chance.choice(("corpus.txt", "corpus.jsonl", "c.md", "corpus.bin", "c\x1b[2J.txt"))
    path = place / name
    path.write_bytes(content)
    kind = chance.choice((["--kind", "bpe", "--vocab-size", "300"], ["--kind", "char"],
                          ["--kind", "word"], []))  # fmt: skip
    if chance.random() < 0.7:
        return ["tokenize", str(path), *kind, *chance.choice(([], ["--json"], ["--show", "9"]))]
    return ["train", str(path), *kind, *chance.choice((["--steps", "2"], ["--budget", "5s"], []))]


def config_toml(base, place, chance):
    text = base.toml.decode()
    values = tomllib.loads(text)
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.7:
            key = chance.choice([key for table in values.values() for key in table])
            value = changed_toml(chance)
            text = re.sub(rf"(?m)^{key} = .*$", lambda _, k=key, v=value: f"{k} = {v}", text)
        else:
            text = changed_bytes(text.encode("utf-8", "surrogateescape"), chance).decode(
                "utf-8", "surrogateescape"
            )
    path = place / "run.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    (place / "corpus.txt").write_bytes(base.text)
    return ["train", "corpus.txt", "--config", str(path), *chance.choice(([], ["--steps", "3"]))]


def tokenizer_json(base, place, chance):
    model = base.copy_model(place / "model")
    name = chance.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    change_json(model / name, chance)
    return ["tokenize", "--tokenizer", str(model), "--text", "ten green bottles é"]


def config_json(base, place, chance):
    model = base.copy_model(place / "model")
    change_json(model / chance.choice(("config.json", "config.json", MODEL_FILES[-1])), chance)
    return generated(model)


def tensors(base, place, chance):
    """A header of safetensors, changed in bytes, in values, or in its length."""
    path = base.copy_model(place / "model") / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = content[8 : 8 + length], content[8 + length :]
    way = chance.random()
    if way < 0.5:
        header = changed_json(json.loads(header), chance)
        length = len(header)
    elif way < 0.7:
        header = changed_bytes(header, chance)
        length = len(header)
    elif way < 0.9:
        length = chance.choice((0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1))
    else:
        rest = changed_bytes(rest, chance)
    path.write_bytes(struct.pack("<Q", length) + header + rest)
    return generated(path.parent)


def run_file(base, place, chance):
    """A file of a run or of its checkpoint, its digest in the manifest as it should be."""
    run = base.copy_run(place / "run")
    checkpoint = RunDirectory(run).checkpoint(4)
    names = [p for p in (*run.iterdir(), *checkpoint.iterdir(), run / "data" / "corpus.json")
             if p.is_file() and p.suffix not in (".ids", ".txt")]  # fmt: skip
    path = chance.choice(sorted(names))
    if path.suffix == ".json":
        change_json(path, chance)
    elif path.suffix == ".jsonl":
        change_lines(path, chance)
    else:
        path.write_bytes(changed_bytes(path.read_bytes(), chance))
    if path.parent == checkpoint and path.name != MANIFEST and chance.random() < 0.8:
        manifest = checkpoint / MANIFEST
        manifest.unlink()
        manifest.write_bytes(manifest_bytes(checkpoint, 4))
    return chance.choice(
        (
            ["diagnose", str(run)],
            ["diagnose", str(run), "--json"],
            ["resume", str(run), "--steps", "5"],
            generated(run),
            ["eval", str(run), "--holdout", "--quick", "--no-baselines"],
        )
    )


def flags(base, place, chance):
    from minitx.cli.app import app

    command = chance.choice(("tokenize", "train", "resume", "generate", "eval", "attn", "diagnose"))
    run = base.copy_run(place / "run") if command == "resume" else base.run
    (place / "corpus.txt").write_bytes(base.text)
    arguments = [command]
    if chance.random() < 0.9:
        arguments.append("corpus.txt" if command in ("tokenize", "train") else str(run))
    options = known_options(app, command)
    for _ in range(chance.randint(1, 4)):
        name, takes = chance.choice(options)
        arguments.append(name)
        if takes:
            arguments.append(chance.choice(NUMBERS if chance.random() < 0.6 else WORDS))
    # The system takes no argument with a zero byte.
    arguments = [argument.replace("\x00", "") for argument in arguments]
    # What asks for much work gets it; here it is about being understood.
    least = {
        "generate": ["--max-new-tokens", "2"],
        "eval": ["--max-tokens", "50", "--no-baselines"],
        "train": ["--steps", "2"],
    }
    if command == "resume":
        arguments += ["--steps", "5"]
    return [*arguments, *(least.get(command, []) if chance.random() < 0.95 else [])]


KINDS = {
    "corpora": corpus,
    "TOML": config_toml,
    "tokenizers": tokenizer_json,
    "configs": config_json,
    "headers of tensors": tensors,
    "files of a run": run_file,
    "flags": flags,
}


def generated(path):
    return ["generate", str(path), "--prompt", "green", "--max-new-tokens", "2"]


def known_options(app, command):
    from typer.main import get_command

    found = []
    for parameter in get_command(app).commands[command].params:
        if parameter.param_type_name != "option" or parameter.name in ("interactive", "compile"):
            continue
        for name in (*parameter.opts, *parameter.secondary_opts):
            found.append((name, not parameter.is_flag))
    return found


def odd_text(chance):
    """Texts that are hard to split, count or show."""
    return chance.choice(
        (
            b"", b"\n", b"a", b" " * 3000, b"\xef\xbb\xbf", b"\xef\xbb\xbfabc\n" * 50, b"\x00" * 99,
            "text in utf-16\n".encode("utf-16") * 40, b"\xff\xfe" * 50, b"a" * 200_000,
            b"\x1b[2J\x1b]0;title\x07 words\r\n" * 40, "\u202eright to left\n".encode() * 40,
            "e\u0301\u0302\u0303".encode() * 3000, "\U0010ffff\ue000\n".encode() * 80,
            "".join(chr(0x4E00 + i) for i in range(5000)).encode(),
            " ".join(f"w{i}" for i in range(20_000)).encode(), b"\r" * 500, b"ab\r\ncd\r" * 60,
            b'{"text": "one"}\n{"text": 3}\n{"words": []}\n' * 20, b"\xed\xa0\x80" * 40,
            b"one line\n" + b"x" * 70_000 + b"\n",
            bytes(chance.randrange(256) for _ in range(2000)),
        )
    )  # fmt: skip


def changed_bytes(content, chance):
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        at = chance.randrange(len(changed) + 1)
        way = chance.randrange(6)
        if way == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif way == 1:
            changed[at:at] = chance.choice(WORDS).encode("utf-8", "surrogatepass")
        elif way == 2:
            del changed[at : at + chance.randrange(1, 20)]
        elif way == 3:
            del changed[at:]
        elif way == 4:
            piece = changed[at : at + chance.randrange(1, 40)]
            changed[at:at] = piece * chance.choice((1, 3, 200))
        else:
            changed[at:at] = chance.choice(NUMBERS).encode()
    return bytes(changed)


def changed_toml(chance):
    return chance.choice(
        (
            *(number or '""' for number in NUMBERS), json.dumps(chance.choice(WORDS)), "[]", "{}",
            "[1, 2]", '["a", 3]', "1979-05-27", "[" * 500 + "]" * 500, '""""""', "false",
            '["' + "x" * 9000 + '"]', "-0.0", "0.95", "1024", "100000", '"/dev/zero"',
        )
    )  # fmt: skip


def changed_value(chance):
    """A JSON text to stand where a value stood."""
    return chance.choice(
        (
            "null", "true", "false", "0", "-1", "1", "2", "1e308", "1e999", "NaN", "-Infinity",
            "1" + "0" * 30, "1" + "0" * 5000, "0.5", '""', '"x"', '"' + "y" * 9000 + '"', "[]",
            "{}", "[[[]]]", "[" * 3000 + "]" * 3000, '{"a": ' * 500 + "1" + "}" * 500, "[null]",
            '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', "[" + "1, " * 50_000 + "1]", "65537",
            "1000000000000", '"float64"', '"../../etc/passwd"', '"F32"', "[1000000, 1000000]",
        )
    )  # fmt: skip


def changed_json(value, chance):
    """Text of a JSON value in which a few places hold something else."""
    marks = {}
    for number in range(chance.choice((1, 1, 1, 2, 4))):
        mark = f"@@{number}@@"
        holder, key = any_place(value, chance)
        if holder is None:
            break
        if chance.random() < 0.2:
            del holder[key]
        elif chance.random() < 0.1 and isinstance(holder, dict):
            holder["extra" + "!" * chance.randrange(3)] = holder[key]
        else:
            holder[key] = mark
            marks[json.dumps(mark)] = changed_value(chance)
    text = json.dumps(value)
    for mark, put in marks.items():
        text = text.replace(mark, put)
    return text.encode()


def any_place(value, chance):
    """A container inside of `value`, and a key in it; deep ones as likely as others."""
    places = []
    queue = [value]
    while queue:
        holder = queue.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        # Of a long list, such as a vocabulary, a few places.
        for key in chance.sample(list(keys), min(len(keys), 12)):
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                queue.append(holder[key])
    return chance.choice(places) if places else (None, None)


def change_json(path, chance):
    content = path.read_bytes()
    if chance.random() < 0.3:
        path.write_bytes(changed_bytes(content, chance))
    else:
        path.write_bytes(changed_json(json.loads(content), chance))


def change_lines(path, chance):
    lines = path.read_bytes().splitlines()
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        if chance.random() < 0.3:
            lines[at] = changed_bytes(lines[at], chance)
        else:
            try:
                lines[at] = changed_json(json.loads(lines[at]), chance)
            except (ValueError, RecursionError):
                lines[at] = b"[]"
    path.write_bytes(b"\n".join(lines) + chance.choice((b"\n", b"")))
