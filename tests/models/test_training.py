"""Iterations of VSRModel: precision, memory, parts of a batch, and steps that are skipped."""

import copy
import functools
import math
import signal
import sys
from pathlib import Path

import pytest
import torch
from basicsr.archs import arch_util
from basicsr.models import build_model
from basicsr.train import load_resume_state
from torch.autograd.graph import saved_tensors_hooks

from basicsr_plugins.archs.recurrent import run_clip
from basicsr_plugins.errors import InputError, RunError
from basicsr_plugins.models import training, training_forward
from basicsr_plugins.ops.deform_conv import modulated_deform_conv2d

from .test_vsr_model import OTHER_KINDS, options  # noqa: F401  (a fixture)

BASICVSR = {'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}


def sample(b=1, t=3, size=64):
    torch.manual_seed(b + t)
    return {'lq': torch.rand(b, t, 3, size, size), 'gt': torch.rand(b, t, 3, 4 * size, 4 * size)}


def build(options, **train):  # noqa: F811
    """The model of changed options, which building consumes; the weights are always the same."""
    torch.manual_seed(0)
    options = copy.deepcopy(options)
    options['train'].update(train)
    return build_model(options)


def iterate(model, *numbers, data=None):
    for current_iter in numbers:
        model.update_learning_rate(current_iter)
        model.feed_data(data or sample())
        model.optimize_parameters(current_iter)
    return model.get_current_log()


def gradients(model, data):
    model.net_g.double()
    model.feed_data({name: value.double() for name, value in data.items()})
    model.optimize_parameters(1)
    return {name: parameter.grad for name, parameter in model.net_g.named_parameters()}


# ---------------------------------------------------------------- parts of a batch


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('network', ['EFAR', 'EDSR'])
def test_a_batch_in_parts_equals_the_whole(options, network, reduction):  # noqa: F811
    """The same gradients and losses, of sequences and of single images, for means and for sums."""
    if network == 'EDSR':
        options['network_g'] = {'type': 'EDSR', **OTHER_KINDS['EDSR']}
    options['train'].update(fix_flow=10, pixel_opt={'type': 'CharbonnierLoss', 'reduction': reduction})
    data = sample(b=2, t=2, size=40)
    whole, parts = build(options), build(options, accumulate=2)
    expected = gradients(whole, data)
    for name, gradient in gradients(parts, data).items():
        if 'spynet' not in name:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)
    assert parts.get_current_log()['l_pix'] == pytest.approx(whole.get_current_log()['l_pix'], rel=1e-12)
    assert parts.output.size(0) * 2 == whole.output.size(0)


# ---------------------------------------------------------------- checkpointing


@pytest.mark.parametrize(('network', 'fix_flow'), [('EFAR', 0), ('EFAR', 10), ('BasicVSR', 0)])
def test_checkpointed_gradients_equal_those_without(options, network, fix_flow):  # noqa: F811
    """And those of the network's own forward, frame by frame; what is kept for them is a small part."""
    if network == 'BasicVSR':
        options['network_g'] = dict(BASICVSR)
    options['train']['fix_flow'] = fix_flow
    kept = {}

    def keep(checkpointing, tensor):
        kept[checkpointing] = kept.get(checkpointing, 0) + tensor.numel()
        return tensor

    results = {}
    for checkpointing in (False, True):
        model = build(options, checkpointing=checkpointing)
        with saved_tensors_hooks(functools.partial(keep, checkpointing), lambda tensor: tensor):
            results[checkpointing] = gradients(model, sample(size=40))
    own = build(options)
    own.net_g.forward = functools.partial(type(own.net_g).forward, own.net_g)
    for name, expected in gradients(own, sample(size=40)).items():
        for gradient in (results[True][name], results[False][name]):
            if fix_flow and 'spynet' in name:
                assert gradient is None
            else:
                torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
    assert kept[True] < kept[False] / 5


