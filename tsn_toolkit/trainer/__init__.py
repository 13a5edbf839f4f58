"""The loop, the optimizer, checkpoints and evaluation on validation data."""
