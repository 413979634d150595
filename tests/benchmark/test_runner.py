"""The runner: what it measures, what it does with networks that fail, and what it measures again."""

import csv
import dataclasses
import errno
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F
from torchvision.models import AlexNet_Weights

from basicsr_plugins.benchmark import cache, workers
from basicsr_plugins.benchmark.cache import PICTURES, Cache
from basicsr_plugins.benchmark.clips import open_clips
from basicsr_plugins.benchmark.evaluation import Protocol, choose_view, evaluate_clip
from basicsr_plugins.benchmark.methods import NetworkMethod, RestoredFrames, parse_method
from basicsr_plugins.benchmark.runner import run_benchmark
from basicsr_plugins.benchmark.settings import Benchmark, ProfileSettings
from basicsr_plugins.benchmark.tables import best_text, metric_column, terminal_table
from basicsr_plugins.benchmark.workers import KILLED, Workers, _run, reason
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import lock_file
from basicsr_plugins.metrics.tof import calculate_tof
from basicsr_plugins.models.entries import NetworkEntry
from basicsr_plugins.models.restoration import restore_frames

from .conftest import LENGTHS, SIZES

CHEAP = ProfileSettings((8, 8), num_frame=1, repeat=1)


# ------------------------------------------------------------------------------------- networks that do what tests want


class Upsampler(nn.Module):
    """Bilinear upsampling with a gain; writes down every frame that it sees."""

    input_type = 'image'

    def __init__(self, gain: float = 1.0, log: str = os.devnull):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(gain)))
        self.log = log

    def forward(self, x):
        with open(self.log, 'a') as file:
            file.write(f'{x.shape[2]}x{x.shape[3]}\n')
        return self.gain * F.interpolate(x, scale_factor=4, mode='bilinear')


@ARCH_REGISTRY.register()
class UpsamplerForTest(Upsampler):
    pass


@ARCH_REGISTRY.register()
class WrongSizeForTest(Upsampler):
    def forward(self, x):
        return super().forward(x)[..., 2:]


@ARCH_REGISTRY.register()
class RaisingForTest(Upsampler):
    def forward(self, x):
        super().forward(x)
        raise RuntimeError('no\nsuch luck')


@ARCH_REGISTRY.register()
class OutOfMemoryForTest(Upsampler):
    def forward(self, x):
        return torch.empty(10**15)


@ARCH_REGISTRY.register()
class KilledForTest(Upsampler):
    def forward(self, x):
        super().forward(x)
        os.kill(os.getpid(), signal.SIGKILL)


@ARCH_REGISTRY.register()
class FailingOnBForTest(Upsampler):
    """Fails on frames of the width of clip b, unless the file `fixed` is there."""

    def __init__(self, fixed: str, **arguments):
        super().__init__(**arguments)
        self.fixed = fixed

    def forward(self, x):
        if x.shape[3] == SIZES['b'][1] // 4 and not os.path.exists(self.fixed):
            raise RuntimeError('b is too wide')
        return super().forward(x)


@ARCH_REGISTRY.register()
class FailingOnProfileForTest(Upsampler):
    def forward(self, x):
        if x.shape[2:] == CHEAP.size:
            raise RuntimeError('too small')
        return super().forward(x)


@ARCH_REGISTRY.register()
class UncountableForTest(Upsampler):
    """Runs on the CPU alone, so that multiply-adds cannot be counted without data."""

    def forward(self, x):
        return super().forward(x + torch.zeros(x.shape))


@ARCH_REGISTRY.register()
class LosingFramesForTest(nn.Module):
    """A recurrent network that restores `change` frames more than the clip has."""

    def __init__(self, change: int):
        super().__init__()
        self.change = change

    def forward(self, x):
        frames = F.interpolate(x[0], scale_factor=4)
        return torch.cat([frames, frames])[None, : x.shape[1] + self.change]


@dataclasses.dataclass
class Entry(NetworkEntry):
    """Its class brings this module, and with it the networks above, into the process that runs them."""


def network(name, kind, checkpoint=None, param_key=None, **arguments):
    return NetworkMethod(Entry(name, {'type': f'{kind}ForTest', **arguments}, checkpoint, param_key))


# -------------------------------------------------------------------------------------------------- what is measured


