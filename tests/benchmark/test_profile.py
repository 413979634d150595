"""Costs of networks against counts by hand.

The counts are written out layer by layer: 3x3 convolutions of 8 to 16 channels on 100 pixels make conv(8, 16, 3, 100)
= 8 * 16 * 3 * 3 * 100 products. Networks have 8 channels.
"""

import math
import subprocess
import sys

import pytest
import torch
import torchvision
from basicsr.archs import build_network
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from basicsr_plugins.benchmark import machine, profile
from basicsr_plugins.benchmark.machine import git_commit
from basicsr_plugins.benchmark.profile import MacCounter, count_macs, count_parameters, seconds_per_frame
from basicsr_plugins.errors import InputError
from basicsr_plugins.memory import PeakMemory
from basicsr_plugins.ops import deform_conv
from basicsr_plugins.ops.deform_conv import ModulatedDeformConv2d, available_backends


def build(name, **options):
    return build_network({'type': name, **options})


def conv(c_in, c_out, k, pixels):
    return c_in * c_out * k * k * pixels


# ------------------------------------------------------------------------------------------------------- whole networks


def test_macs_of_a_network_of_images():
    """MSRResNet, x4: two residual blocks, then two pixel shuffles."""
    p = 10 * 14  # pixels of the LR frame
    by_hand = (
        conv(3, 8, 3, p)
        + 2 * (conv(8, 8, 3, p) + conv(8, 8, 3, p))
        + conv(8, 32, 3, p)
        + conv(8, 32, 3, 4 * p)
        + conv(8, 8, 3, 16 * p)
        + conv(8, 3, 3, 16 * p)
        + 4 * 3 * 16 * p  # bilinear upsampling of the frame
    )
    assert by_hand == (216 + 4 * 576 + 2304 + 9216 + 9216 + 3456 + 192) * 140
    assert count_macs(build('MSRResNet', num_feat=8, num_block=2), (10, 14)) == by_hand


def hand_count_of_edvr_features(p, p2, p3, num_block):
    """Of one frame, on levels of p, p2 and p3 pixels."""
    return (
        conv(3, 8, 3, p)
        + num_block * (conv(8, 8, 3, p) + conv(8, 8, 3, p))
        + conv(8, 8, 3, p2)  # with stride 2, from p to p2
        + conv(8, 8, 3, p2)
        + conv(8, 8, 3, p3)
        + conv(8, 8, 3, p3)
    )


def hand_count_of_edvr_alignment(p, p2, p3, deform_groups):
    """Of one frame to the centre frame: a pyramid of three levels from p3 to p, then a cascade."""

    def deform(pixels):  # x, y and mask for 9 taps of each group; products; samples and masks
        return conv(8, 3 * 9 * deform_groups, 3, pixels) + conv(8, 8, 3, pixels) + 8 * 9 * 5 * pixels

    return (
        conv(16, 8, 3, p3)
        + conv(8, 8, 3, p3)
        + deform(p3)
        + 2 * 4 * 8 * p2  # features of the offsets, and those aligned, upsampled to the next level
        + conv(16, 8, 3, p2)
        + conv(16, 8, 3, p2)
        + conv(8, 8, 3, p2)
        + deform(p2)
        + conv(16, 8, 3, p2)
        + 2 * 4 * 8 * p
        + conv(16, 8, 3, p)
        + conv(16, 8, 3, p)
        + conv(8, 8, 3, p)
        + deform(p)
        + conv(16, 8, 3, p)
        + conv(16, 8, 3, p)  # the cascade
        + conv(8, 8, 3, p)
        + deform(p)
    )


def hand_count_of_edvr_fusion(p, p2, p3, num_frame):
    """Temporal attention, then spatial attention on three levels."""
    return (
        conv(8, 8, 3, p)  # embedding of the centre frame, then of all
        + conv(8, 8, 3, num_frame * p)
        + conv(num_frame * 8, 8, 1, p)
        + conv(num_frame * 8, 8, 1, p)
        + conv(16, 8, 1, p2)  # after pooling
        + conv(8, 8, 1, p2)
        + conv(16, 8, 3, p3)
        + conv(8, 8, 3, p3)
        + 4 * 8 * p2
        + conv(8, 8, 3, p2)
        + conv(8, 8, 1, p2)
        + 4 * 8 * p
        + conv(8, 8, 3, p)
        + conv(8, 8, 1, p)
        + conv(8, 8, 1, p)
    )


