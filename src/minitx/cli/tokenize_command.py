"""`minitx tokenize`: train a tokenizer, or see what one does to a text."""

from __future__ import annotations

import sys
from typing import Any

import typer

from minitx.cli.flags import takes
from minitx.config import TokenizerConfig, TokenizeRequest
from minitx.config.overrides import config_from_options, values_of


@takes(TokenizeRequest)
@takes(TokenizerConfig, planned=True)
def tokenize(**options: Any) -> None:
    """Cut a text into tokens: see the pieces, their ids, and what the cut is worth.

    minitx tokenize corpus.txt --kind bpe --vocab-size 1024 --out tokenizer

    minitx tokenize --tokenizer tokenizer --text "To be or not to be"
    """
    fixed = values_of(TokenizerConfig, options)
    request = config_from_options(TokenizeRequest, options, fixed=fixed)

    from minitx.report.terminal.printable import printed_name
    from minitx.report.terminal.tokenization_view import print_tokenized
    from minitx.workflows.tokenize import tokenize

    tokenized = tokenize(request, sys.stdin)
    if request.out is not None:
        typer.echo(f"Wrote {printed_name(request.out / 'tokenizer.json')}", err=True)
    print_tokenized(tokenized, request.show, request.json)
