#!/bin/sh
# Set up minitx in .venv, then train on the text that comes with Python for a minute and look at
# the result: a sample, the holdout report, and what one attention head looks at.
set -eu
cd "$(dirname "$0")/.."
echo "Setting up minitx in .venv; this takes some minutes, mostly for PyTorch"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable .
minitx=.venv/bin/minitx
$minitx train --budget 1m
$minitx generate --prompt "The statement " --top-k 40 --max-new-tokens 300
$minitx eval --holdout
$minitx attn
