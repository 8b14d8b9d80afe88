OPTIONS = ("address", "gpu_share")


def is_gone(owner: object) -> bool:
    return False
