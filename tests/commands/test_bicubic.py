"""BasicSR's own test, on Vid4, gives the published numbers of bicubic."""

import pytest

from .training import last_metrics


def test_bicubic_on_vid4(run_forked, checkout):
    """Published: calendar 20.39/0.5720 and city 25.16/0.6028, Y channel."""
    run_forked('basicsr/test.py', '-opt', 'options/test_Bicubic_Vid4.yml', cwd=checkout)
    metrics = last_metrics(checkout / 'results' / 'Bicubic_Vid4' / 'metrics.csv')
    assert metrics['calendar'] == (pytest.approx(20.39, abs=0.01), pytest.approx(0.5720, abs=0.001))
    assert metrics['city'] == (pytest.approx(25.16, abs=0.01), pytest.approx(0.6028, abs=0.001))
