#!/bin/sh
# Set up minitx in .venv and run its tests. Further arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
echo "Setting up minitx in .venv; the first time, this takes some minutes, mostly for PyTorch"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
# One thread in each worker: the models in the tests are too small to share out.
OMP_NUM_THREADS=1 exec .venv/bin/python -m pytest -n 2 --cov --cov-report=term:skip-covered "$@"
