"""Tuning: what trains (strategies), and the training loop with its logs and checkpoints. Given batches, not sources."""
