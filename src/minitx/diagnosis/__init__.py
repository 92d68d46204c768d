"""What goes wrong in training, by name: the evidence, the likely cause, and the fix to try."""
