"""Judges: each says which of two answers it prefers. One small interface, a file a judge; no statistics."""