def test_a_network_without_steps_is_not_checkpointed(options):  # noqa: F811
    options['network_g'] = {'type': 'MSFFN', **OTHER_KINDS['MSFFN']}
    with pytest.raises(InputError, match='train: checkpointing: MSFFN does not run step by step'):
        build(options, checkpointing=True)


# ---------------------------------------------------------------- precision


def test_bfloat16_computes_steps_in_it_and_flow_and_losses_in_float32(options):  # noqa: F811
    exact, model = build(options), build(options, amp='bfloat16')
    dtypes = {}
    for name in ('spynet.basic_module.0', 'backward_propagation.fusion', 'extractor'):
        module = model.net_g.get_submodule(name)
        module.register_forward_hook(lambda _, __, output, name=name: dtypes.update({name: output.dtype}))
    loss, expected = iterate(model, 1)['l_pix'], iterate(exact, 1)['l_pix']
    assert dtypes == {
        'spynet.basic_module.0': torch.float32,
        'backward_propagation.fusion': torch.bfloat16,
        'extractor': torch.bfloat16,
    }
    assert model.output.dtype == torch.float32
    assert {parameter.dtype for parameter in model.net_g.parameters()} == {torch.float32}
    assert loss != expected
    assert loss == pytest.approx(expected, rel=1e-3)
    model.net_g.eval()  # nothing of it outside training
    with torch.no_grad():
        lq = sample()['lq']
        assert torch.equal(model.net_g(lq), run_clip(model.net_g, lq))


@pytest.mark.parametrize(('flags', 'has_it'), [('fma avx2 avx512f', False), ('fma avx512_bf16', True)])
def test_bfloat16_without_its_arithmetic_is_said(options, tmp_path, monkeypatch, flags, has_it):  # noqa: F811
    said = []
    logger = type('Logger', (), {'warning': lambda _, text: said.append(text), 'info': lambda *_: None})()
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'processor : 0\nflags : {flags}\n')
    monkeypatch.setattr(training_forward, 'CPUINFO', cpuinfo)
    monkeypatch.setattr(training, 'get_root_logger', lambda: logger)
    build(options, amp='bfloat16')
    assert said == (
        [] if has_it else ['train: amp: bfloat16 is slower here than none: the device has no arithmetic in it.']
    )


def test_float16_is_for_gpus(options):  # noqa: F811
    with pytest.raises(InputError, match='train: amp: float16 is for GPUs; on a CPU say bfloat16'):
        build(options, amp='float16')


def test_resumed_with_everything_on_equals_uninterrupted(options):  # noqa: F811
    """bfloat16, a batch in parts, checkpointing, clipping: killed and resumed, the very weights."""
    options['train'].update(
        amp='bfloat16', accumulate=2, checkpointing=True, grad_clip=0.1, ema_decay=0.5, fix_flow=2, flow_lr_mul=0.5
    )
    data = sample(b=2, t=2)
    whole = build(options)
    iterate(whole, 1, 2, data=data)
    whole.save(epoch=0, current_iter=2)
    iterate(whole, 3, 4, data=data)
    options['auto_resume'] = True
    state = load_resume_state(options)
    resumed = build(options)
    resumed.resume_training(state)
    iterate(resumed, 3, 4, data=data)
    for net in ('net_g', 'net_g_ema'):
        for name, value in getattr(whole, net).state_dict().items():
            assert torch.equal(getattr(resumed, net).state_dict()[name], value), name


def test_gradients_are_clipped(options):  # noqa: F811
    free, clipped = build(options), build(options, grad_clip=1e-3)
    iterate(free, 1)
    iterate(clipped, 1)

    def norm(model):
        return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.net_g.parameters()))

    assert norm(free) > 2e-3
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-4)


# ---------------------------------------------------------------- compiling


