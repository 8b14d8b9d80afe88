"""Evaluation: held-out loss and completions of a model, swapped or not."""
