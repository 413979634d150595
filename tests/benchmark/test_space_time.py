"""A network of twice the frame rate in the benchmark: it gets every second frame, and all count."""

import pytest
import torch

from basicsr_plugins.benchmark import profile
from basicsr_plugins.benchmark.clips import open_clips
from basicsr_plugins.benchmark.evaluation import Protocol, choose_view, evaluate_clip
from basicsr_plugins.benchmark.methods import parse_method
from basicsr_plugins.benchmark.profile import count_macs
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.restoration import restore_frames

from .conftest import make_test_set

NETWORK = 'ZoomingSlowMo:num_feat=8,num_extract_block=1,num_block=1,deform_groups=2'


@torch.no_grad()
def test_every_second_frame_is_given_and_all_are_measured(tmp_path):
    data = make_test_set(tmp_path)
    clip = next(clip for clip in open_clips(data / 'BIx4', data / 'GT', 4) if clip.name == 'b')
    method, protocol = parse_method(NETWORK), Protocol(max_frames=5)
    torch.manual_seed(0)
    output = list(method.restore(clip, protocol, 'cpu'))
    torch.manual_seed(0)
    given = torch.stack([clip.lq[i] for i in (0, 2, 4)])
    expected = torch.stack(list(restore_frames(method.build(protocol), given)))
    torch.testing.assert_close(torch.stack(output), expected, rtol=0, atol=1e-5)

    pictures = {name: tmp_path / f'{name}.png' for name in ('frame', 'crop', 'profile')}
    perfect = evaluate_clip([clip.gt[i] for i in range(5)], clip, protocol, choose_view(clip, protocol), pictures)
    assert perfect['ssim'] == pytest.approx(1)
    assert evaluate_clip(output, clip, protocol, choose_view(clip, protocol), pictures)['psnr'] < 60
    with pytest.raises(InputError, match='set max_frames to 3 or fewer'):
        method.restore(clip, Protocol(max_frames=4), 'cpu')


def test_cost_is_that_of_a_frame_that_is_given(monkeypatch):
    """With the one after it: two reconstructions, and in each pass two steps of the recurrence."""
    monkeypatch.setattr(profile, 'LONG', 5)  # two frames more than SHORT, whose ends cost the same
    monkeypatch.setattr(profile, 'SHORT', 3)
    net = parse_method(NETWORK).build(Protocol())
    h, w = 16, 24
    alone = [
        p.numel() * h * w for name, p in net.named_parameters() if name.startswith('reconstruction') and p.dim() == 4
    ]
    grown = parse_method(NETWORK.replace('num_block=1', 'num_block=2')).build(Protocol())
    assert count_macs(grown, (h, w)) - count_macs(net, (h, w)) == 2 * sum(alone)