def test_macs_of_a_network_of_windows():
    """EDVR with windows of 3 frames: the frames' features, their alignment, fusion by attention, reconstruction."""
    p, p2, p3 = 16 * 24, 8 * 12, 4 * 6
    by_hand = (
        3 * hand_count_of_edvr_features(p, p2, p3, num_block=1)
        + 3 * hand_count_of_edvr_alignment(p, p2, p3, deform_groups=2)
        + hand_count_of_edvr_fusion(p, p2, p3, num_frame=3)
        + conv(8, 8, 3, p)
        + conv(8, 8, 3, p)
        + hand_count_of_upsampling(p)
        + 4 * 3 * 16 * p
    )
    options = {'num_feat': 8, 'num_frame': 3, 'deformable_groups': 2, 'num_extract_block': 1}
    assert count_macs(build('EDVR', num_reconstruct_block=1, **options), (16, 24)) == by_hand


def hand_count_of_upsampling(p):
    """From 8 channels: two pixel shuffles, to 8 and to 64 channels, and two convolutions on the result."""
    return conv(8, 32, 3, p) + conv(8, 256, 3, 4 * p) + conv(64, 64, 3, 16 * p) + conv(64, 3, 3, 16 * p)


def hand_count_of_spynet(p):
    """One flow for a frame of p pixels that SpyNet enlarges to 64x64, so that its six levels have 2x2 ... 64x64."""
    total = 2 * 4 * 3 * 64 * 64 + 4 * 2 * p  # two frames resized, and the flow back
    for pixels in (2 * 2, 4 * 4, 8 * 8, 16 * 16, 32 * 32, 64 * 64):
        total += 4 * 2 * pixels + 4 * 3 * pixels  # the flow from the level below, and the frame warped by it
        total += conv(8, 32, 7, pixels) + conv(32, 64, 7, pixels) + conv(64, 32, 7, pixels)
        total += conv(32, 16, 7, pixels) + conv(16, 2, 7, pixels)
    return total


def test_macs_of_a_network_of_sequences():
    """BasicVSR: flow both ways, and for each direction a state warped and one residual block."""
    p = 40 * 64
    direction = 4 * 8 * p + conv(3 + 8, 8, 3, p) + conv(8, 8, 3, p) + conv(8, 8, 3, p)
    rest = conv(16, 8, 1, p) + hand_count_of_upsampling(p) + 4 * 3 * 16 * p
    net = build('BasicVSR', num_feat=8, num_block=1)
    assert count_macs(net, (40, 64)) == 2 * hand_count_of_spynet(p) + 2 * direction + rest


def test_macs_of_efar():
    """Flow both ways; for each direction two alignments by deformable convolution; features and upsampling."""
    p = 40 * 64
    features = conv(3, 8, 3, p) + 2 * conv(8, 8, 3, p) + conv(16, 8, 1, p) + conv(8, 8, 1, p)
    alignment = conv(8, 54, 3, p) + conv(8, 8, 3, p) + 8 * 9 * 5 * p
    direction = 2 * alignment + conv(3 + 24, 8, 3, p) + conv(8, 8, 3, p) + conv(8, 8, 3, p)
    upsampling = (
        conv(16, 8, 1, p)
        + conv(8, 32, 3, p)
        + conv(8 + 3, 8, 1, 4 * p)
        + conv(8, 256, 3, 4 * p)
        + conv(64, 3, 3, 16 * p)
        + 4 * 3 * 4 * p  # the frame upsampled bilinearly to x2 and to x4
        + 4 * 3 * 16 * p
    )
    net = build('EFAR', num_feat=8, num_block=1, dilations=(1, 2), deform_groups=2)
    assert count_macs(net, (40, 64)) == features + 2 * hand_count_of_spynet(p) + 2 * direction + upsampling


def test_macs_of_keyframes_are_shared_by_the_frames_between_them():
    """IconVSR: a keyframe, made of 5 frames by EDVR and fused in both directions, each 5 frames and each 10."""
    p, p2, p3 = 40 * 64, 20 * 32, 10 * 16
    keyframe = (
        5 * hand_count_of_edvr_features(p, p2, p3, num_block=5)
        + 5 * hand_count_of_edvr_alignment(p, p2, p3, deform_groups=8)
        + hand_count_of_edvr_fusion(p, p2, p3, num_frame=5)
        + 2 * conv(16, 8, 3, p)
    )
    directions = 2 * 4 * 8 * p + conv(3 + 8, 8, 3, p) + conv(3 + 8 + 8, 8, 3, p) + 4 * conv(8, 8, 3, p)
    others = 2 * hand_count_of_spynet(p) + directions + hand_count_of_upsampling(p) + 4 * 3 * 16 * p
    for stride in (5, 10):
        net = build('IconVSR', num_feat=8, num_block=1, keyframe_stride=stride)
        assert count_macs(net, (40, 64)) == others + keyframe / stride