def evaluate(net, clip, protocol, prefix, progress=lambda: None):
    """The metrics of a network, and its pictures."""
    frames = [clip.lq[i] for i in range(protocol.num_frame(clip))]
    pictures = {kind: Path(f'{prefix}_{kind}.png') for kind in PICTURES}
    view = choose_view(clip, protocol)
    return evaluate_clip(restore_frames(net.eval(), frames), clip, protocol, view, pictures, progress)


def restored(net, test_set, clip, num_frame):
    """Frames of an image network, (h, w, 3), BGR, uint8, by the shortest way; and GT."""
    images, gts = [], []
    for i in range(num_frame):
        lq, gt = (cv2.imread(str(test_set / kind / clip / f'{i:08d}.png')) for kind in ('BIx4', 'GT'))
        x = torch.from_numpy(lq[..., ::-1] / np.float32(255)).permute(2, 0, 1)[None]
        y = net(x)[0].detach().clamp(0, 1).numpy()
        images.append((y * np.float32(255)).round().astype(np.uint8).transpose(1, 2, 0)[..., ::-1])
        gts.append(gt)
    return images, gts


@pytest.mark.parametrize(
    ('protocol', 'counted'),
    [
        (Protocol(), range(0, 7)),
        (Protocol(y_channel=False), range(0, 7)),
        (Protocol(crop_border=5), range(0, 7)),
        (Protocol(inner_frames=True), range(2, 5)),
        (Protocol(max_frames=4), range(0, 4)),
        (Protocol(y_channel=False, crop_border=3, inner_frames=True, max_frames=6), range(2, 4)),
    ],
)
def test_values_are_the_metrics_of_the_frames_that_count(test_set, tmp_path, protocol, counted):
    net = Upsampler(gain=0.9)
    clip = open_clips(test_set / 'BIx4', test_set / 'GT', 4)[1]
    seen = []
    values = evaluate(net, clip, protocol, tmp_path / 'x', lambda: seen.append(1))

    images, gts = restored(net, test_set, 'b', counted.stop)
    options = {'crop_border': protocol.crop_border, 'test_y_channel': protocol.y_channel}
    for name, metric in (('psnr', calculate_psnr), ('ssim', calculate_ssim)):
        assert values[name] == pytest.approx(np.mean([metric(images[i], gts[i], **options) for i in counted]), abs=1e-9)
    images, gts = (frames[counted.start : counted.stop] for frames in (images, gts))
    assert values['tof'] == pytest.approx(calculate_tof(images, gts, protocol.crop_border), abs=1e-9)
    assert values['tof'] > 0
    assert len(seen) == protocol.num_frame(clip)


def test_one_frame_has_no_motion(test_set, tmp_path):
    clip = open_clips(test_set / 'BIx4', test_set / 'GT', 4)[0]
    protocol = Protocol(inner_frames=True)  # of 5 frames one counts
    values = evaluate(Upsampler(), clip, protocol, tmp_path / 'x')
    assert values['tof'] is None
    assert 10 < values['psnr'] < 50


