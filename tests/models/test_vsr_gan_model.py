"""Training against a discriminator: by hand, in parts, resumed, and what it refuses."""

import copy
import math
from collections import OrderedDict

import pytest
import torch
import torchvision
from basicsr.models import build_model
from basicsr.train import load_resume_state
from basicsr.utils import USMSharp
from basicsr.utils.registry import LOSS_REGISTRY
from torch.nn import functional as F

from basicsr_plugins.data.degradation_steps import unsharp
from basicsr_plugins.errors import InputError, RunError

from .test_training import iterate
from .test_vsr_model import options  # noqa: F401  (a fixture)

NETWORK = {'type': 'RealBasicVSR', 'num_feat': 4, 'num_block': 1, 'num_clean_block': 1}
LAYERS = {'conv1_1': 0.5, 'conv2_1': 1.0}


@pytest.fixture(scope='module')
def vgg_file(tmp_path_factory):
    """A VGG-11 whose weights are random where they count, as torchvision names them."""
    with torch.device('meta'):
        weights = torchvision.models.vgg11(weights=None).state_dict()
    torch.manual_seed(5)
    weights = {
        name: torch.randn(value.shape) * 0.1
        if name[:11] in ('features.0.', 'features.3.')
        else torch.zeros(value.shape)
        for name, value in weights.items()
        if name.startswith('features.')
    }
    path = tmp_path_factory.mktemp('vgg') / 'vgg11.pth'
    torch.save(OrderedDict(weights), path)
    return path


@pytest.fixture
def gan(options, vgg_file):  # noqa: F811
    options.update(model_type='VSRGANModel', network_g=dict(NETWORK))
    options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    options['path']['pretrain_network_vgg'] = str(vgg_file)
    options['train'].update(
        fix_flow=1000,
        sharpen_gt=True,
        optim_d={'type': 'Adam', 'lr': 1e-3},
        pixel_opt={'type': 'L1Loss'},
        perceptual_opt={'type': 'PerceptualLoss', 'layer_weights': dict(LAYERS), 'vgg_type': 'vgg11'},
        gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.05},
    )
    return options


def sample(b=1, t=2, size=16):
    torch.manual_seed(7)
    return {'lq': torch.rand(b, t, 3, size, size), 'gt': torch.rand(b, t, 3, 4 * size, 4 * size)}


def build(gan, **train):
    torch.manual_seed(0)
    gan = copy.deepcopy(gan)
    gan['train'].update(train)
    return build_model(gan)


def weights(model):
    return {
        f'{net}.{name}': value.clone()
        for net in ('net_g', 'net_d')
        for name, value in getattr(model, net).state_dict().items()
    }


def test_losses_and_gradients_are_those_written_out(gan, vgg_file):
    """Every loss by its formula, both networks' gradients, and a step of Adam: by its rate, against the gradient."""
    model = build(gan)
    g, d = copy.deepcopy(model.net_g), copy.deepcopy(model.net_d)
    g.forward = g.__class__.forward.__get__(g)
    data = sample()
    log = iterate(model, 1, data=data)

    output, cleaned = g(data['lq'])
    gt = data['gt'][0]
    sharp = USMSharp()(gt)
    vgg = torch.load(vgg_file)

    def features(images):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        first = F.conv2d((images - mean.view(3, 1, 1)) / std.view(3, 1, 1), vgg['features.0.weight'], None, 1, 1)
        first = first + vgg['features.0.bias'].view(-1, 1, 1)
        pooled = F.max_pool2d(first.relu(), 2)
        return first, F.conv2d(pooled, vgg['features.3.weight'], vgg['features.3.bias'], 1, 1)

    expected = {
        'l_pix': (output[0] - sharp).abs().mean(),
        'l_clean': (cleaned[0] - F.interpolate(sharp, scale_factor=0.25, mode='area')).abs().mean(),
        'l_percep': sum(
            weight * (a - b).abs().mean() for weight, a, b in zip(LAYERS.values(), features(output[0]), features(sharp))
        ),
        'l_gan': 0.05 * F.softplus(-d(output[0])).mean(),  # of a logit: -log(sigmoid(x))
    }
    g_layers = ['image_cleaning.1.bias', 'basicvsr.conv_last.weight']
    gradients = torch.autograd.grad(sum(expected.values()), [g.get_parameter(name) for name in g_layers])
    expected['l_d_real'] = F.softplus(-d(gt)).mean()
    expected['l_d_fake'] = F.softplus(d(output[0].detach())).mean()
    d_gradient = torch.autograd.grad(expected['l_d_real'] + expected['l_d_fake'], d.conv9.weight)[0]

    assert set(log) == set(expected)
    for name, value in expected.items():
        assert log[name] == pytest.approx(float(value.detach()), rel=1e-4), name
    before = {'net_g': g, 'net_d': d}
    found = [('net_g', name, gradient) for name, gradient in zip(g_layers, gradients)]
    for net, name, gradient in [*found, ('net_d', 'conv9.weight', d_gradient)]:
        after = getattr(model, net).get_parameter(name)
        torch.testing.assert_close(after.grad, gradient, rtol=1e-3, atol=1e-7)
        step = before[net].get_parameter(name).detach() - after.detach()
        torch.testing.assert_close(step, 1e-3 * gradient.sign(), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    'network_d',
    [
        {'type': 'UNetDiscriminatorSN', 'num_in_ch': 1, 'num_feat': 4},
        {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 4, 'input_size': 128},
    ],
)
def test_a_discriminator_that_takes_no_frames(gan, network_d):
    gan['network_d'] = network_d
    with pytest.raises(
        InputError, match=r'GT \(1, 2, 3, 64, 64\) does not go through the networks and losses .* in .*\.py'
    ):
        iterate(build(gan), 1, data=sample())