def test_macs_of_bicubic_upsampling_are_those_that_the_toolbox_does():
    net = build('Bicubic', scale=4)
    by_hand = 3 * 4 * 10 * 12 * 4 + 3 * 4 * 10 * 4 * 12 * 4  # 4 taps; the height first
    assert count_macs(net, (10, 12)) == by_hand
    with MacCounter() as counter:
        net(torch.rand(1, 2, 3, 10, 12))
    assert counter.macs == 2 * by_hand


@pytest.mark.parametrize(
    ('name', 'options', 'shape'),
    [
        ('EDSR', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}, (1, 3, 10, 14)),
        ('RRDBNet', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}, (1, 3, 8, 8)),
        ('SwinIR', {'img_size': 8, 'window_size': 4, 'embed_dim': 12, 'depths': [2], 'num_heads': [2]}, (1, 3, 8, 8)),
    ],
)
def test_macs_are_half_of_the_flops_that_pytorch_counts(name, options, shape):
    """Of networks that interpolate nothing: convolutions, and attention by matrix products."""
    net = build(name, **options)
    with MacCounter() as ours:
        net(torch.rand(shape))
    with FlopCounterMode(display=False) as theirs:
        net(torch.rand(shape))
    assert ours.macs == theirs.get_total_flops() / 2 > 0


@pytest.mark.parametrize('name', ['BasicVSR', 'EFAR'])
def test_what_pytorch_does_not_count_is_interpolation_and_sampling(name, monkeypatch):
    """The rest is the same: with our formulas added, PyTorch's counter counts what ours does."""
    interpolation = {
        torch.ops.aten.grid_sampler_2d: lambda x, grid, *_, out_shape: 2 * 4 * math.prod(out_shape),
        torch.ops.aten.upsample_bilinear2d: lambda *_, out_shape: 2 * 4 * math.prod(out_shape),
        torch.ops.torchvision.deform_conv2d: lambda x, weight, *_, out_shape: (
            2 * (math.prod(out_shape) * math.prod(weight[1:]) + 5 * 9 * math.prod(x))
        ),
    }
    monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, 'torchvision')
    net = build(name, num_feat=8, num_block=1).eval()
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad(), MacCounter() as ours:
        net(clip)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=interpolation) as theirs:
        net(clip)
    assert ours.macs == theirs.get_total_flops() / 2
    assert ours.macs > theirs.get_flop_counts()['Global'][torch.ops.aten.convolution] / 2 > 0


# ---------------------------------------------------------------------------------------------------- single operations


def count(operation, *shapes):
    """Multiply-adds of one operation, without and with data."""
    with MacCounter() as on_meta:
        operation(*(torch.empty(shape, device='meta') for shape in shapes))
    with MacCounter() as on_cpu:
        operation(*(torch.zeros(shape) for shape in shapes))
    assert on_meta.macs == on_cpu.macs
    return on_meta.macs


@pytest.mark.parametrize(
    ('by_hand', 'operation', 'shapes'),
    [
        # 2 frames, 4 channels of 4x4 pixels; each sees 3 channels of its group, 3x5 taps
        (2 * 4 * 4 * 4 * 3 * 15, lambda x, w: F.conv2d(x, w, stride=2, groups=2), [(2, 6, 9, 11), (4, 3, 3, 5)]),
        (8 * 10 * 12 * 9, lambda x, w: F.conv2d(x, w, padding=1, groups=8), [(1, 8, 10, 12), (8, 1, 3, 3)]),
        # each of 4 * 5 * 6 input values is multiplied by the 3 * 4 * 4 values of its kernel
        (4 * 5 * 6 * 3 * 16, lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1), [(1, 4, 5, 6), (4, 3, 4, 4)]),
        (3 * 3 * 4 * 5 * 2 * 27, F.conv3d, [(1, 2, 5, 6, 7), (3, 2, 3, 3, 3)]),
        (7 * 5 * 4, F.linear, [(7, 5), (4, 5)]),
        (2 * 7 * 5 * 4, F.linear, [(2, 7, 5), (4, 5), (4,)]),
        (3 * 4 * 5 * 6, torch.matmul, [(3, 4, 5), (3, 5, 6)]),
        (4 * 5, torch.mv, [(4, 5), (5,)]),
        (3 * 4 * 5 * 6, torch.baddbmm, [(3, 4, 6), (3, 4, 5), (3, 5, 6)]),
        (2 * 3 * 4 * 5, lambda a, b: torch.einsum('bij,bjk->bik', a, b), [(2, 3, 4), (2, 4, 5)]),
        (4 * 2 * 3 * 5 * 6, lambda x, g: F.grid_sample(x, g, align_corners=True), [(2, 3, 8, 9), (2, 5, 6, 2)]),
        (0, lambda x, g: F.grid_sample(x, g, 'nearest', align_corners=True), [(2, 3, 8, 9), (2, 5, 6, 2)]),
        (
            16 * 2 * 3 * 5 * 6,
            lambda x, g: F.grid_sample(x, g, 'bicubic', align_corners=True),
            [(2, 3, 8, 9), (2, 5, 6, 2)],
        ),
        (4 * 2 * 3 * 10 * 14, lambda x: F.interpolate(x, scale_factor=2, mode='bilinear'), [(2, 3, 5, 7)]),
        (16 * 2 * 3 * 4 * 9, lambda x: F.interpolate(x, size=(4, 9), mode='bicubic'), [(2, 3, 5, 7)]),
        (0, lambda x: F.interpolate(x, scale_factor=2), [(2, 3, 5, 7)]),
        (0, lambda x: F.layer_norm(F.leaky_relu(2 * x + x.sigmoid()), (7,)), [(2, 3, 5, 7)]),
    ],
)
def test_macs_of_single_operations(by_hand, operation, shapes):
    assert count(operation, *shapes) == by_hand