def test_pictures_show_frame_crop_and_course_of_a_line(test_set, tmp_path):
    net = Upsampler(gain=0.9).eval()
    clip = open_clips(test_set / 'BIx4', test_set / 'GT', 4)[1]
    view = choose_view(clip, Protocol(max_frames=5))
    evaluate(net, clip, Protocol(max_frames=5), tmp_path / 'x')
    images, _ = restored(net, test_set, 'b', 5)
    frame, crop, profile = (cv2.imread(str(tmp_path / f'x_{kind}.png')) for kind in ('frame', 'crop', 'profile'))
    top, left, height, width = view.window
    assert view.index == 2
    assert (height, width) == (48 // 6, 80 // 6)
    np.testing.assert_array_equal(frame, images[2])
    np.testing.assert_array_equal(crop, images[2][top : top + height, left : left + width])
    np.testing.assert_array_equal(profile, np.stack([image[top + height // 2] for image in images]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x_crop.png', 'x_frame.png', 'x_profile.png']


@pytest.mark.parametrize(
    ('net', 'message'),
    [
        (WrongSizeForTest(), r'a frame of the output is \(3, 48, 62\), but one of GT is \(3, 48, 64\)'),
        (LosingFramesForTest(-2), 'the output has 3 frames, but the clip has 5'),
        (LosingFramesForTest(1), 'the output has more than the 5 frames of the clip'),
    ],
)
def test_an_output_of_another_shape(test_set, tmp_path, net, message):
    clip = open_clips(test_set / 'BIx4', test_set / 'GT', 4)[0]
    with pytest.raises(InputError, match=message):
        evaluate(net, clip, Protocol(), tmp_path / 'x')


# -------------------------------------------------------------------------------------------- networks that fail


@pytest.fixture
def benchmark(test_set, tmp_path):
    return Benchmark(tmp_path / 'out', [], test_set / 'BIx4', test_set / 'GT', profile=CHEAP, title='test')


@pytest.fixture
def in_this_process(monkeypatch):
    """Networks run in this process: to start one of their own takes seconds."""

    def run(self, job, *arguments):
        try:
            job(*arguments)
        except InputError as error:
            return reason(error)

    monkeypatch.setattr(Workers, 'run', run)


def frames_seen(path):
    return path.read_text().splitlines() if path.is_file() else []


def test_a_network_that_fails_is_a_row_with_its_reason_and_others_go_on(benchmark, tmp_path):
    fixed = tmp_path / 'fixed'
    entries = [
        network('wrong size', 'WrongSize'),
        network('raising', 'Raising', log=str(tmp_path / 'raising')),
        network('out of memory', 'OutOfMemory'),
        network('killed', 'Killed'),
        network('failing on b', 'FailingOnB', fixed=str(fixed), log=str(tmp_path / 'b')),
        network('failing on profile', 'FailingOnProfile'),
        network('uncountable', 'Uncountable'),
        network('good', 'Upsampler', log=str(tmp_path / 'good')),
    ]
    benchmark = dataclasses.replace(benchmark, others=entries)
    results = run_benchmark(benchmark)
    rows = {row.name: row for row in results.rows}
    assert list(rows) == ['Bicubic', *(one.name for one in entries)]

    sizes = 'a: a frame of the output is (3, 48, 62), but one of GT is (3, 48, 64); '
    sizes += 'b: a frame of the output is (3, 48, 78), but one of GT is (3, 48, 80)'
    assert rows['wrong size'].error == sizes
    assert rows['raising'].error == 'RuntimeError: no such luck'
    assert rows['out of memory'].error.startswith('out of memory (')
    assert rows['killed'].error == KILLED
    assert rows['failing on b'].error == 'b: RuntimeError: b is too wide'
    assert rows['failing on profile'].error == 'cost: RuntimeError: too small'

    for name in ('wrong size', 'raising', 'out of memory', 'killed'):
        assert rows[name].clips == rows[name].average == {}
        assert rows[name].seconds_per_frame is rows[name].peak_memory is None  # what needs no run is known
    # it does not go on after it failed; its multiply-adds are tried to be counted, and it is not timed
    assert frames_seen(tmp_path / 'raising') == ['12x16', '12x20', '8x8']

    good = rows['good']
    assert rows['failing on b'].clips == {'a': good.clips['a']}  # all are the same upsampling
    assert rows['failing on b'].average == {}
    assert rows['failing on profile'].clips == good.clips
    assert rows['Bicubic'].error is good.error is None
    for name, value in good.average.items():
        assert value == pytest.approx(np.mean([good.clips[clip][name] for clip in 'ab']), abs=1e-12)
    assert good.params == 1
    assert good.seconds_per_frame > 0
    assert good.macs == 32 * 32 * 3 * 4  # bilinear samples
    uncountable = rows['uncountable']
    assert uncountable.macs is uncountable.error is None
    assert uncountable.params == 1
    assert uncountable.seconds_per_frame > 0
    assert any(note.startswith('uncountable: ') and 'cannot be counted' in note for note in results.methods_note)
    assert set(results.pictures['a']['methods']) >= {'Bicubic', 'good', 'GT'}
    assert 'killed' not in results.pictures['a']['methods']
    for name in ('results.json', 'results.csv', 'report.html'):
        assert (benchmark.out / name).is_file()

    # again, when the reason is gone: what failed is tried again, and nothing else
    seen = frames_seen(tmp_path / 'good')
    assert seen[:12] == ['12x16'] * 5 + ['12x20'] * 7
    fixed.touch()
    results = run_benchmark(dataclasses.replace(benchmark, others=entries[4:]))
    again = {row.name: row for row in results.rows}
    assert again['failing on b'].error is None
    assert again['failing on b'].average == again['good'].average == good.average
    assert again['failing on b'].params == 1
    assert again['good'] == good
    assert frames_seen(tmp_path / 'good') == seen
    assert [size for size in frames_seen(tmp_path / 'b') if size != '8x8'] == seen[:12]  # 8x8 is for its cost

    # where cost is not asked for, its failure is none
    results = run_benchmark(dataclasses.replace(benchmark, others=entries[5:6], profile=None))
    assert [row.error for row in results.rows] == [None, None]
    assert results.rows[1].average == good.average


@pytest.mark.usefixtures('in_this_process')
def test_frames_that_are_not_finite_fail_and_are_never_the_best(benchmark):
    """tOF of black frames, which NaN would become, is the best that there is where nothing moves."""
    others = [network('nan', 'Upsampler', gain=math.nan), network('inf', 'Upsampler', gain=math.inf)]
    results = run_benchmark(dataclasses.replace(benchmark, others=others, profile=None, clip_names=['a']))
    bicubic, nan, inf = results.rows
    assert nan.error == inf.error == 'frame 00000000 of the output has values that are NaN or infinite'
    assert nan.clips == inf.clips == nan.average == {}
    column = metric_column(results, 'tof', ('average',))
    assert best_text(results, column) == column.text(bicubic.average['tof'])


# -------------------------------------------------------------------------------- frames that other programs restored


@pytest.fixture
def frames_of_a_network(test_set, tmp_path):
    """What a network gives, as 8-bit PNGs with names of another program; their folder."""
    for clip, length in LENGTHS.items():
        (tmp_path / 'frames' / clip).mkdir(parents=True)
        for i, image in enumerate(restored(Upsampler(gain=0.9), test_set, clip, length)[0]):
            cv2.imwrite(str(tmp_path / 'frames' / clip / f'out{i + 1}_x4.png'), image)
    return tmp_path / 'frames'


@pytest.mark.usefixtures('in_this_process')
def test_restored_frames_are_measured_and_shown_as_their_network_would_be(benchmark, frames_of_a_network):
    others = [network('net', 'Upsampler', gain=0.9), RestoredFrames('theirs', frames_of_a_network)]
    others.append(RestoredFrames('GT itself', benchmark.gt_root))
    results = run_benchmark(dataclasses.replace(benchmark, others=others))
    _, net, theirs, gt = results.rows
    assert theirs.clips == net.clips
    assert theirs.average == net.average
    assert (theirs.frames, theirs.type, theirs.random_weights) == (str(frames_of_a_network), None, False)
    assert theirs.params is theirs.macs is theirs.seconds_per_frame is theirs.peak_memory is theirs.error is None
    assert net.macs > 0
    assert gt.average == {'psnr': math.inf, 'ssim': pytest.approx(1), 'tof': 0}
    for shown in results.pictures.values():
        for kind in PICTURES:
            images = [cv2.imread(str(benchmark.out / shown['methods'][name][kind])) for name in ('net', 'theirs')]
            np.testing.assert_array_equal(*images)
    assert f'theirs: {frames_of_a_network}' in (benchmark.out / 'report.html').read_text()


@pytest.mark.usefixtures('in_this_process')
def test_of_restored_frames_the_first_are_enough_where_no_more_count(benchmark, frames_of_a_network):
    others = [RestoredFrames('theirs', frames_of_a_network)]
    benchmark = dataclasses.replace(benchmark, others=others, protocol=Protocol(max_frames=4), profile=None)
    whole = run_benchmark(benchmark)
    for clip, length in LENGTHS.items():
        for i in range(4, length):
            (frames_of_a_network / clip / f'out{i + 1}_x4.png').unlink()
    first = run_benchmark(benchmark)
    assert first.rows == whole.rows


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda root: (root / 'b' / 'out7_x4.png').unlink(), 'theirs: .*frames/b has 6 frames, but must have 7.'),
        (
            lambda root: shutil.rmtree(root / 'b'),
            'theirs: there is no folder .*frames/b with the restored',
        ),
        (lambda root: [file.unlink() for file in (root / 'a').iterdir()], 'frames/a: there are no images'),
        (
            lambda root: cv2.imwrite(str(root / 'a' / 'out1_x4.png'), np.zeros((48, 60, 3))),
            'a are 60x48, .* GT are 64x48',
        ),
    ],
)
def test_restored_frames_that_do_not_fit_the_clips(benchmark, frames_of_a_network, change, message):
    change(frames_of_a_network)
    with pytest.raises(InputError, match=message):
        run_benchmark(dataclasses.replace(benchmark, others=[RestoredFrames('theirs', frames_of_a_network)]))
    assert not benchmark.out.exists()


def test_restored_frames_are_named_on_the_command_line():
    assert parse_method('a b=frames:some/folder@4') == RestoredFrames('a b', Path('some/folder@4'))
    with pytest.raises(InputError, match='frames:some/folder needs a name for the table: NAME=frames:some/folder'):
        parse_method('frames:some/folder')
    assert parse_method('x=EDVR:num_feat=8').entry.options == {'type': 'EDVR', 'num_feat': 8}


# ------------------------------------------------------------------------------------------- what is measured again


class TestKeys:
    """The name of the results says what they depend on."""

    @pytest.fixture
    def checkpoint(self, tmp_path):
        path = tmp_path / 'w.pth'
        torch.save(Upsampler(0.5).state_dict(), path)
        return path

    @pytest.mark.parametrize(
        'changes',
        [
            {'y_channel': False},
            {'crop_border': 4},
            {'inner_frames': True},
            {'max_frames': 3},
            {'padding': 'replicate'},
            {'scale': 2},
            {'lpips': True},
        ],
    )
    def test_another_protocol(self, benchmark, changes):
        other = dataclasses.replace(benchmark, protocol=dataclasses.replace(benchmark.protocol, **changes))
        net = network('net', 'Upsampler')
        assert Cache(benchmark).key(net) != Cache(other).key(net)

    def test_other_arguments_and_another_name(self, benchmark):
        keys = [
            Cache(benchmark).key(one)
            for one in (
                network('net', 'Upsampler'),
                network('net', 'Upsampler', gain=2),
                network('net', 'Raising'),
                network('net2', 'Upsampler'),
                network('net/2', 'Upsampler'),
                network('net 2', 'Upsampler'),
            )
        ]
        assert len(set(keys)) == 6
        assert not any(set(key) & set('/ ') for key in keys)

    def test_other_clips(self, benchmark, tmp_path):
        (tmp_path / 'elsewhere').symlink_to(benchmark.gt_root)
        net = network('net', 'Upsampler')
        assert Cache(benchmark).key(net) != Cache(dataclasses.replace(benchmark, gt_root=tmp_path / 'elsewhere')).key(
            net
        )

    def test_what_does_not_change_a_result(self, benchmark):
        net = network('net', 'Upsampler')
        other = dataclasses.replace(benchmark, title='other', command='other', clip_names=['a'], published=['x.csv'])
        assert Cache(benchmark).key(net) == Cache(other).key(net)

    def test_a_checkpoint_that_was_trained_on(self, benchmark, checkpoint):
        net = network('net', 'Upsampler', str(checkpoint))
        keys = {Cache(benchmark).key(network('net', 'Upsampler')), Cache(benchmark).key(net)}
        keys.add(Cache(benchmark).key(network('net', 'Upsampler', str(checkpoint), 'params')))
        torch.save(Upsampler(0.25).state_dict(), checkpoint)
        os.utime(checkpoint, ns=(1, 1))
        keys.add(Cache(benchmark).key(net))
        assert len(keys) == 4

    def test_cost_depends_on_its_settings(self, benchmark):
        net = network('net', 'Upsampler')
        others = [
            dataclasses.replace(benchmark, profile=dataclasses.replace(CHEAP, **changes))
            for changes in ({'size': (8, 12)}, {'num_frame': 2}, {'repeat': 2})
        ]
        caches, (clip, _) = [Cache(one) for one in (benchmark, *others)], benchmark.clips()
        assert len({cache.profile(net) for cache in caches}) == 4
        assert len({cache.clip(net, clip) for cache in caches}) == 1


@pytest.mark.usefixtures('in_this_process')
def test_only_what_changed_is_measured_again(benchmark, tmp_path):
    path, log = tmp_path / 'w.pth', tmp_path / 'log'
    torch.save({'params': Upsampler(0.8).state_dict()}, path)
    net = network('net', 'Upsampler', str(path), log=str(log))
    benchmark = dataclasses.replace(benchmark, others=[net], profile=CHEAP, clip_names=['a'])
    first = run_benchmark(benchmark)
    profiled = frames_seen(log)[5:]
    assert set(profiled) == {'8x8'}

    both = run_benchmark(dataclasses.replace(benchmark, clip_names=[]))  # a clip more
    assert both.clips == ['a', 'b']
    assert frames_seen(log)[5:] == profiled + ['12x20'] * 7
    assert [row.clips['a'] for row in both.rows] == [row.clips['a'] for row in first.rows]

    torch.save({'params': Upsampler(0.7).state_dict()}, path)
    os.utime(path, ns=(1, 1))
    trained_on = run_benchmark(benchmark)
    assert frames_seen(log) == ['12x16'] * 5 + profiled + ['12x20'] * 7 + ['12x16'] * 5 + profiled
    assert trained_on.rows[0] == first.rows[0]
    assert trained_on.rows[1].clips['a']['psnr'] < first.rows[1].clips['a']['psnr'] - 0.5


def replace_in_place(path, content):
    """As a file system of coarse times shows it: other bytes, the same size and time."""
    status = path.stat()
    path.write_bytes(content)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.usefixtures('in_this_process')
@pytest.mark.parametrize('kind', ['GT', 'BIx4'])
def test_clips_whose_content_changed_are_measured_again(benchmark, tmp_path, test_set, kind):
    """Frame 3 of clip a becomes frame 2, with the same number of bytes and the same time."""
    root, log = tmp_path / 'set', tmp_path / 'log'
    shutil.copytree(test_set, root)
    two, three = (root / kind / 'a' / f'0000000{i}.png' for i in (2, 3))
    size = max(two.stat().st_size, three.stat().st_size)
    three.write_bytes(three.read_bytes().ljust(size, b'\0'))  # readers stop at IEND
    net = network('net', 'Upsampler', log=str(log))
    benchmark = dataclasses.replace(benchmark, others=[net], lq_root=root / 'BIx4', gt_root=root / 'GT', profile=None)
    first = run_benchmark(benchmark)
    assert run_benchmark(benchmark) == first
    assert frames_seen(log) == ['12x16'] * 5 + ['12x20'] * 7

    replace_in_place(three, two.read_bytes().ljust(size, b'\0'))
    changed = run_benchmark(benchmark)
    assert frames_seen(log)[12:] == ['12x16'] * 5
    for row, before in zip(changed.rows, first.rows):
        assert row.clips['a'] != before.clips['a']
        assert row.clips['b'] == before.clips['b']
    shown, before = (results.pictures['a']['methods'] for results in (changed, first))
    assert all(shown[name]['profile'] != before[name]['profile'] for name in ('Bicubic', 'net', 'GT'))


@pytest.mark.usefixtures('in_this_process')
def test_restored_frames_that_changed_are_measured_again(benchmark, frames_of_a_network):
    others = [RestoredFrames('theirs', frames_of_a_network)]
    benchmark = dataclasses.replace(benchmark, others=others, profile=None)
    first = run_benchmark(benchmark).rows[1]
    frame = frames_of_a_network / 'a' / 'out3_x4.png'
    other = (frames_of_a_network / 'a' / 'out2_x4.png').read_bytes()
    frame.write_bytes(other)
    changed = run_benchmark(benchmark).rows[1]
    assert changed.clips['a']['psnr'] < first.clips['a']['psnr']
    assert changed.clips['b'] == first.clips['b']


@pytest.mark.usefixtures('in_this_process')
@pytest.mark.parametrize('content', ['', '{"psnr": ', '[1]', 'null', '{"psnr": 99}', 'a flipped digit'])
def test_a_damaged_result_is_measured_again(benchmark, content):
    benchmark = dataclasses.replace(benchmark, clip_names=['a'])
    first = run_benchmark(benchmark)
    for path in (benchmark.out / 'cache').rglob('*.json'):
        if content == 'a flipped digit':
            path.write_text(
                re.sub(r'(?<=\.\d)\d', lambda digit: str((int(digit[0]) + 1) % 10), path.read_text(), count=1)
            )
        else:
            path.write_text(content)
    again = run_benchmark(benchmark).rows[0]
    assert (again.clips, again.macs) == (first.rows[0].clips, first.rows[0].macs)
    assert again.seconds_per_frame > 0


@pytest.mark.usefixtures('in_this_process')
def test_fresh_and_lost_pictures(benchmark, tmp_path, capsys):
    log = tmp_path / 'log'
    net = network('net', 'Upsampler', log=str(log))
    benchmark = dataclasses.replace(benchmark, others=[net], profile=None, clip_names=['a'])
    first = run_benchmark(benchmark)
    seen = frames_seen(log)
    assert len(seen) == 5
    capsys.readouterr()
    assert run_benchmark(benchmark).rows == first.rows
    assert 'took 2 results of an earlier run' in capsys.readouterr().out
    assert frames_seen(log) == seen

    (benchmark.out / first.pictures['a']['methods']['net']['crop']).unlink()
    assert run_benchmark(benchmark).pictures == first.pictures
    assert frames_seen(log) == 2 * seen
    assert run_benchmark(dataclasses.replace(benchmark, fresh=True)).rows == first.rows
    assert frames_seen(log) == 3 * seen


@pytest.mark.usefixtures('in_this_process')
def test_networks_without_weights_in_cost_only(benchmark, tmp_path):
    """They restore no clip; what they cost, and all of the others, is there, and in the report."""
    log = tmp_path / 'frames'
    net = network('untrained', 'Upsampler', log=str(log))
    asked = dataclasses.replace(benchmark, others=[net], profile=CHEAP, untrained_in_cost_only=True)
    bicubic, untrained = run_benchmark(asked).rows
    assert set(log.read_text().split()) == {'8x8'}  # the frames whose cost is measured
    assert (untrained.params, untrained.error, untrained.average, untrained.clips) == (1, None, {}, {})
    assert untrained.seconds_per_frame > 0
    assert bicubic.average['psnr'] > 0
    assert 'Networks with random weights are measured in cost only.' in (asked.out / 'report.html').read_text()
    assert run_benchmark(dataclasses.replace(asked, untrained_in_cost_only=False)).rows[1].average['psnr'] > 0


@pytest.mark.usefixtures('in_this_process')
def test_documents_agree(benchmark, tmp_path):
    table = tmp_path / 'published.csv'
    table.write_text('source,method,a_psnr,avg_psnr\na paper,Theirs,31.25,31.25\n')
    net = network('Näme/with "all", kinds', 'Upsampler', gain=0.9)
    benchmark = dataclasses.replace(benchmark, others=[net], clip_names=['a'], published=[str(table)])
    results = run_benchmark(benchmark)
    assert json.loads((benchmark.out / 'results.json').read_text()) == json.loads(
        json.dumps(dataclasses.asdict(results))
    )
    assert [row.name for row in results.rows] == ['Bicubic', net.name, 'Theirs']
    assert [row.random_weights for row in results.rows] == [False, True, False]
    with open(benchmark.out / 'results.csv', newline='') as file:
        lines = list(csv.DictReader(file))
    assert [(line['method'], line['clip']) for line in lines] == [
        (name, clip) for name in ('Bicubic', net.name, 'Theirs') for clip in ('a', 'average')
    ]
    for row, line in zip((row for row in results.rows for _ in range(2)), lines):
        values = row.average if line['clip'] == 'average' else row.clips['a']
        for metric in ('psnr', 'ssim', 'tof'):
            assert line[metric] == ('' if values.get(metric) is None else repr(values[metric]))
        assert line['published'] == str(row.published)
    assert float(lines[4]['psnr']) == 31.25
    for methods in results.pictures['a']['methods'].values():
        for path in methods.values():
            assert cv2.imread(str(benchmark.out / path)) is not None
    assert list(results.pictures['a']['methods']) == ['Bicubic', net.name, 'GT']
    assert not list(benchmark.out.rglob('*tmp*'))


STAND_IN = """
import torch


class LPIPS(torch.nn.Module):
    def __init__(self, **arguments):
        super().__init__()

    def forward(self, first, second):
        return (first - second).abs().mean()
"""


def test_lpips_where_it_is_asked_for(benchmark, tmp_path, monkeypatch):
    """In all documents; by a package in its place, which gives the mean difference of values from -1 to 1."""
    (tmp_path / 'lpips.py').write_text(STAND_IN)
    weights = tmp_path / 'hub' / 'checkpoints' / PurePosixPath(AlexNet_Weights.IMAGENET1K_V1.url).name
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(workers, 'PROCESSES', multiprocessing.get_context('spawn'))  # which take both over
    protocol = Protocol(lpips=True, crop_border=4, max_frames=1)
    results = run_benchmark(dataclasses.replace(benchmark, clip_names=['a'], protocol=protocol))
    bicubic, gt = (
        cv2.imread(str(benchmark.out / results.pictures['a']['methods'][name]['frame'])).astype(float)[4:-4, 4:-4]
        for name in ('Bicubic', 'GT')
    )
    value = results.rows[0].average['lpips']
    assert value == pytest.approx(np.abs(bicubic - gt).mean() / 127.5, rel=1e-5)
    assert json.loads((benchmark.out / 'results.json').read_text())['rows'][0]['clips']['a']['lpips'] == value
    with open(benchmark.out / 'results.csv', newline='') as file:
        assert float(next(iter(csv.DictReader(file)))['lpips']) == value
    text, page = terminal_table(results), (benchmark.out / 'report.html').read_text()
    assert f'{value:.4f}' in text
    assert f'{value:.4f}' in page
    assert 'LPIPS (lower is better)' in text
    assert 'tOF and LPIPS at ×4 on the Y channel (LPIPS in RGB)' in page
    with pytest.raises(InputError, match='a border of 9 px leaves less than the 32x32 that LPIPS needs'):
        dataclasses.replace(benchmark, protocol=Protocol(lpips=True, crop_border=9)).clips()


# ------------------------------------------------------------------------------------------- what cannot be run


def test_a_second_run_to_the_same_folder_is_refused(benchmark):
    folder = Cache(benchmark).folder
    folder.mkdir(parents=True)
    refused = pytest.raises(InputError, match=r'another process is writing the results in .*; wait until it ends')
    with lock_file(folder / '.lock', 'the results'), refused:
        run_benchmark(benchmark)
    assert [path.name for path in folder.iterdir()] == ['.lock']


def test_a_full_disk_is_no_failure_of_a_method(benchmark, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, 'write', refuse)
    monkeypatch.setattr(Workers, 'run', lambda self, *job: _run(*job)[0])
    with pytest.raises(InputError, match=r'the disk of .* is full .*; make room, and run again to go on'):
        run_benchmark(benchmark)


def test_bicubic_is_first_and_once(benchmark):
    given = NetworkMethod(NetworkEntry('Bicubic', {'type': 'Bicubic', 'scale': 4}))
    benchmark = dataclasses.replace(benchmark, others=[network('net', 'Upsampler'), given])
    assert [one.name for one in benchmark.methods()] == ['Bicubic', 'net']


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ([network('x', 'Upsampler'), network('x', 'Raising')], 'two methods are called x'),
        ([network('Bicubic', 'Upsampler')], 'two methods are called Bicubic'),
        ([network('GT', 'Upsampler')], 'no method may be called GT'),
        ([network('x', 'Upsampler', 'nothing.pth')], 'x: there is no checkpoint nothing.pth'),
    ],
)
def test_networks_that_cannot_be_a_table(benchmark, entries, message):
    with pytest.raises(InputError, match=message):
        run_benchmark(dataclasses.replace(benchmark, others=entries))
    assert not benchmark.out.exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'clip_names': ['a', 'nope']}, 'there is no clip nope in .*; there are a, b'),
        ({'protocol': Protocol(inner_frames=True, max_frames=4)}, 'clip a has 4 frames: none is left'),
        ({'protocol': Protocol(crop_border=19)}, 'clip a: GT is 64x48, of which a border of 19 px leaves less than'),
        ({'published': ['nothing.csv']}, 'nothing.csv: No such file'),
        ({'protocol': Protocol(lpips=True)}, 'needs the package lpips, which is not installed: pip install lpips'),
    ],
)
def test_what_leaves_nothing_to_measure(benchmark, changes, message):
    with pytest.raises(InputError, match=message):
        run_benchmark(dataclasses.replace(benchmark, **changes))
    assert not benchmark.out.exists()


def test_a_folder_of_results_that_cannot_be_made(benchmark, tmp_path):
    (tmp_path / 'out').write_text('mine')
    with pytest.raises(InputError, match=r'folder of the results, .*out/cache, cannot be made: Not a directory'):
        run_benchmark(benchmark)
    assert (tmp_path / 'out').read_text() == 'mine'


def test_the_largest_border_that_leaves_enough(benchmark):
    protocol = Protocol(crop_border=18)  # 48 - 2 * 18 = 12
    assert [clip.name for clip in dataclasses.replace(benchmark, protocol=protocol).clips()] == list(LENGTHS)
