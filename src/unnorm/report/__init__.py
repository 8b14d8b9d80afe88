"""The report: figures, a summary in plain words and one page, all drawn from a study's ledger and from nothing else."""
