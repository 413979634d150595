"""What `toy_network.py` gets from its one file: training, validation, benchmark, exact and streamed upscaling."""

import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr
from basicsr.models import build_model
from basicsr.utils import tensor2img
from torch.utils.data import DataLoader

from basicsr_plugins.benchmark.methods import NetworkMethod
from basicsr_plugins.benchmark.profile import count_macs
from basicsr_plugins.benchmark.runner import Benchmark, run_benchmark
from basicsr_plugins.inference import UpscaleSettings
from basicsr_plugins.models.entries import NetworkEntry
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.upscaling import load_network, upscale
from basicsr_plugins.video.opening import open_source

from .benchmark.conftest import make_test_set
from .models.test_vsr_model import Clips, options, train  # noqa: F401  (a fixture)
from .toy_network import ToyRecurrent

CLIP = 'BIx4/b'  # 7 frames of 12 x 20


@pytest.fixture
def checkpoint(options, tmp_path):  # noqa: F811
    """Trained for a few iterations, as an option file would have it."""
    options['network_g'] = {'type': 'ToyRecurrent', 'num_feat': 4}
    model = build_model(options)
    losses = train(model, 1, 8)
    assert losses[-1] < losses[0]
    model.validation(DataLoader(Clips()), 8, None)
    with open(tmp_path / 'metrics.csv') as file:
        assert {row['clip'] for row in csv.DictReader(file)} == {'a', 'b', 'average'}
    model.save(epoch=0, current_iter=8)
    return tmp_path / 'models' / 'net_g_8.pth'


@dataclasses.dataclass
class ToyEntry(NetworkEntry):
    """Its class brings this module, and with it the network, into the process that runs it."""


def contents(folder):
    images = [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.iterdir())]
    return torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2)


def test_everything_knows_it(checkpoint, tmp_path):
    net = load_network(checkpoint, 'ToyRecurrent:num_feat=4', device='cpu')
    spec = spec_of(net)
    assert (spec.scale, spec.steps, spec.steps.ahead, spec.steps.coupled) == (4, net, 1, False)
    data = make_test_set(tmp_path / 'data')

    # benchmark: both clips, as the toolbox measures them, and its cost: every weight but biases once per pixel
    entry = ToyEntry('toy', {'type': 'ToyRecurrent', 'num_feat': 4}, str(checkpoint))
    run_benchmark(Benchmark(tmp_path / 'out', [NetworkMethod(entry)], data / 'BIx4', data / 'GT', profile=None))
    _, toy = json.loads((tmp_path / 'out' / 'results.json').read_text())['rows']
    assert toy['error'] is None
    frames, gts = (torch.stack(list(open_source(data / kind / 'b'))) for kind in ('BIx4', 'GT'))
    with torch.no_grad():
        images = [tensor2img(frame) for frame in net(frames[None])[0]]
    psnr = [calculate_psnr(ours, tensor2img(gt), 0, test_y_channel=True) for ours, gt in zip(images, gts)]
    assert toy['clips']['b']['psnr'] == pytest.approx(np.mean(psnr), abs=1e-6)
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.dim() > 1)
    assert count_macs(ToyRecurrent(), (8, 8)) == 8 * 8 * (weights + 4 * 3 * 16)  # 4 for each sample of bilinear

    # upscaling: the network on the whole clip, to the last bit, whatever the segments; so is a stream that sees it all
    lq = torch.stack(list(open_source(data / CLIP)))
    with torch.no_grad():
        whole = net(lq[None])[0]
        shorter = net(lq[None, :3])[0]
    for name, settings in {
        'exact': UpscaleSettings(segment=3),
        'stream': UpscaleSettings(mode='stream', segment=2, lookahead=7),
        'blind': UpscaleSettings(mode='stream', segment=2, lookahead=1),
    }.items():
        assert upscale(net, data / CLIP, tmp_path / name, settings, show_progress=False) == []
        expected = (whole if name != 'blind' else shorter[:2]).clamp(0, 1).mul(255).round().byte()
        assert torch.equal(contents(tmp_path / name)[: len(expected)], expected)
    assert not torch.equal(contents(tmp_path / 'blind'), contents(tmp_path / 'exact'))
