"""Networks of every kind restore a clip frame by frame; windows against windows cut by hand."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.data.data_util import generate_frame_indices
from basicsr.utils.matlab_functions import imresize
from torch import nn
from torch.nn import functional as F

from basicsr_plugins.errors import InputError
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.models.restoration import PADDING_MODES, prepare_sample, restore_frames

NETWORKS = {
    'EDVR': {'num_feat': 8, 'num_frame': 5, 'deformable_groups': 2, 'num_extract_block': 1, 'num_reconstruct_block': 1},
    'EDVR without TSA': {
        'type': 'EDVR',
        'num_feat': 8,
        'num_frame': 3,
        'deformable_groups': 2,
        'num_extract_block': 1,
        'num_reconstruct_block': 1,
        'with_tsa': False,
    },
    'MSFFN': {'num_feat': 8, 'num_frame': 5, 'num_extract_block': 1, 'num_mdrb': 1, 'num_block': 1, 'deform_groups': 2},
    'DUF': {'num_layer': 16},
    'TOFlow': {},
}
IMAGE_NETWORKS = {
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1},
    'RCAN': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 1, 'num_block': 1, 'squeeze_factor': 4},
    'MSRResNet': {'num_feat': 8, 'num_block': 1},
    'RRDBNet': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4},
}


def build(name):
    torch.manual_seed(0)
    net = build_network({'type': name, **{**NETWORKS, **IMAGE_NETWORKS}[name]}).eval()
    for parameter in net.parameters():  # alignment that does something
        parameter.data += 0.02 * torch.randn_like(parameter)
    return net


class Frames:
    """A clip that counts what is read of it."""

    def __init__(self, t, h, w):
        self.data = torch.rand(t, 3, h, w, generator=torch.Generator().manual_seed(2))
        self.read = []

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        self.read.append(i)
        return self.data[i]


@torch.no_grad()
@pytest.mark.parametrize('name', sorted(NETWORKS))
def test_windows_as_cut_by_hand(name):
    net = build(name)
    length = {'DUF': 7, 'TOFlow': 7, 'EDVR without TSA': 3}.get(name, 5)
    frames = Frames(8, 16, 20)
    restored = list(restore_frames(net, frames, 'reflection'))
    assert len(restored) == 8
    for i, output in enumerate(restored):
        window = frames.data[generate_frame_indices(i, 8, length, 'reflection')]
        if name == 'TOFlow':  # 80 wide is 16 times 5, 64 high is 16 times 4
            window = torch.stack([imresize(frame, 4) for frame in window])
        torch.testing.assert_close(output, net(window.unsqueeze(0))[0])
    assert sorted(frames.read) == list(range(8))  # each once


@torch.no_grad()
@pytest.mark.parametrize('name', ['MSFFN', 'EDVR'])
@pytest.mark.parametrize('padding', PADDING_MODES)
def test_padding_modes(name, padding):
    """At both ends; frames that come back are not other frames."""
    net = build(name)
    clip = Frames(7, 12, 12)
    restored = list(restore_frames(net, clip, padding))
    for i in (0, 1, 5, 6):
        window = clip.data[generate_frame_indices(i, 7, 5, padding)]
        torch.testing.assert_close(restored[i], net(window.unsqueeze(0))[0])


@torch.no_grad()
@pytest.mark.parametrize('t', [1, 2, 3])
@pytest.mark.parametrize('padding', PADDING_MODES)
def test_clips_shorter_than_the_window(t, padding):
    """The toolbox's mirrored indices would leave the clip."""
    restored = list(restore_frames(build('MSFFN'), Frames(t, 8, 8), padding))
    assert len(restored) == t
    if t == 1:
        window = Frames(1, 8, 8).data.expand(5, 3, 8, 8)
        torch.testing.assert_close(restored[0], build('MSFFN')(window.unsqueeze(0))[0])


@torch.no_grad()
def test_features_are_extracted_once():
    net = build('MSFFN')
    calls = []
    net.extractor.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    list(restore_frames(net, Frames(9, 8, 8)))
    assert calls == [1] * 9


@torch.no_grad()
@pytest.mark.parametrize('name', ['MSFFN', 'EDVR', 'EDSR'])
def test_frames_are_read_when_they_are_needed_and_kept_no_longer(name):
    """Of a clip of 1000 frames as many tensors are alive in the middle as of one of 20, and no frame is read early."""
    alive = {}
    for t in (20, 1000):
        references = []

        class Endless:
            def __init__(self, references, t):
                self.references, self.t = references, t

            def __len__(self):
                return self.t

            def __getitem__(self, i):
                frame = torch.full((3, 8, 8), i / 1000)
                self.references.append((i, frame.untyped_storage()._weak_ref()))
                return frame

        restored = restore_frames(build(name), Endless(references, t), 'replicate')
        for _ in range(10):
            next(restored)
        assert max(i for i, _ in references) <= 9 + 2
        living = 0
        for _, reference in references:
            storage = torch.UntypedStorage._new_with_weak_ptr(reference)
            living += storage is not None
        alive[t] = living
    assert alive[20] == alive[1000] <= 6


