"""Losses of the network's own in VSRModel: added by their weights, logged by name, checked at start."""

import pytest
import torch
from basicsr.models import build_model
from torch.nn import functional as F

from basicsr_plugins.errors import InputError

from .test_vsr_gan_model import vgg_file  # noqa: F401  (a fixture)


@pytest.fixture
def options(tmp_path):
    return {
        'name': 'experiment',
        'model_type': 'VSRModel',
        'num_gpu': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'scale': 4,
        'root_path': str(tmp_path),
        'network_g': {'type': 'TDAN', 'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2},
        'path': {'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [10]},
            'total_iter': 10,
            'pixel_opt': {'type': 'MSELoss', 'loss_weight': 2.0},
            'auxiliary_weights': {'aligned': 0.25},
        },
    }


def test_are_added_by_weight(options):
    """The gradient is that of 2 MSE(output) + 0.25 * 2 MSE(aligned images)."""
    torch.manual_seed(0)
    model = build_model(options)
    data = {'lq': torch.rand(1, 5, 3, 8, 8), 'gt': torch.rand(1, 5, 3, 32, 32)}
    model.feed_data(data)
    net = model.net_g
    output, aligned = net(data['lq'])
    pixel = 2 * F.mse_loss(output, data['gt'][:, 2])
    alignment = 0.25 * 2 * F.mse_loss(aligned, data['lq'][:, 2:3].expand_as(aligned))
    expected = torch.autograd.grad(pixel + alignment, list(net.parameters()))
    model.optimize_parameters(1)
    for parameter, gradient in zip(net.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)
    log = model.get_current_log()
    assert log['l_pix'] == pytest.approx(pixel.item())
    assert log['l_aligned'] == pytest.approx(alignment.item())
    assert set(log) == {'l_pix', 'l_aligned'}
    assert model.output.shape == (1, 3, 32, 32)


def test_default_weight(options):
    del options['train']['auxiliary_weights']
    assert build_model(options).auxiliary_weights == {'aligned': 0.01}


def test_unknown_loss(options):
    options['train']['auxiliary_weights'] = {'alinged': 1.0}
    with pytest.raises(InputError, match="auxiliary_weights: there is no key 'alinged'; did you mean 'aligned'"):
        build_model(options)
    options['train']['auxiliary_weights'] = {'aligned': 'x'}
    with pytest.raises(InputError, match="auxiliary_weights: aligned must be a number from 0 on, but is 'x'"):
        build_model(options)


def test_network_without_own_losses(options):
    options['network_g'] = {'type': 'RRN', 'num_feat': 8, 'num_block': 1}
    with pytest.raises(InputError, match="auxiliary_weights: there is no key 'aligned'"):
        build_model(options)


def test_needs_the_pixel_loss(options, vgg_file):  # noqa: F811
    del options['train']['pixel_opt']
    options['path']['pretrain_network_vgg'] = str(vgg_file)
    options['train']['perceptual_opt'] = {
        'type': 'PerceptualLoss',
        'layer_weights': {'conv1_1': 1},
        'vgg_type': 'vgg11',
    }
    with pytest.raises(InputError, match='pixel_opt is missing: TDAN takes it for its own losses too'):
        build_model(options)
