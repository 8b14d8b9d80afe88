"""Surgery on a model: find its norm sites, swap them, calibrate what was put there, save and load. Knows no data."""
