"""The online networks in the engine: one frame in, one frame out, the same bits as the network on the whole clip."""

import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.models.restoration import restore_frames

NETWORKS = {
    'RLSP': {'type': 'RLSP', 'num_feat': 8},
    'RLSP of luma': {'type': 'RLSP', 'num_feat': 8, 'luma_only': True},
    'RLSP of bilinear chroma': {'type': 'RLSP', 'num_feat': 8, 'bilinear_chroma': True},
    'RRN': {'type': 'RRN', 'num_feat': 8, 'num_block': 1},
    'RSDN': {'type': 'RSDN', 'num_feat': 8, 'num_block': 1},
    'FRVSR': {'type': 'FRVSR', 'num_feat': 8, 'num_block': 1, 'residual': True},
}
networks = pytest.mark.parametrize('name', NETWORKS)


def small(name):
    torch.manual_seed(0)
    return build_network(dict(NETWORKS[name])).eval()


def film(t=7, h=9, w=14):
    torch.manual_seed(1)
    return torch.rand(t, 3, h, w)


def upscale(net, clip, skip=0, **settings):
    return torch.stack(list(upscale_frames(net, clip, UpscaleSettings(scene_cuts=False, **settings), skip=skip)))


@torch.no_grad()
@networks
def test_stream_and_exact_equal_the_whole_clip(name):
    net, clip = small(name), film()
    expected = torch.stack(list(restore_frames(net, clip)))
    assert torch.equal(upscale(net, clip, segment=7), expected)
    assert torch.equal(upscale(net, clip, segment=2), expected)
    assert torch.equal(upscale(net, clip, mode='stream', segment=1, lookahead=0), expected)
    for i in range(1, 7):  # whatever the frames before were
        assert not torch.equal(next(restore_frames(net, clip[i:])), expected[i])


@torch.no_grad()
@networks
def test_tiles_that_would_begin_at_odd_pixels(name):
    """RSDN halves its frames: there a tile begins and ends at even pixels, as the halves of the whole frame do."""
    net, clip = small(name), film(4, 33, 41)
    whole = upscale(net, clip, mode='stream')
    tiled = upscale(net, clip, mode='stream', tile=11, tile_overlap=17)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@torch.no_grad()
@networks
@pytest.mark.parametrize('mode', ['exact', 'stream'])
def test_taken_up_again(name, mode):
    net, clip = small(name), film()
    whole = upscale(net, clip, mode=mode, segment=2, lookahead=0)
    assert torch.equal(upscale(net, clip, skip=3, mode=mode, segment=2, lookahead=0), whole[3:])


@torch.no_grad()
@networks
def test_reads_no_further_than_it_sees(name):
    """RLSP waits for one frame, the others for none."""
    net, clip, read = small(name), film(), []

    def source():
        for i, frame in enumerate(clip):
            read.append(i)
            yield frame

    settings = UpscaleSettings(mode='stream', segment=1, lookahead=0, scene_cuts=False)
    ahead = 1 if name.startswith('RLSP') else 0
    for i, _ in enumerate(upscale_frames(net, source(), settings)):
        assert len(read) == min(i + 1 + ahead, 7)