def test_compiled_steps_give_the_same(options, monkeypatch):  # noqa: F811
    """By the compiler's front end alone: what generates code takes minutes."""
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    options['network_g'] = {'type': 'RLSP', 'num_feat': 8, 'num_conv': 2}
    eager, model = build(options), build(options, compile=True)
    expected = gradients(eager, sample(size=16))
    for name, gradient in gradients(model, sample(size=16)).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-12)
    assert set(model.net_g.forward.compiled) == {'forward_step', 'upsample'}


def test_training_goes_on_where_compiling_fails(options, monkeypatch):  # noqa: F811
    def compile_step(step):
        def fail(**inputs):
            raise RuntimeError('no compiler\nfound')

        return fail

    said = []
    monkeypatch.setattr(torch, 'compile', compile_step)
    logger = type('Logger', (), {'warning': lambda _, text: said.append(text)})()
    monkeypatch.setattr('basicsr_plugins.models.training_forward.get_root_logger', lambda: logger)
    model = build(options, compile=True)
    assert iterate(model, 1, 2) == iterate(build(options), 1, 2)
    assert said == ['train: compile: goes on without (no compiler found).']


# ---------------------------------------------------------------- what is not finite


@pytest.mark.parametrize('more', [{}, {'foreach': True}])  # without it the optimizer is fused, and skips steps itself
def test_a_step_that_is_not_finite_is_skipped_and_counted(options, more):  # noqa: F811
    options['train']['optim_g'].update(more)
    model = build(options, ema_decay=0.5)
    good, bad = sample(size=16), sample(size=16)
    iterate(model, 1, data=good)
    before = copy.deepcopy([model.net_g.state_dict(), model.optimizer_g.state_dict()['state']])
    bad['gt'][0, 1, 0, 5, 5] = math.nan
    log = iterate(model, 2, 3, data=bad)
    assert math.isnan(log['l_pix'])
    assert log['skipped'] == 2
    for name, value in model.net_g.state_dict().items():
        assert torch.equal(value, before[0][name])
    for number, state in model.optimizer_g.state_dict()['state'].items():
        assert all(torch.equal(value, before[1][number][name]) for name, value in state.items())
    log = iterate(model, 4, data=good)
    assert log['skipped'] == 2
    assert math.isfinite(log['l_pix'])
    assert not torch.equal(model.net_g.upsampler.conv_last.bias, before[0]['upsampler.conv_last.bias'])


def test_too_many_in_a_row_stop_the_run(options):  # noqa: F811
    """Through NaN in the flow network's weights, by which PyTorch's own operators crash; nothing of it is saved.

    What was saved after the last step that was taken is not called good: that step spoilt the weights.
    """
    model = build(options, max_skipped=3, ema_decay=0.5)
    for number in (1, 2):
        iterate(model, number)
        model.save(epoch=0, current_iter=number)
    path = Path(options['path']['models']) / 'net_g_1.pth'
    before = path.read_bytes()
    with torch.no_grad():
        model.net_g.spynet.basic_module[2].basic_module[0].bias[0] = math.nan
    with pytest.raises(RunError) as stopped:
        iterate(model, 3, 4, 5, 6)
    assert str(stopped.value) == (
        'training diverged: at iteration 5 too many steps in a row were skipped, whose loss or gradients are not '
        f'finite (loss nan, learning rate 0.0009961); the last good checkpoint is {path}; '
        'lower train: optim_g: lr, or set train: grad_clip.'
    )
    name = 'spynet.basic_module.2.basic_module.0.bias'
    with pytest.raises(RunError, match=f'iteration 5 {name} of params is not finite and was not saved'):
        model.save(epoch=0, current_iter=1)
    assert path.read_bytes() == before


def test_a_rate_that_is_too_high_ends_training(options):  # noqa: F811
    options['train']['optim_g']['lr'] = math.inf
    with pytest.raises(InputError, match='train: optim_g: lr must be a number'):
        build(options)
    options['train']['optim_g']['lr'] = 1e36
    with pytest.raises(RunError, match=r'training diverged: at iteration 3 .* no checkpoint was saved before'):
        iterate(build(options, max_skipped=2), *range(1, 6))