@torch.no_grad()
@pytest.mark.parametrize('name', ['EDVR', 'TOFlow'])
@pytest.mark.parametrize(('h', 'w'), [(13, 18), (3, 17)])
def test_sizes_that_do_not_divide(name, h, w):
    """Padded by mirroring at the right and the bottom; what does not touch the border is as in the larger frame."""
    net = build(name)
    clip = Frames(5, h, w)
    restored = list(restore_frames(net, clip, 'replicate'))
    assert all(output.shape == (3, 4 * h, 4 * w) and output.isfinite().all() for output in restored)
    if name == 'EDVR' and h > 3:
        window = F.pad(clip.data, (0, -w % 4, 0, -h % 4), mode='reflect')
        torch.testing.assert_close(restored[2], net(window.unsqueeze(0))[0, :, : 4 * h, : 4 * w])


@torch.no_grad()
@pytest.mark.parametrize('name', sorted(IMAGE_NETWORKS))
def test_single_images(name):
    net = build(name)
    clip = Frames(3, 9, 10)
    for i, output in enumerate(restore_frames(net, clip)):
        torch.testing.assert_close(output, net(clip.data[i : i + 1])[0])
    assert clip.read == [0, 1, 2]


@torch.no_grad()
@pytest.mark.parametrize('flip_seq', [False, True])
def test_sequences(flip_seq):
    net = build_network({'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}).eval()
    clip = Frames(3, 64, 64)
    lq = clip.data.unsqueeze(0)
    expected = net(lq)
    if flip_seq:
        both = net(torch.cat([lq, lq.flip(1)], dim=1))
        expected = (both[:, :3] + both[:, 3:].flip(1)) / 2
    torch.testing.assert_close(torch.stack(list(restore_frames(net, clip, flip_seq=flip_seq))), expected[0])


@torch.no_grad()
def test_windows_of_attention():
    """SwinIR's frames are mirrored on to sides that its windows divide."""
    torch.manual_seed(0)
    options = {'embed_dim': 12, 'depths': [1], 'num_heads': [2], 'img_size': 16, 'window_size': 8, 'upscale': 4}
    net = build_network({'type': 'SwinIR', 'upsampler': 'pixelshuffledirect', **options}).eval()
    clip = Frames(1, 13, 18)
    padded = F.pad(clip.data, (0, 6, 0, 3), mode='reflect')
    (output,) = restore_frames(net, clip)
    torch.testing.assert_close(output, net(padded)[0, :, :52, :72])


def kind(net):
    return spec_of(net).input_type


def test_kinds():
    kinds = {name: kind(build_network({'type': name})) for name in ('BasicVSR', 'IconVSR', 'EFAR', 'Bicubic')}
    assert set(kinds.values()) == {'sequence'}
    assert {kind(build(name)) for name in ('EDVR', 'MSFFN', 'DUF', 'TOFlow')} == {'window'}
    assert {kind(build(name)) for name in IMAGE_NETWORKS} == {'image'}

    class Own(nn.Module):
        input_type = 'image'

    assert kind(Own()) == 'image'
    assert kind(nn.Identity()) == 'sequence'


def test_windows_in_training():
    windows, gt = torch.rand(2, 7, 3, 16, 16), torch.rand(2, 3, 64, 64)
    assert torch.equal(prepare_sample(build('DUF'), windows, gt)[0], windows)
    upsampled, _ = prepare_sample(build('TOFlow'), windows, gt)
    torch.testing.assert_close(upsampled[1, 3], imresize(windows[1, 3], 4))
    with pytest.raises(InputError, match='MSFFN takes windows of 5 frames, but the samples have 7; set num_frame'):
        prepare_sample(build('MSFFN'), windows, gt)


def test_wrong_wishes():
    clip = Frames(3, 8, 8)
    with pytest.raises(InputError, match="padding is 'mirror', but must be one of replicate, reflection"):
        restore_frames(build('MSFFN'), clip, 'mirror')
    with pytest.raises(InputError, match='flip_seq is for recurrent networks, but EDSR takes one image at a time'):
        restore_frames(build('EDSR'), clip, flip_seq=True)
    options = {**NETWORKS['EDVR'], 'center_frame_idx': 1}
    with pytest.raises(InputError, match='EDVR: frame 1 of 5 is not the centre of the window'):
        restore_frames(build_network({'type': 'EDVR', **options}), clip)


@torch.no_grad()
@pytest.mark.parametrize('t', [1, 3, 7])
@pytest.mark.parametrize('name', ['IconVSR', 'BasicVSRPlusPlus'])
def test_recurrent_networks_on_short_clips_and_small_frames(name, t):
    """The toolbox's fail on these; the clip goes on by its last frame and its border."""
    options = {'IconVSR': {'num_feat': 16, 'num_block': 1}, 'BasicVSRPlusPlus': {'mid_channels': 16, 'num_blocks': 1}}
    torch.manual_seed(0)
    net = build_network({'type': name, **options[name]}).eval()
    clip = Frames(t, 40, 52)
    restored = torch.stack(list(restore_frames(net, clip)))
    assert restored.shape == (t, 3, 160, 208)
    size = (64, 64) if name == 'BasicVSRPlusPlus' else (40, 52)
    longer = clip.data[[min(i, t - 1) for i in range(max(t, 5))]] if name == 'IconVSR' else clip.data
    padded = F.pad(longer, (0, size[1] - 52, 0, size[0] - 40), mode='replicate')
    torch.testing.assert_close(restored, net(padded[None])[0, :t, :, :160, :208])
