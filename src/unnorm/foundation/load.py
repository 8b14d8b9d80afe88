"""How much of the machine's processor other processes took while something was timed."""

import time


class OthersLoad:
    """From its creation on: the share of all cores' time that went to other processes (and, in a virtual machine, to
    others on its host)."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy(), time.process_time()

    def read(self) -> float:
        """Between 0, the machine was ours, and 1."""
        import psutil

        cores = psutil.cpu_count() or 1
        passed = max(1e-9, time.perf_counter() - self._started)
        others = (_busy() - self._busy) - (time.process_time() - self._own)
        return round(min(1.0, max(0.0, others / (passed * cores))), 3)


def _busy() -> float:
    """Seconds that all cores together have worked since the machine began."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