def test_macs_of_attention():
    """Queries times keys, and the result times values: 6 queries, 5 keys of 4 numbers, 2 heads."""
    q, k, v = (torch.empty(1, 2, n, 4, device='meta') for n in (6, 5, 5))
    with MacCounter() as counter:
        F.scaled_dot_product_attention(q, k, v)
    assert counter.macs == 2 * 2 * 6 * 5 * 4


def test_macs_of_unmodulated_deformable_convolution():
    """4 for each sample, and no mask: 4 channels, 9 taps, 6x7 pixels."""
    x, weight, offset = (torch.empty(s, device='meta') for s in ((1, 4, 6, 7), (5, 4, 3, 3), (1, 18, 6, 7)))
    with MacCounter() as counter:
        torchvision.ops.deform_conv2d(x, offset, weight, padding=1)
    assert counter.macs == conv(4, 5, 3, 6 * 7) + 4 * 9 * 4 * 6 * 7


class OfImages(nn.Module):
    """A network of images around one function or layer."""

    input_type = 'image'

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize('asked_by', ['argument', 'variable'])
@pytest.mark.parametrize('backend', available_backends())
def test_every_backend_of_deformable_convolution_counts_the_same(backend, asked_by, monkeypatch):
    if asked_by == 'variable':
        monkeypatch.setenv(deform_conv.BACKEND_VARIABLE, backend)
    named = 'auto' if asked_by == 'variable' else backend
    layer = ModulatedDeformConv2d(4, 6, 3, stride=2, padding=1, groups=2, deform_groups=2, backend=named)

    def convolve(x):
        feat = torch.cat([x, x[:, :1]], dim=1)  # (1, 4, 12, 16)
        offset, mask = feat.new_zeros(1, 36, 6, 8), feat.new_zeros(1, 18, 6, 8)
        return layer.to(x.device)(feat, offset, mask)

    # 6x8 pixels: 6 channels of 2 channels of their group, 9 taps; 5 for each of 4 channels and 9 taps
    assert count_macs(OfImages(convolve), (12, 16)) == 6 * 2 * 9 * 48 + 5 * 4 * 9 * 48


# ------------------------------------------------------------------------------------------- what counting leaves alone


def test_counting_leaves_the_network_and_the_library_as_they_were():
    net = build('BasicVSR', num_feat=8, num_block=1)
    net.spynet.eval()
    net.conv_last.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    modes = [module.training for module in net.modules()]
    backends, autocast = dict(deform_conv._BACKENDS), torch.autocast
    clip = torch.rand(1, 2, 3, 16, 16)
    output = net(clip)

    count_macs(net, (16, 16))
    assert [module.training for module in net.modules()] == modes
    assert all(parameter is parameters[name] for name, parameter in net.named_parameters())
    assert [name for name, p in parameters.items() if not p.requires_grad] == ['conv_last.weight']
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(clip), output)
    assert backends == deform_conv._BACKENDS
    assert torch.autocast is autocast


