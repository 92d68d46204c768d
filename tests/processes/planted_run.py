"""`minitx` in which something happens in a pass of one process.

    PLANT=what:rank:pass python planted_run.py train ...

What: `kill` (SIGKILL), `nan` (a loss that is NaN), `memory` (it runs out), `error` (one that names
gloo, though all processes live).
"""

import os
import signal

from minitx.training import gradients

kind, rank, number = os.environ["PLANT"].split(":")
original, passes = gradients.loss_function, 0


def planted(*arguments):
    loss = original(*arguments)

    def of(ids, targets):
        global passes
        passes += 1
        if os.environ.get("RANK", "0") != rank or passes != int(number):
            return loss(ids, targets)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "memory":
            raise MemoryError
        if kind == "error":
            raise RuntimeError("gloo: planted")
        return loss(ids, targets) * float("nan")

    return of


if __name__ == "__main__":
    gradients.loss_function = planted
    from minitx.__main__ import main

    main()
