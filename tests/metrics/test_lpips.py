"""LPIPS: what the package gets and gives, and what is said where it, or its weights, are not there."""

import sys
import types
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric

from basicsr_plugins.errors import InputError
from basicsr_plugins.metrics import lpips


@pytest.fixture
def package(tmp_path, monkeypatch):
    """In place of the package: a network that gives the mean difference of each colour, weighted 1, 2, 4."""
    made = []

    class LPIPS(torch.nn.Module):
        def __init__(self, **arguments):
            super().__init__()
            made.append(arguments)

        def forward(self, first, second):
            assert first.shape == (1, 3, 40, 50)
            weights = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
            return ((first - second).abs() * weights).mean().view(1, 1, 1, 1)

    module = types.ModuleType('lpips')
    module.LPIPS = LPIPS
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'lpips', module)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    name = PurePosixPath(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url).name
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / name).touch()
    lpips._network.cache_clear()
    yield made
    lpips._network.cache_clear()


@pytest.mark.parametrize('order', ['HWC', 'CHW'])
def test_frames_reach_the_package_as_it_wants_them(package, order):
    """RGB from -1 to 1, without the border; the network is made once."""
    first, second = np.zeros((48, 58, 3), np.uint8), np.zeros((48, 58, 3), np.uint8)
    first[4:-4, 4:-4] = (51, 0, 102)  # BGR
    first[:4] = 255
    if order == 'CHW':
        first, second = (image.transpose(2, 0, 1) for image in (first, second))
    options = {'type': 'calculate_lpips', 'crop_border': 4, 'input_order': order}
    for _ in range(2):
        value = calculate_metric({'img': first, 'img2': second}, options)
        assert value == pytest.approx(2 * (102 / 255 + 4 * 51 / 255) / 3)
    assert package == [{'net': 'alex', 'version': '0.1', 'verbose': False}]


def test_what_is_missing_is_said(package, tmp_path, monkeypatch):
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(InputError, match='the frames have different shapes'):
        lpips.calculate_lpips(image, image[:-1], 0)
    next((tmp_path / 'checkpoints').iterdir()).unlink()
    with pytest.raises(InputError, match=r'needs the weights of AlexNet, but there is no file .*alexnet-.*\.pth'):
        lpips.calculate_lpips(image, image, 0)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match='needs the package lpips, which is not installed: pip install lpips'):
        lpips.calculate_lpips(image, image, 0)
    with pytest.raises(InputError, match='needs the package lpips'):
        lpips.calculate_lpips.check()