class Failing:
    def __init__(self, *_, **__):
        raise ZeroDivisionError

    __call__ = __init__


def test_a_loss_of_somebody_else_keeps_its_traceback(gan, monkeypatch):
    model = build(gan)
    model.cri_gan = object.__new__(Failing)
    with pytest.raises(ZeroDivisionError):
        iterate(model, 1, data=sample())
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'Failing', Failing)
    gan['train']['pixel_opt'] = {'type': 'Failing'}
    with pytest.raises(ZeroDivisionError):
        build_model(gan)


def test_sharpened_gt_is_that_of_the_degradation(gan):
    """LQ frames are made of it; here it is computed on the model's device."""
    frames = sample()['gt']
    by_steps = unsharp([frame.permute(1, 2, 0).numpy() for frame in frames[0]], {'weight': 0.5}, None, None)
    sharp = build(gan)._sharpen(frames)[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(sharp, torch.stack([torch.from_numpy(frame) for frame in by_steps]), rtol=0, atol=1e-5)
    grey = torch.full((1, 1, 3, 64, 64), 0.3)
    torch.testing.assert_close(build(gan)._sharpen(grey), grey)


def test_resumed_with_everything_on_equals_uninterrupted(gan):
    """Both networks, the moving average, both optimizers: the very values, in bfloat16, in parts, clipped."""
    gan['train'].update(amp='bfloat16', accumulate=2, checkpointing=True, grad_clip=0.1, ema_decay=0.5)
    data = sample(b=2)
    whole = build(gan)
    iterate(whole, 1, 2, data=data)
    whole.save(epoch=0, current_iter=2)
    iterate(whole, 3, 4, data=data)
    gan['auto_resume'] = True
    resumed = build_resumed(gan)
    iterate(resumed, 3, 4, data=data)
    for net in ('net_g', 'net_g_ema', 'net_d'):
        for name, value in getattr(whole, net).state_dict().items():
            assert torch.equal(getattr(resumed, net).state_dict()[name], value), (net, name)
    for one, other in zip(whole.optimizers, resumed.optimizers):
        for number, state in one.state_dict()['state'].items():
            for name, value in state.items():
                assert torch.equal(other.state_dict()['state'][number][name], value)


def build_resumed(gan):
    state = load_resume_state(gan)
    model = build(gan)
    model.resume_training(state)
    return model


def test_a_batch_in_parts_equals_the_whole(gan):
    """The generator's losses and gradients; spectral normalisation is held still, for it moves with each run."""
    gan['train'].update(sharpen_gt=False)
    del gan['train']['perceptual_opt']
    models = [build(gan), build(gan, accumulate=2)]
    for model in models:
        model.net_d.train = lambda mode=True: None
        model.net_d.eval()
        for module in model.net_d.modules():
            module.training = False
        iterate(model, 1, data=sample(b=2))
    whole, parts = models
    for (name, one), other in zip(whole.net_g.named_parameters(), parts.net_g.parameters()):
        if 'spynet' not in name:
            assert (other.grad - one.grad).abs().max() <= 1e-3 * one.grad.abs().max(), name
    for one, other in zip(whole.net_d.parameters(), parts.net_d.parameters()):
        assert (other.grad - one.grad).abs().max() <= 1e-3 * one.grad.abs().max()
    assert parts.get_current_log() == pytest.approx(whole.get_current_log(), rel=1e-4)


def test_gradients_are_clipped_for_each_network(gan):
    model = build(gan, grad_clip=1e-4)
    iterate(model, 1, data=sample())
    for net in (model.net_g, model.net_d):
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
        assert norm == pytest.approx(1e-4, rel=1e-3)


def test_what_is_not_finite_skips_both_steps_and_ends_training(gan):
    model = build(gan, max_skipped=3)
    bad = sample()
    bad['gt'][0, 0, 0, 5, 5] = math.nan
    iterate(model, 1, data=sample())
    before = weights(model)
    log = iterate(model, 2, 3, data=bad)
    assert log['skipped'] == 2
    for name, value in weights(model).items():
        if not name.endswith(('_u', '_v')):
            assert torch.equal(value, before[name]), name
    with pytest.raises(RunError, match='training diverged: at iteration 4 too many steps in a row were skipped'):
        iterate(model, 4, data=bad)


def test_float16_is_for_gpus(gan):
    with pytest.raises(InputError, match='train: amp: float16 is for GPUs'):
        build(gan, amp='float16')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda gan: gan['path'].update(pretrain_network_vgg='no/vgg.pth'),
            r'^train: perceptual_opt needs the weights of vgg11',
        ),
        (
            lambda gan: gan['path'].pop('pretrain_network_vgg'),
            r'no file experiments/pretrained_models/vgg19-dcbb9e9d\.pth',
        ),
        (
            lambda gan: gan['train']['perceptual_opt'].update(vgg_type='vgg13'),
            r'^path: pretrain_network_vgg: .*vgg11\.pth does not load into vgg13',
        ),
        (
            lambda gan: gan['train']['perceptual_opt'].update(layer_weights={'conv9_1': 1}),
            "layer_weights: vgg11 has no layer 'conv9_1'",
        ),
        (lambda gan: gan.pop('network_d'), "'network_d' is missing"),
        (lambda gan: gan['train'].pop('gan_opt'), "'gan_opt' is missing"),
        (lambda gan: gan['train']['gan_opt'].update(gan_type='wasserstein'), 'gan_type'),
        (lambda gan: gan['train'].update(net_d_iters=2), 'net_d_iters'),
    ],
)
def test_what_is_missing_or_wrong_is_named(gan, change, message, monkeypatch, tmp_path):
    """And nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda *_, **__: pytest.fail('a download'))
    change(gan)
    with pytest.raises(InputError, match=message):
        build(gan)
