import pytest

from unnorm.metrics import logit_sums, output_layer


@pytest.fixture
def small_chunks(monkeypatch):
    """Seven positions of the tiny models at once, and three where a processor takes fewer."""
    monkeypatch.setattr(output_layer, "LOGITS", 384 * 7)
    monkeypatch.setattr(logit_sums, "_PARTS_ON_CPU", 2)