def test_a_training_that_ends_amid_skipped_steps_fails(options):  # noqa: F811
    """Before so many came in a row that it is stopped; a single one of a finite loss, as float16 has, is none."""
    model = build(options)
    iterate(model, 1)
    nan_gradient = model.net_g.upsampler.conv_last.weight.register_hook(lambda gradient: gradient * math.nan)
    iterate(model, 2)
    assert model.skipped.in_a_row == 1
    model.save(epoch=0, current_iter=-1)
    iterate(model, 3)
    with pytest.raises(RunError, match=r'at iteration 3 training ends with steps that were skipped'):
        model.save(epoch=0, current_iter=-1)
    nan_gradient.remove()
    options['train']['optim_g']['lr'] = 1e30
    model = build(options)
    iterate(model, 1, 2)
    with pytest.raises(RunError, match=r'at iteration 2 training ends with steps that were skipped, .* no '):
        model.save(epoch=0, current_iter=-1)


@pytest.mark.parametrize('fault', ['nan', 'damaged'])
def test_weights_that_are_no_start(fault, options):  # noqa: F811
    """Of training and of the test alike."""
    model = build(options)
    model.save(epoch=0, current_iter=1)
    path = Path(options['path']['models']) / 'net_g_1.pth'
    if fault == 'nan':
        weights = torch.load(path, weights_only=True)
        weights['params']['upsampler.conv_last.bias'][0] = math.nan
        torch.save(weights, path)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    options['path']['pretrain_network_g'] = str(path)
    messages = {
        'nan': r'conv_last\.bias has values that are NaN or infinite',
        'damaged': 'is damaged .* checksum',
    }
    for is_train in (True, False):
        with pytest.raises(InputError, match=messages[fault]):
            build_model({**copy.deepcopy(options), 'is_train': is_train})


def warp(x, flow):
    return arch_util.flow_warp(x, flow[:, :2].permute(0, 2, 3, 1), padding_mode='border')


def align(x, offset):
    return modulated_deform_conv2d(x, offset, torch.ones(1, 9, 16, 16), torch.ones(4, 4, 3, 3), padding=1)


@pytest.mark.parametrize('sample_at', [warp, align])
def test_nan_does_not_crash_operators(monkeypatch, run, tmp_path, sample_at):
    """It kills the process (SIGSEGV) in the operators of PyTorch and torchvision; here the result is NaN."""
    monkeypatch.setenv('BASICSR_PLUGINS_DCN', 'torchvision')
    x, where = torch.zeros(1, 4, 16, 16, requires_grad=True), torch.zeros(1, 18, 16, 16)
    finite = sample_at(x, where)
    where[:, :5, 3:9] = math.nan
    where.requires_grad_()
    output = sample_at(x, where)
    output.sum().backward()
    assert output.isnan().all()
    assert finite.isfinite().all()
    theirs = 'F.grid_sample(x, flow, padding_mode="border", align_corners=True)'
    if sample_at is align:
        theirs = 'torchvision.ops.deform_conv2d(x, torch.full((1, 18, 16, 16), nan), torch.ones(4, 4, 3, 3), padding=1)'
    program = f"""
import torch, torchvision
from torch.nn import functional as F
nan = float('nan')
x, flow = torch.zeros(1, 4, 16, 16, requires_grad=True), torch.zeros(1, 16, 16, 2)
flow[:, 3:9] = nan
flow.requires_grad_()
{theirs}.sum().backward()
"""
    crashed = run('python', '-c', program, cwd=tmp_path, check=False, BASICSR_PLUGINS_AUTOLOAD='0')
    if sys.platform.startswith('linux'):  # what memory the operators touch is of the system
        assert crashed.returncode == -signal.SIGSEGV
