"""Save and load what surgery and tuning made, so that it cannot be taken for something else."""
