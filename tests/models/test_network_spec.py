"""What networks are: what the descriptions say is what the networks do."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.utils import rgb2ycbcr
from basicsr.utils.matlab_functions import imresize
from torch import nn
from torch.nn import functional as F

from basicsr_plugins.archs.basicavsr_arch import BasicAVSR
from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.engine import notes_on
from basicsr_plugins.models.network_spec import fit_scale, require_scale, spec_of, untrained_note
from basicsr_plugins.models.restoration import luma, prepare_sample, restore_frames
from basicsr_plugins.upscaling import network_scale

RGB = {'num_in_ch': 3, 'num_out_ch': 3}
SMALL_EDVR = {'num_feat': 8, 'deformable_groups': 2, 'num_extract_block': 1, 'num_reconstruct_block': 1}
SMALL_SWINIR = {'embed_dim': 12, 'depths': [1], 'num_heads': [2], 'img_size': 16, 'window_size': 8}
TOOLBOX = [
    ('BasicVSR', {'num_feat': 4, 'num_block': 1}, {'scale': 4, 'estimates_flow': True}),
    ('IconVSR', {'num_feat': 8, 'num_block': 1}, {'scale': 4, 'min_frames': 5, 'estimates_flow': True, 'steps': None}),
    ('BasicVSRPlusPlus', {'mid_channels': 16, 'num_blocks': 1}, {'scale': 4, 'min_size': 64, 'estimates_flow': True}),
    ('EDVR', {**SMALL_EDVR, 'num_frame': 3}, {'input_type': 'window', 'num_frame': 3, 'scale': 4, 'size_multiple': 4}),
    (
        'EDVR',
        {**SMALL_EDVR, 'num_frame': 5, 'hr_in': True, 'with_predeblur': True},
        {'num_frame': 5, 'scale': 1, 'size_multiple': 16},
    ),
    ('TOFlow', {}, {'input_type': 'window', 'num_frame': 7, 'lq': 'bicubic', 'estimates_flow': True}),
    ('DUF', {'num_layer': 16, 'scale': 3}, {'input_type': 'window', 'num_frame': 7, 'scale': 3}),
    ('SwinIR', {**SMALL_SWINIR, 'upscale': 3, 'upsampler': 'pixelshuffledirect'}, {'scale': 3, 'size_multiple': 8}),
    ('SwinIR', {**SMALL_SWINIR, 'upscale': 2, 'upsampler': ''}, {'input_type': 'image', 'scale': 1}),
    ('EDSR', {**RGB, 'num_feat': 4, 'num_block': 1, 'upscale': 8}, {'input_type': 'image', 'scale': 8}),
    (
        'RCAN',
        {**RGB, 'num_feat': 4, 'num_group': 1, 'num_block': 1, 'squeeze_factor': 4, 'upscale': 3},
        {'input_type': 'image', 'scale': 3},
    ),
    ('MSRResNet', {'num_feat': 4, 'num_block': 1, 'upscale': 3}, {'input_type': 'image', 'scale': 3}),
    ('RRDBNet', {**RGB, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2, 'scale': 2}, {'scale': 2, 'size_multiple': 2}),
    ('RRDBNet', {**RGB, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2, 'scale': 1}, {'scale': 1, 'size_multiple': 4}),
    ('SRVGGNetCompact', {'num_feat': 4, 'num_conv': 1, 'upscale': 2}, {'input_type': 'image', 'scale': 2}),
]


@torch.no_grad()
@pytest.mark.parametrize(('name', 'arguments', 'says'), TOOLBOX, ids=lambda value: value if type(value) is str else '')
def test_the_toolboxs_networks_do_what_their_descriptions_say(name, arguments, says):
    """The factor is what comes out of a clip of a size that divides by nothing."""
    net = build_network({'type': name, **arguments}).eval()
    spec = spec_of(net)
    assert {key: getattr(spec, key) for key in says} == says
    (frame, *_) = restore_frames(net, torch.rand(2, 3, 17, 21))
    assert frame.shape == (3, 17 * spec.scale, 21 * spec.scale)


def test_subclasses():
    class Ours(MSRResNet):
        pass

    class Overridden(BasicVSR):
        scale = 2

        def forward(self, x):
            return x

    assert (spec_of(Ours(upscale=2)).input_type, spec_of(Ours(upscale=2)).scale) == ('image', 2)
    spec = spec_of(Overridden(4, 1))
    assert (spec.name, spec.scale, spec.steps, spec.estimates_flow) == ('Overridden', 2, None, True)
    assert spec_of(BasicVSR(4, 1)).steps.ahead == 0


def test_attributes_that_mean_something_else():
    class Own(nn.Module):
        def __init__(self, **said):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            for name, value in said.items():
                setattr(self, name, value)

    assert spec_of(Own()).scale is None
    assert spec_of(Own(input_type='window', num_frame=3)).num_frame == 3
    with pytest.raises(InputError, match=r"Own: input_type is 'windows', but must be one of sequence, window, image"):
        spec_of(Own(input_type='windows'))


@torch.no_grad()
def test_enlarged_frames_come_in_the_runs_factor():
    net = build_network({'type': 'TOFlow'}).eval()
    fit_scale(net, 2)
    clip = torch.rand(2, 3, 16, 16)
    assert next(restore_frames(net, clip)).shape == (3, 32, 32)
    lq, _ = prepare_sample(net, clip.repeat(4, 1, 1, 1)[None, :7], torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(lq[0, 1], imresize(clip[1], 2))
    edsr = build_network({'type': 'EDSR', **RGB, 'num_feat': 4, 'num_block': 1})
    assert not fit_scale(edsr, 2)
    assert network_scale(edsr) == 4


@torch.no_grad()
def test_a_run_has_a_scale():
    """A fraction, or two; luma networks and those of enlarged frames too. Who cannot says what can."""
    lq = torch.rand(1, 3, 20, 30)
    cases = ('Bicubic', 2.7, (54, 81)), ('Bicubic', (1.5, 3), (30, 90)), ('TOFlow', 2.5, (50, 75))
    for network, scale, size in cases:
        net = build_network({'type': network}).eval()
        require_scale(net, scale)
        assert spec_of(net).scale == scale
        assert next(restore_frames(net, lq)).shape == (3, *size)
    matlab = imresize(lq[0], 1.5)  # of a factor without rounding
    bicubic = Bicubic(Fraction(3, 2))(lq[None])[0, 0]
    torch.testing.assert_close(bicubic, matlab, rtol=0, atol=1e-6)
    require_scale(build_network({'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1}), 4)
    net = Bicubic(2)
    net.scale_range = (1, 2)
    with pytest.raises(InputError, match='scale is 3x2, but Bicubic upscales by factors from 1 to 2'):
        require_scale(net, (2, 3))
    net = build_network({'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2})
    with pytest.raises(InputError, match=r'but MSRResNet upscales by 2 \(it can be built for 2, 3, 4\); Basic'):
        require_scale(net, 4)
    avsr = BasicAVSR(8, 1, 1, 1, deform_groups=4, trained_scales=(2, 3))
    assert untrained_note(avsr, (2, 3)) == []
    assert untrained_note(avsr, (2, 4)) == ['BasicAVSR is trained for factors from 2 to 3, but upscales by 4x2 here.']
    message = r'scale is 2.5, but RRN upscales by 4 \(it can be built for 2, 3, 4\); BasicAVSR takes any.'
    with pytest.raises(InputError, match=message):
        require_scale(build_network({'type': 'RRN', 'num_feat': 8, 'num_block': 1}), 2.5)


class Doubling(nn.Module):
    """A network of luma, nearest-neighbour, twice as bright."""

    input_type = 'image'
    colour = 'y'

    def forward(self, x):
        assert x.size(-3) == 1
        return 2 * F.interpolate(x, scale_factor=3)


@torch.no_grad()
def test_luma_networks():
    """Luma is the network's, chroma bicubic, by the toolbox's conversions; in training both sides are luma."""
    net, frame = Doubling(), torch.rand(3, 6, 7).mul(0.3).add(0.2)
    expected = 2 * luma(frame).repeat_interleave(3, -1).repeat_interleave(3, -2)
    chroma = rgb2ycbcr(imresize(frame, 3).permute(1, 2, 0).numpy())[..., 1:]
    for (restored,) in (restore_frames(net, frame[None]), upscale_frames(net, [frame])):
        converted = rgb2ycbcr(restored.permute(1, 2, 0).numpy())
        np.testing.assert_allclose(converted[..., 0], expected[0], atol=1e-5)
        np.testing.assert_allclose(converted[..., 1:], chroma, atol=1e-5)
    lq, gt = prepare_sample(net, frame[None, None], frame[None, None])
    assert torch.equal(lq, luma(frame)[None])
    assert torch.equal(gt, luma(frame)[None])
    assert network_scale(net) == 3


def test_how_a_network_is_run_is_said():
    class Silent(nn.Module):
        pass

    (note,) = notes_on(Silent(), UpscaleSettings(segment=7, lookahead=3))
    assert note == (
        'Silent has no steps and runs over chunks of 7 frames, with 3 more on each side, so mode exact is not what one '
        'pass over the film gives.'
    )
    (note,) = notes_on(Silent(), UpscaleSettings(mode='stream'))
    assert note == 'Silent has no steps and runs over chunks of 10 frames, with 10 more on each side.'
    assert notes_on(Bicubic(4), UpscaleSettings()) == notes_on(Doubling(), UpscaleSettings()) == []
