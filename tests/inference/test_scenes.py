"""Cuts between real clips are found, and none within them."""

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from basicsr_plugins.inference.scenes import SceneDetector

from .clips import load_clip

CLIPS = ('Vid4/BIx4/calendar', 'Vid4/BIx4/city', 'CDVL/BIx4/ntia_Aspen')
DEMO = Path(__file__).resolve().parents[2] / 'datasets' / 'demo' / 'BIx4'


@pytest.fixture(scope='module')
def clips(shared):
    """(t, 3, 96, 96) each, the demo clips of this checkout with them if they are made."""
    folders = [shared / 'data' / name for name in CLIPS] + sorted(DEMO.glob('[0-9]*'))
    return {folder.name: F.interpolate(load_clip(folder), size=(96, 96), mode='area') for folder in folders}


def cuts(frames):
    """Indices of the frames that start a scene."""
    detector = SceneDetector()
    return [i for i, frame in enumerate(frames) if detector.starts_scene(frame)]


def test_every_cut_and_no_other(clips):
    assert {name: cuts(clip) for name, clip in clips.items()} == {name: [] for name in clips}
    found = [
        cuts(torch.cat((first[-6:], second[:6]))) == [6] for first, second in itertools.permutations(clips.values(), 2)
    ]
    assert sum(found) >= 0.99 * len(found)


def test_cut_from_calendar_to_city(clips):
    film = torch.cat((clips['calendar'], clips['city'], clips['ntia_Aspen']))
    assert cuts(film) == [41, 75]


def test_flash_fade_and_fast_pan_are_no_cuts(clips):
    city = clips['city'].clone()
    city[10] = (city[10] * 0.5 + 0.5).clamp(0, 1)
    assert cuts(city) == []
    fade = clips['calendar'] * torch.linspace(1, 0, 41).view(-1, 1, 1, 1)
    assert cuts(fade) == []
    assert cuts(fade.flip(0)) == []
    for picture in (clips['city'][0], clips['calendar'][0]):  # 7 of 64 pixels a frame
        assert cuts([picture[:, 20:84, 7 * i : 7 * i + 64] for i in range(5)]) == []


def test_cut_to_and_from_black(clips):
    black = torch.zeros(3, 3, 96, 96)
    assert cuts(torch.cat((clips['city'][:5], black, clips['calendar'][:5]))) == [5, 8]


def test_shape_of_frames_does_not_matter():
    """Smaller than the luma images too."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, 12, 20, generator=generator)
    assert cuts([first, first, second, second]) == [2]
