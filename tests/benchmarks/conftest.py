"""What tests of scripts in benchmarks/ share."""

from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """While it is open, the scripts can be imported by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLACE)
        yield
