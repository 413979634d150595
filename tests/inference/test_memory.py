"""Memory does not grow with the film."""

import gc
import weakref

import pytest
import torch

from basicsr_plugins.inference import UpscaleSettings, upscale_frames

from .networks import OTHERS, small_network


class Counted:
    """Frames that count how many of them are alive, and the most tensors of any size that were."""

    def __init__(self, t):
        self.t = t
        self.references = []

    def __iter__(self):
        for i in range(self.t):
            frame = torch.full((3, 8, 8), i % 5 / 5)
            self.references.append(weakref.ref(frame))
            yield frame


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'mode'),
    [('EFAR', 'exact'), ('EFAR', 'stream'), ('BasicVSR', 'exact'), ('BasicVSR', 'stream'), ('MSFFN', 'exact')],
)
def test_memory_does_not_grow_with_the_film(name, mode):
    """As many tensors are alive, in the worst moment, over 60 frames as over 24; of the frames only a few."""
    net = OTHERS[name]() if name in OTHERS else small_network(name)
    most = {}
    for t in (24, 60):
        frames, alive, held = Counted(t), [], []
        calls = 0

        def look(stage, done, frames=frames, alive=alive, held=held):
            nonlocal calls
            calls += 1
            if calls % 29 == 0:
                alive.append(sum(type(item) is torch.Tensor for item in gc.get_objects()))
                held.append(sum(reference() is not None for reference in frames.references))

        settings = UpscaleSettings(mode=mode, segment=4, lookahead=3)
        for frame in upscale_frames(net, frames, settings, progress=look):
            del frame
        most[t] = max(alive), max(held)
    assert most[60][0] <= most[24][0] + 2
    assert most[60][1] <= most[24][1] + 1 <= 9
