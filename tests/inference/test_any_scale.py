"""Networks of any scale in the engine: tiles whose borders lie between HR pixels, and every mode."""

import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.models.network_spec import require_scale
from basicsr_plugins.scales import scaled_size

from .networks import TinyFlow, film

SCALES = [2.7, (1.5, 3.35)]


def small(**arguments):
    """With features that count in the frames, as in a trained network."""
    torch.manual_seed(0)
    blocks = {'num_block': 1, 'num_extract_block': 1, 'num_upsample_block': 1}
    net = build_network({'type': 'BasicAVSR', 'num_feat': 16, **blocks, **arguments}).eval()
    net.prior.weight.data.normal_()
    net.upsampler.conv_last.weight.data.mul_(50)
    net.spynet = TinyFlow()
    return net


def run(net, frames, **settings):
    return torch.stack(list(upscale_frames(net, frames, UpscaleSettings(scene_cuts=False, **settings))))


@torch.no_grad()
@pytest.mark.parametrize('scale', SCALES)
def test_tiles_cannot_be_seen(scale):
    """Borders between HR pixels: what tiles change is what a step sees beyond their overlap, nowhere a grey level."""
    net, frames = small(), film(3, 37, 61)
    require_scale(net, scale)
    whole = run(net, frames)
    assert whole.shape[-2:] == scaled_size((37, 61), scale)
    assert (run(net, frames, tile=20, tile_overlap=24) - whole).abs().max() * 255 < 0.05
    seams = (run(net, frames, tile=20, tile_overlap=0) - whole).abs().amax((0, 1))
    assert seams.max() * 255 > 0.05  # what it looks for is there without an overlap


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, *SCALES])
def test_bicubic_in_tiles(scale):
    net, frames = build_network({'type': 'Bicubic'}), film(2, 37, 61)
    require_scale(net, scale)
    torch.testing.assert_close(run(net, frames, tile=16, tile_overlap=4), run(net, frames), rtol=0, atol=1e-6)


@torch.no_grad()
def test_without_steps_tiles_need_a_whole_factor():
    net = build_network({'type': 'TOFlow'}).eval()
    require_scale(net, 2.5)
    frames = film(2, 20, 30)
    assert run(net, frames).shape == (2, 3, 50, 75)
    with pytest.raises(InputError, match='must enlarge by a whole factor; run it without tiles'):
        run(net, frames, tile=16)


@torch.no_grad()
@pytest.mark.parametrize('form', ['bidirectional', 'lookahead', 'unidirectional'])
def test_every_mode_is_one_pass(form):
    """Bit for bit; of a bidirectional network a stream is one pass over what it sees."""
    net, frames = small(propagation=form), film(5, 9, 11)
    require_scale(net, SCALES[1])
    expected = net(frames[None])[0]
    assert torch.equal(run(net, frames, segment=2), expected)
    streamed = run(net, frames, mode='stream', segment=1, lookahead=1)
    if form == 'bidirectional':
        torch.testing.assert_close(streamed[3:], expected[3:], rtol=0, atol=0)  # it sees the end from there on
    else:
        assert torch.equal(streamed, expected)
