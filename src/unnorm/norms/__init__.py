"""The norms: what can stand at a site. Each has a spec (its configuration) and a module; knows nothing of models."""
