"""The toolbox's networks through the datasets and the model class of this package."""

import pytest

from .training import last_metrics, losses, shrink, train


@pytest.mark.parametrize('network', ['BasicVSR', 'IconVSR'])
def test_toolbox_networks(run_forked, checkout, network):
    """They train and validate through the same datasets and model class."""
    options = checkout / 'options' / 'train_BasicVSR_REDS.yml'
    shrink(options, **{'network_g:type': network, 'datasets:train:num_frame': 5})
    train(run_forked, checkout, options.name)
    experiment = checkout / 'experiments' / 'BasicVSR_REDS'
    assert sorted(losses(experiment)) == [1, 2]
    assert last_metrics(experiment / 'metrics.csv')['city'][0] > 20
