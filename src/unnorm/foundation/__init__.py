"""Ground floor: errors, atomic writes, hashing, seeds, progress. Knows nothing of models or data."""
