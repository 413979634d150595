"""Steps are given what their arguments' names say: against the recurrence written out, in forward and in the engine."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from basicsr_plugins.archs.recurrent import Clip, RecurrentNetwork, run_clip
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames


def blur(x):
    return F.avg_pool2d(x, 3, 1, 1)


def weighted(*terms):
    """A sum in which every term has another weight; None is nothing."""
    return sum((i + 1) / 20 * term for i, term in enumerate(terms) if term is not None)


class Everything(RecurrentNetwork):
    """Takes all there is; its state is a pair."""

    scale = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.flows = []

    def extract(self, frame):
        return self.weight * blur(frame)

    def flow(self, frame, other):
        self.flows.append(frame.dtype)
        return (frame - 2 * other)[:, :2]

    def backward_step(
        self, frame, feat, state, previous_frame, next_frame, previous_feat, next_feat, flow_to_previous, flow_to_next
    ):
        first, second = (None, None) if state is None else state
        there = [flow.sum(1, keepdim=True) if flow is not None else None for flow in (flow_to_previous, flow_to_next)]
        mixed = weighted(frame, feat, first, second, previous_frame, next_frame, previous_feat, next_feat, *there)
        return blur(mixed), mixed[:, :1].expand_as(mixed)

    def forward_step(self, feat, state, backward_state, previous_feat, flow_to_previous, next_frame):
        flow = None if flow_to_previous is None else flow_to_previous[:, 1:]
        mixed = weighted(feat, *(state or ()), *backward_state, previous_feat, flow, next_frame)
        return mixed, blur(mixed)

    def upsample(self, frame, state, backward_state, next_feat):
        mixed = weighted(frame, *state, *backward_state, next_feat)
        return mixed.repeat_interleave(2, -1).repeat_interleave(2, -2)


def by_hand(net, x):
    """The recurrence of `Everything`, from lists with None around the clip."""
    t = x.size(1)
    frames = [None, *x.unbind(1), None]
    feats = [None if frame is None else net.extract(frame) for frame in frames]

    def flow(i, j):
        return None if frames[j] is None else net.flow(frames[i], frames[j])

    backward, forward, outputs = [None] * (t + 2), [None] * (t + 2), []
    for i in range(t, 0, -1):
        around = frames[i - 1], frames[i + 1], feats[i - 1], feats[i + 1], flow(i, i - 1), flow(i, i + 1)
        backward[i] = net.backward_step(frames[i], feats[i], backward[i + 1], *around)
    for i in range(1, t + 1):
        around = feats[i - 1], flow(i, i - 1), frames[i + 1]
        forward[i] = net.forward_step(feats[i], forward[i - 1], backward[i], *around)
        outputs.append(net.upsample(frames[i], forward[i], backward[i], feats[i + 1]))
    return torch.stack(outputs, 1)


@pytest.fixture
def net():
    return Everything()


@pytest.fixture
def x():
    return torch.rand(1, 7, 3, 20, 17, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize('t', [1, 2, 7])
def test_steps_get_what_their_names_say(net, x, t):
    expected = by_hand(net, x[:, :t])
    assert torch.equal(net(x[:, :t]), expected)
    assert net.coupled
    assert net.ahead == 1


@torch.no_grad()
def test_each_flow_is_estimated_once_and_in_float32(net, x):
    with torch.autocast('cpu', torch.bfloat16):
        net(x)
    assert net.flows == [torch.float32] * 12


@torch.no_grad()
@pytest.mark.parametrize('segment', [1, 3, 7])
def test_the_engine_keeps_states_of_several_tensors(net, x, segment):
    """Exact: bit for bit; in tiles: each step sees one pixel around, or as far as its flow says."""
    settings = {'segment': segment, 'scene_cuts': False}
    exact = torch.stack(list(upscale_frames(net, x[0], UpscaleSettings(**settings))))
    assert torch.equal(exact, net(x)[0])
    tiled = torch.stack(list(upscale_frames(net, x[0], UpscaleSettings(tile=8, tile_overlap=2, **settings))))
    torch.testing.assert_close(tiled, exact)


class Online(RecurrentNetwork):
    """No backward pass; the previous output comes back as part of the state."""

    scale = 2

    def forward_step(self, frame, previous_frame, state):
        return weighted(frame, previous_frame, state)

    def upsample(self, state):
        return state.repeat_interleave(2, -1).repeat_interleave(2, -2)


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
def test_a_network_without_backward_pass_waits_for_nothing(x, mode, tmp_path):
    net, read = Online(), []

    def frames():
        for i, frame in enumerate(x[0]):
            read.append(i)
            yield frame

    upscaled = upscale_frames(net, frames(), UpscaleSettings(mode=mode, scene_cuts=False, temp_dir=tmp_path))
    for i, (hr, expected) in enumerate(zip(upscaled, net(x)[0])):
        assert torch.equal(hr, expected)
        assert len(read) == i + 1
    assert net.ahead == 0


class LookingAhead(RecurrentNetwork):
    """No backward pass; upsampling takes the forward states of two frames more, which see a frame ahead themselves."""

    scale = 2
    num_lookahead = 2

    def __init__(self):
        super().__init__()
        self.forward_steps = 0

    def flow(self, frame, other):
        return (frame - 2 * other)[:, :2]

    def forward_step(self, frame, next_frame, state):
        self.forward_steps += 1
        return weighted(frame, state, next_frame)

    def upsample(self, state, next_states, flows_to_next):
        flows = [flow.sum(1, keepdim=True) for flow in flows_to_next or ()]
        return weighted(state, *(next_states or ()), *flows).repeat_interleave(2, -1).repeat_interleave(2, -2)


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
def test_states_ahead(x, mode):
    """Each is computed once; the engine reads three frames ahead, and gives what one pass gives, also in tiles."""
    net = LookingAhead()
    frames, states = [*x.unbind(1), None], [None]
    for i in range(7):
        states.append(net.forward_step(frames[i], frames[i + 1], states[-1]))
    states = states[1:]
    flows = [[net.flow(frames[i], frames[j]) for j in range(i + 1, min(i + 3, 7))] for i in range(7)]
    expected = torch.stack([net.upsample(states[i], states[i + 1 : i + 3], flows[i]) for i in range(7)], 1)

    net.forward_steps = 0
    assert torch.equal(net(x), expected)
    assert net.forward_steps == 7
    read = []

    def source():
        for i, frame in enumerate(x[0]):
            read.append(i)
            yield frame

    settings = {'mode': mode, 'segment': 2, 'scene_cuts': False}
    for i, hr in enumerate(upscale_frames(net, source(), UpscaleSettings(**settings))):
        assert torch.equal(hr, expected[0, i])
        assert len(read) == min(i + 4, 7)
    for tile_settings in ({'tile': 8, 'tile_overlap': 2}, {'skip': 4}):
        skip = tile_settings.pop('skip', 0)
        result = list(upscale_frames(net, x[0], UpscaleSettings(**settings, **tile_settings), skip=skip))
        assert torch.equal(torch.stack(result), expected[0, skip:])


def test_looking_ahead_needs_a_number(x):
    net = LookingAhead()
    net.num_lookahead = 0
    with pytest.raises(TypeError, match='takes what lies ahead, but its num_lookahead is not set'):
        net(x)


class Stretching(RecurrentNetwork):
    def upsample(self, frame):
        return F.interpolate(frame, scale_factor=1.5)


def test_tiles_refuse_a_factor_that_is_not_whole(x):
    with pytest.raises(InputError, match='must enlarge by a whole factor, but one makes 10x12 of 7x8'):
        list(upscale_frames(Stretching(), x[0], UpscaleSettings(tile=8, tile_overlap=2, scene_cuts=False)))


def test_what_a_pass_has_not_come_from_is_none(net, x):
    """A pass that starts inside a clip takes nothing from beyond its start, as if the clip ended there."""
    clip, shorter = Clip(net, x.unbind(1)), Clip(net, x[:, :4].unbind(1))
    for ours, expected in zip(clip.step('backward_step', 3), shorter.step('backward_step', 3)):
        assert torch.equal(ours, expected)


def test_steps_can_be_checkpointed_in_training(net, x):
    """By a hook around each step, without another way through the clip; the gradient is the same."""
    net(x).square().mean().backward()
    expected, net.weight.grad, steps = net.weight.grad, None, []

    def run_step(step, **inputs):
        steps.append(step.__name__)
        return checkpoint(step, use_reentrant=False, **inputs)

    run_clip(net, x, run_step).square().mean().backward()
    torch.testing.assert_close(net.weight.grad, expected)
    assert [steps.count(name) for name in ('extract', 'flow', 'backward_step', 'forward_step', 'upsample')] == [
        *(7, 12),
        *(7, 7, 7),
    ]


def test_wrong_arguments_and_shapes(net):
    class Misspelt(Everything):
        def forward_step(self, frame, previous_state):
            return frame

    with pytest.raises(TypeError, match=r"Misspelt.forward_step: no step can take 'previous_state'; it takes frame"):
        Misspelt()(torch.rand(1, 2, 3, 8, 8))
    for shape in ((2, 3, 8, 8), (1, 0, 3, 8, 8), (1, 2, 1, 8, 8)):
        with pytest.raises(InputError, match=r'Everything takes frames of shape \(b, t, 3, h, w\), but got'):
            net(torch.rand(shape))
