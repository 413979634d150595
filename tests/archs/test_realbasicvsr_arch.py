"""RealBasicVSR: its sizes, its cleaning against a slow reference, and its steps in the engine."""

import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_plugins.archs.realbasicvsr_arch import RealBasicVSR
from basicsr_plugins.benchmark.profile import count_macs
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.models.restoration import restore_frames


def small(**options):
    torch.manual_seed(0)
    net = RealBasicVSR(num_feat=8, num_block=1, num_clean_block=1, **options).eval()
    for parameter in net.image_cleaning.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def film(t=5, h=18, w=24):
    return torch.rand(t, 3, h, w, generator=torch.Generator().manual_seed(1))


def upscale(net, clip, **settings):
    return torch.stack(list(upscale_frames(net, clip, UpscaleSettings(scene_cuts=False, **settings))))


def cleaned_slowly(net, frame, threshold):
    """By the words of the paper: at most three times, until a pass changes the frame by less than the threshold."""
    number, change = 0, None
    while number < 3 and (change is None or change.abs().mean() >= threshold / 255):
        change = net.image_cleaning(frame[None])[0]
        frame = frame + change
        number += 1
    return frame, number


def test_published_sizes():
    with torch.device('meta'):
        net = build_network({'type': 'RealBasicVSR'})
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert count == {'image_cleaning': 1_480_643, 'basicvsr': 4_814_191}
    spec = spec_of(net)
    assert (spec.scale, spec.estimates_flow, spec.steps) == (4, True, net)


@torch.no_grad()
def test_without_cleaning_it_is_basicvsr():
    net, clip = small(), film()[None]
    torch.nn.init.zeros_(net.image_cleaning[1].weight)
    torch.nn.init.zeros_(net.image_cleaning[1].bias)
    torch.testing.assert_close(net(clip), net.basicvsr(clip), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('threshold', [255.0, 50.0, 0.0])
def test_basicvsr_gets_frames_cleaned_as_the_paper_says(threshold):
    """Of two frames in one batch, each as often as it needs: one pass at 255, three at 0, one and two between."""
    net = small(refine_threshold=threshold)
    clip = film(2)
    clip[1] *= 0.1
    slow = [cleaned_slowly(net, frame, threshold) for frame in clip]
    if threshold == 50:
        means = [float(net.image_cleaning(frame[None]).abs().mean()) * 255 for frame in clip]
        net.refine_threshold = threshold = sum(means) / 2
        slow = [cleaned_slowly(net, frame, threshold) for frame in clip]
        assert slow[0][1] != slow[1][1]
    else:
        assert [number for _, number in slow] == [{255.0: 1, 0.0: 3}[threshold]] * 2
    expected = torch.stack([frame for frame, _ in slow])
    torch.testing.assert_close(net.clean(clip), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(net(clip[None]), net.basicvsr(expected[None]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_stream_and_exact_equal_the_whole_clip():
    """Bit for bit with all frames ahead; in tiles, frames are cleaned whole, so that no seam depends on the number."""
    net, clip = small(refine_threshold=0.0), film(6)
    expected = torch.stack(list(restore_frames(net, clip)))
    assert torch.equal(upscale(net, clip, segment=2), expected)
    assert torch.equal(upscale(net, clip, mode='stream', segment=2, lookahead=6), expected)
    near = upscale(net, clip, mode='stream', segment=2, lookahead=1)
    assert 0 < float((near - expected).abs().max()) < 1
    torch.testing.assert_close(upscale(net, clip, tile=8, tile_overlap=16), expected, rtol=0, atol=1e-5)


def test_training_gives_cleaned_frames_and_their_loss():
    net, lq = small(refine_threshold=0.0).train(), film(4)[None]
    gt = F.interpolate(lq[0], scale_factor=4, mode='nearest')[None]
    output = net(lq)
    cleaned = lq + net.image_cleaning(lq[0])[None]  # one pass, whatever the threshold
    torch.testing.assert_close(output[1], cleaned, rtol=0, atol=1e-6)
    loss = net.auxiliary_losses(output, lq, gt, torch.nn.L1Loss())
    assert set(loss) == {'clean'}
    assert float(loss['clean']) == pytest.approx(float((cleaned - lq).abs().mean()), rel=1e-5)
    loss['clean'].backward()
    assert net.image_cleaning[0].main[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.basicvsr.parameters())


def test_cleaning_counts_once_for_each_frame():
    """Multiply-adds: those of BasicVSR and of one pass of cleaning a frame."""
    net = small()
    h, w = 32, 48
    cleaning = sum(p.numel() for p in net.image_cleaning.parameters() if p.dim() == 4) * h * w
    assert count_macs(net, (h, w)) == count_macs(net.basicvsr, (h, w)) + cleaning
