#!/bin/sh
# One run on two machines. Start this on both, with the number of the machine (0 or 1) and the
# address of the first one; the directory of the run must be seen by both:
#
#     sh examples/two_nodes.sh 0 10.0.0.1 corpus.txt --out /shared/run --steps 2000
#     sh examples/two_nodes.sh 1 10.0.0.1 corpus.txt --out /shared/run --steps 2000
#
# PROCESSES says how many there are on each machine (one for each GPU if it is not set), PORT
# where they meet. A run that loses a process goes on by itself, three times.
set -eu
node=$1 first=$2
shift 2
exec torchrun --nnodes=2 --node-rank="$node" --nproc-per-node="${PROCESSES:-gpu}" \
    --master-addr="$first" --master-port="${PORT:-29500}" --max-restarts=3 \
    -m minitx train "$@"