def test_branches_are_taken_as_for_zeros_and_copies_leave_the_meta_device():
    weight = torch.ones(5, 3, 1, 1)

    def function(x):
        if x.mean() > 0:
            x = x + F.conv2d(x, weight.to(x))
        return F.conv2d(x.cpu() + 1, weight).to(x)

    assert count_macs(OfImages(function), (4, 5)) == 3 * 5 * 4 * 5


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        (
            lambda x: F.interpolate(x[None], scale_factor=2, mode='trilinear')[0],
            'upsample_trilinear3d cannot be counted',
        ),
        (lambda x: x + x.numpy().size, 'does not restore frames of 4x5 without data'),
    ],
)
def test_what_cannot_be_counted_is_said(function, message):
    with pytest.raises(InputError, match=message):
        count_macs(OfImages(function), (4, 5))


# ----------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ('millions', 'name', 'options'),
    [
        (6.3, 'BasicVSR', {'num_block': 30}),
        (8.7, 'IconVSR', {'num_block': 30}),
        (7.3, 'BasicVSRPlusPlus', {'mid_channels': 64, 'num_blocks': 7}),
        (3.3, 'EDVR', {}),
        (20.6, 'EDVR', {'num_feat': 128, 'num_reconstruct_block': 40}),
        (6.8, 'EFAR', {}),
    ],
)
def test_parameters_are_as_published(millions, name, options):
    """To 0.1 M, as the papers' tables give them: BasicVSR, IconVSR, BasicVSR++, EDVR-M, EDVR-L, EFAR."""
    assert round(count_parameters(build(name, **options)) / 1e6, 1) == millions


def test_parameters_are_those_of_layers_and_no_buffers():
    assert count_parameters(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) == 3 * 8 * 9 + 8 + 8 + 8


# ------------------------------------------------------------------------------------------------------ time and memory


def test_seconds_per_frame_is_the_median_pass_without_the_first(monkeypatch):
    clips = []

    def see(x):
        clips.append((x, net.training, torch.is_grad_enabled()))
        return x

    net = OfImages(see)
    clock = iter([0, 100, 200, 205, 300, 330, 400, 410])  # passes of 100 (not timed), 5, 30 and 10 seconds
    monkeypatch.setattr(profile.time, 'perf_counter', lambda: next(clock))
    assert seconds_per_frame(net, size=(6, 8), num_frame=4, repeat=3) == 10 / 4
    assert len(clips) == (1 + 3) * 4
    frames = torch.cat([x for x, _, _ in clips]).unflatten(0, (4, 4))  # (passes, t, 3, h, w)
    assert frames.shape == (4, 4, 3, 6, 8)
    assert torch.equal(frames[0], frames[3])
    assert not torch.equal(frames[0, 0], frames[0, 1])
    assert not any(training or gradients for _, training, gradients in clips)
    assert net.training


needs_linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='memory is read from /proc')


@needs_linux
def test_peak_memory_is_what_was_taken_at_once_and_no_more():
    def take(megabytes):
        return torch.ones(megabytes * 2**18)  # written to, so that it is resident

    before = take(100)
    with PeakMemory('cpu') as memory:
        assert memory.bytes is None
        first = take(150)
        del first
        second = take(200)
        del second
    assert memory.bytes / 2**20 == pytest.approx(200, abs=20)
    with PeakMemory('cpu') as memory:
        kept = take(50)
    assert memory.bytes / 2**20 == pytest.approx(50, abs=10)
    assert len(before) > len(kept)


def test_peak_memory_is_none_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr('basicsr_plugins.memory._restart_high_water_mark', lambda: False)
    with PeakMemory('cpu') as memory:
        pass
    assert memory.bytes is None


# -------------------------------------------------------------------------------------------------------------- machine


def test_commit_is_named_and_changes_are_said(tmp_path):
    def git(*arguments):
        command = ['git', '-C', tmp_path, '-c', 'user.name=name', '-c', 'user.email=name@example.org', *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) is None
    git('init')
    assert git_commit(tmp_path) is None  # nothing committed
    (tmp_path / 'file').write_text('one')
    git('add', 'file')
    git('commit', '-m', 'message')
    commit = git('rev-parse', 'HEAD')
    (tmp_path / 'untracked').write_text('results')
    assert commit.startswith(git_commit(tmp_path))
    (tmp_path / 'file').write_text('two')
    assert git_commit(tmp_path) == f'{commit[:7]} (modified)'


def test_commit_is_none_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert git_commit(tmp_path) is None


def test_machine_and_versions_are_those_of_this_process():
    description = machine.describe_machine('cpu')
    assert description['threads'] == torch.get_num_threads()
    assert description['gpu'] is None
    assert description['processor']
    versions = machine.describe_versions()
    assert versions['torch'] == torch.__version__
    assert versions['basicsr'] == '1.4.2'
    assert versions['python'] == '.'.join(map(str, sys.version_info[:3]))
