OPTIONS = ("partition", "array_parallelism", "sbatch")


def is_gone(owner: object) -> bool:
    return False
