"""Weights laid out for speed, and kept in half precision: the same network, bit for bit where it is to be."""

import functools
import warnings

import pytest
import torch
from basicsr.archs import build_network
from torch import nn

from basicsr_plugins.archs.vsr_modules import laid_out_as
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.buffers import DiskStates, KeptStates
from basicsr_plugins.inference.engine import notes_on
from basicsr_plugins.inference.prepared import lay_out, prepared
from basicsr_plugins.inference.runtimes import on_runtime

from .networks import film, small_network, upscale


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_exact_stays_exact(name):
    net, clip = small_network(name, num_feat=16), film(6, 18, 21)
    plain = upscale(net, clip)
    assert on_runtime(net, 'torch') is net
    assert next(net.parameters()).dtype == torch.float32
    whole = upscale(net, clip, segment=6)
    torch.testing.assert_close(whole, plain, rtol=0, atol=1e-5)
    if name == 'EFAR':  # the other computes the flows of all frames as one batch
        assert torch.equal(net(clip[None])[0], whole)
    for segment in (1, 2):
        assert torch.equal(upscale(net, clip, segment=segment), whole)
    assert torch.equal(upscale(net, clip, segment=2, skip=3), whole[3:])


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_states_keep_their_layout(tmp_path, layout):
    state = torch.rand(1, 4, 5, 6).contiguous(memory_format=layout), torch.rand(1, 2, 5, 6)
    with DiskStates(tmp_path) as states:
        states.save(0, state)
        back = states.load(0)
    KeptStates(tmp_path, 'forward', 0).save(3, state)
    for loaded in (back, KeptStates(tmp_path, 'forward', 0).load(3)):
        assert [one.stride() for one in loaded] == [one.stride() for one in state]
        assert all(map(torch.equal, loaded, state))


def test_only_two_dimensional_layers_are_laid_out():
    net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(3, 4))
    values = {name: value.clone() for name, value in net.state_dict().items()}
    assert net[1].weight.is_contiguous()
    lay_out(net)
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[0].weight.is_contiguous()
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())


@torch.no_grad()
def test_weights_are_cast_once_and_those_of_flow_never():
    net = small_network('EFAR')
    net.train()
    with prepared(net, torch.float32) as same:
        assert same is net
        assert not net.training
    assert net.training
    frame, other = film(2, 16, 16)[:, None]
    with prepared(net, torch.bfloat16) as copy:
        flow = copy.flow(frame, other)
        with torch.autocast('cpu', torch.bfloat16):
            feat = copy.extract(frame)
            casted = copy.extractor[0].weight
            copy.extract(frame)
        assert copy.extractor[0].weight is casted
        assert casted.dtype == feat.dtype == torch.bfloat16
        assert copy.spynet.conv.weight.dtype == flow.dtype == torch.float32
        assert copy.upsampler.conv_last.weight.dtype == torch.float32  # not used yet
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(feat, net.eval().extract(frame), rtol=0.02, atol=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


def test_what_is_joined_is_laid_out_alike():
    x, other = torch.rand(1, 3, 5, 6), torch.rand(1, 4, 5, 6)
    assert laid_out_as(x, other) is x
    other = other.contiguous(memory_format=torch.channels_last).bfloat16()
    ours = laid_out_as(x, other)
    assert torch.equal(ours, x.bfloat16())
    assert torch.cat((ours, other), dim=1).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_compiled_steps_give_the_same(monkeypatch, name, dtype, tolerance):
    """By the compiler's front end alone: what generates code takes minutes."""
    steps, make = set(), functools.partial(torch.compile, backend='aot_eager')
    monkeypatch.setattr(torch, 'compile', lambda step: steps.add(step.__name__) or make(step))
    net, clip = small_network(name), film(5, 16, 20)
    expected = upscale(net, clip, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = upscale(net, clip, dtype=dtype, compiled=True)
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
    assert {'flow', 'backward_step', 'forward_step', 'upsample'} == steps - {'extract'}
    assert torch.equal(upscale(net, clip, dtype=dtype), expected)


@torch.no_grad()
@pytest.mark.parametrize('when', ['compiled', 'run'])
def test_what_does_not_compile_runs_as_it_is(monkeypatch, when):
    def fail(*_, **__):
        raise RuntimeError('no compiler\nfound')

    def compile_step(step):
        return step if step.__name__ != 'upsample' else fail() if when == 'compiled' else fail

    monkeypatch.setattr(torch, 'compile', compile_step)
    net, clip = small_network('EFAR'), film(5, 16, 20)
    with pytest.warns(UserWarning, match=r'^upsample is not compiled \(no compiler found\)\.$') as warned:
        assert torch.equal(upscale(net, clip, compiled=True), upscale(net, clip))
    assert len(warned) == 1


@torch.no_grad()
def test_what_is_compiled_is_not_the_network(monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda step: step)
    net, clip = small_network('EFAR'), film(3, 16, 20)
    runs = [upscale_frames(net, iter(clip), UpscaleSettings(compiled=True)) for _ in range(2)]
    pairs = list(zip(*runs))
    assert all(torch.equal(*pair) for pair in pairs)
    assert not {'extract', 'flow', 'upsample'} & set(vars(net))


def test_compiling_is_for_steps_of_pytorch():
    settings = UpscaleSettings(compiled=True)
    assert notes_on(build_network({'type': 'SRCNN'}), settings) == ['SRCNN has no steps, and is not compiled.']
    pytest.importorskip('openvino', reason='openvino is not installed')
    elsewhere = on_runtime(small_network('EFAR'), 'openvino')
    with pytest.raises(InputError, match='compiled: that is for PyTorch, but EFAR runs by openvino'):
        upscale(elsewhere, film(2, 16, 20), compiled=True)
