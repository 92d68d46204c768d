"""How the model learns: schedule, optimizers, the loop, and what it reports."""
