"""Tiles that grow by the motion in them, and tiles in which flow is estimated."""

import pytest
import torch
from torch import nn

from basicsr_plugins.inference.tiles import TiledRunner

from .networks import TinyFlow, film, small_network, upscale


def test_a_tile_grows_by_the_motion_in_it():
    """One that comes from 20 pixels at the right of it; the border of the tile beside it sees that motion too."""
    flow = torch.zeros(1, 2, 8, 80)
    flow[0, 0, 4, 18] = 20
    state, seen = torch.rand(1, 1, 8, 80), []

    def step(state, flow_to_next):
        seen.append(state.size(-1))
        columns = (torch.arange(state.size(-1)) + flow_to_next[0, 0, 4]).long().clamp(0, state.size(-1) - 1)
        return state[..., columns]

    tiled = TiledRunner(tile=20, overlap=4)(step, state=state, flow_to_next=flow)
    assert torch.equal(tiled, step(state, flow))
    assert seen == [44, 64, 28, 24, 80]


class SeenFlow(nn.Module):
    """Notes the widths of the frames that it is asked for."""

    def __init__(self):
        super().__init__()
        self.flow, self.widths = TinyFlow(), set()

    def forward(self, frame, other):
        self.widths.add(frame.size(-1))
        return self.flow(frame, other)


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_flow_in_tiles(name):
    """What the border holds changes nothing but rounding; `exact` is one pass, bit for bit."""
    net, frames = small_network(name, SeenFlow()), film(4, 16, 400)
    whole = upscale(net, frames)
    net.spynet.widths.clear()
    tiled = upscale(net, frames, flow_tile=96)
    assert net.spynet.widths == {192, 288, 320, 304, 208}  # tiles of 64 to 96, that begin at multiples of 32
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3)
    assert torch.equal(upscale(net, frames, flow_tile=96, segment=1), tiled)
