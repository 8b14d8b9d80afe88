"""The offline story: a generated corpus and a base pretrained on it."""
