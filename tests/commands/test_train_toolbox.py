"""The toolbox's networks through the datasets and the model class of this package."""

import pytest

from .training import last_metrics, losses, shrink, train


@pytest.mark.parametrize('network', ['BasicVSR', 'IconVSR'])
def test_toolbox_networks(run, checkout, network):
    """They train and validate through the same datasets and model class."""
    options = checkout / 'options' / 'train_BasicVSR_REDS.yml'
    shrink(options, **{'network_g:type': network, 'datasets:train:num_frame': 5})
    train(run, checkout, options.name)
    experiment = checkout / 'experiments' / 'BasicVSR_REDS'
    assert sorted(losses(experiment)) == [1, 2]
    assert last_metrics(experiment / 'metrics.csv')['city'][0] > 20


def test_bicubic_on_vid4(run, checkout):
    """Published: calendar 20.39/0.5720 and city 25.16/0.6028, Y channel."""
    run('python', 'basicsr/test.py', '-opt', 'options/test_Bicubic_Vid4.yml', cwd=checkout)
    metrics = last_metrics(checkout / 'results' / 'Bicubic_Vid4' / 'metrics.csv')
    assert metrics['calendar'] == (pytest.approx(20.39, abs=0.01), pytest.approx(0.5720, abs=0.001))
    assert metrics['city'] == (pytest.approx(25.16, abs=0.01), pytest.approx(0.6028, abs=0.001))
