"""`minitx tokenize`: train a tokenizer, or see what one does to a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitx.errors import BadInputError

if TYPE_CHECKING:
    from minitx.tokenizer import Tokenizer
    from minitx.workflows.tokenize import Tokenization

_EXCERPT_TOKENS = 120


def tokenize(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            help="Text to train a tokenizer on: files, directories, globs, or - for standard "
            "input. With --tokenizer, text to encode.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="bpe|char|word", help="Planned if left out.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Most token ids; planned if left out.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Use the tokenizer of this directory, run or checkpoint."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Encode this text.")] = None,
    decode: Annotated[
        str | None, typer.Option(help='Decode these ids, like "18 47 56"; - reads them.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the tokenizer to this directory.")] = None,
    show: Annotated[int, typer.Option(help="How many tokens are shown.")] = _EXCERPT_TOKENS,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with all ids.")
    ] = False,
) -> None:
    """Cut a text into tokens: see the pieces, their ids, and what the cut is worth.

    minitx tokenize corpus.txt --kind bpe --vocab-size 1024 --out tokenizer

    minitx tokenize --tokenizer tokenizer --text "To be or not to be"
    """
    if show < 0:
        raise BadInputError(f"--show is {show}", "Choose 0 or more")
    if tokenizer is not None and (kind or vocab_size is not None):
        raise BadInputError(
            "--tokenizer names a finished tokenizer, and --kind or --vocab-size a new one",
            "Give one or the other",
        )
    given: dict[str, Any] = {}
    if kind is not None:
        given["kind"] = kind
    if vocab_size is not None:
        given["vocab_size"] = vocab_size

    from minitx.workflows.tokenize import open_tokenizer, parse_ids, tokenization, train_on

    parts: dict[str, Tokenization] = {}
    if tokenizer is None and (corpus or given or out):
        used, split, _ = train_on(corpus or (), given, stdin=sys.stdin.buffer)
        if text is None and decode is None:
            parts = {
                "train part": tokenization(used, split.train, "replace"),
                "holdout": tokenization(used, split.holdout, "replace"),
            }
    else:
        used = open_tokenizer(tokenizer)
        if corpus:
            from minitx.corpus import read_corpus

            read = read_corpus(corpus, sys.stdin.buffer)
            parts = {read.name: tokenization(used, read.text, "replace")}
    if out is not None:
        used.save(out)
        typer.echo(f"Wrote {out / 'tokenizer.json'}", err=True)
    if decode is not None:
        ids = parse_ids(_piped() if decode == "-" else decode)
        _print_decoded(used, ids, json)
        return
    if text is None and not parts:
        text = _piped()
    if text is not None:
        parts = {"text": tokenization(used, text)}
    _print(used, parts, show, json)


def _piped() -> str:
    from minitx.corpus.readers.plain_text import decode_text

    if sys.stdin.isatty():
        raise BadInputError(
            "nothing is piped in", 'Name a corpus, give --text "To be", or pipe a text in'
        )
    return decode_text(sys.stdin.buffer.read(), "standard input")


def _print_decoded(tokenizer: Tokenizer, ids: list[int], as_json: bool) -> None:
    text = tokenizer.decode(ids)
    if as_json:
        from minitx.report.terminal.printable import json_line

        typer.echo(json_line({"ids": ids, "text": text}))
    else:
        from minitx.report.terminal.printable import visible

        typer.echo(visible(text))


def _print(tokenizer: Tokenizer, parts: dict[str, Tokenization], show: int, as_json: bool) -> None:
    if as_json:
        from minitx.report.terminal.printable import json_line

        values: dict[str, Any] = {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "digest": tokenizer.digest,
            "parts": {
                name: {**one.figures(), "ids": one.ids.tolist()} for name, one in parts.items()
            },
        }
        if len(parts) == 1:
            (one,) = parts.values()
            values["pieces"] = [tokenizer.piece(i) for i in one.ids.tolist()]
        typer.echo(json_line(values))
        return
    from rich.console import Console

    from minitx.report.terminal.tokenization_view import figures_table, pieces_text

    console = Console(highlight=False)
    first = next(iter(parts.values()))
    with_colour = console.is_terminal and not console.no_color
    if show:
        console.print(pieces_text(tokenizer, first, show, with_colour))
    console.print(figures_table(tokenizer, parts))
