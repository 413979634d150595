"""`scripts/upscale.py` as a user types it, on videos made here by PyAV and on real frames."""

import functools
import os
import shutil
import time

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize

from basicsr_plugins.commands import upscale as upscale_command
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import load_network, upscale
from basicsr_plugins.video.images import ImageTarget
from basicsr_plugins.video.opening import VideoSettings, VideoTarget, open_source

from .conftest import PROJECT
from .video.test_film import decoded, duration, make_video, moving, packets

SCRIPT = PROJECT / 'scripts' / 'upscale.py'
EFAR = {'type': 'EFAR', 'num_feat': 8, 'num_block': 1}


@pytest.fixture
def checkpoint(tmp_path):
    """An experiment's folder as training leaves it: the option file, and weights of which the EMA ones are others."""
    torch.manual_seed(0)
    weights = {key: build_network(dict(EFAR)).state_dict() for key in ('params', 'params_ema')}
    folder = tmp_path / 'experiments' / 'small'
    (folder / 'models').mkdir(parents=True)
    (folder / 'train_small.yml').write_text(yaml.safe_dump({'name': 'small', 'network_g': EFAR, 'path': {}}))
    torch.save(weights, folder / 'models' / 'net_g_latest.pth')
    return folder / 'models' / 'net_g_latest.pth'


@pytest.fixture
def film(tmp_path):
    """12 frames at uneven times, with sound."""
    times = [512 * i + (200 if i % 3 else 0) for i in range(12)]
    return make_video(tmp_path / 'film.mp4', moving(12), times=times, audio='aac')


def write_frames(folder, num_frame):
    folder.mkdir()
    for i, frame in enumerate(moving(num_frame)):
        image = (frame.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f'{i:08d}.png'), image)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_video_with_sound(run, run_forked, tmp_path, film, checkpoint):
    """Frames, their times, the duration and every packet of sound, through the command; network from its experiment."""
    result = run('python', SCRIPT, film, '-o', 'out.mp4', '--checkpoint', checkpoint, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == 'out.mp4'
    assert 'frame/s' in result.stderr or 's/frame' in result.stderr
    times, planes = decoded(tmp_path / 'out.mp4')
    assert times == decoded(film)[0]
    assert len(planes) == 12
    assert planes[0].shape == (192 * 3 // 2, 256)  # yuv420p: luma, and half as much chroma
    assert packets(tmp_path / 'out.mp4', 'audio') == packets(film, 'audio')
    assert duration(tmp_path / 'out.mp4') == pytest.approx(duration(film), abs=0.022)  # a packet of sound

    # the pictures are those of the EMA weights on the very frames of the film
    net = load_network(checkpoint)
    lq = torch.stack(list(open_source(film)))
    with torch.no_grad():
        expected = net(lq[None])[0].clamp(0, 1)
    restored = torch.stack(list(open_source(tmp_path / 'out.mp4')))
    assert (restored - expected).abs().mean() < 0.03  # what H.264 loses at its default quality
    torch.manual_seed(0)
    other = build_network(dict(EFAR)).eval()  # `params`
    with torch.no_grad():
        assert (other(lq[None])[0].clamp(0, 1) - expected).abs().mean() > 0.001

    again = run_forked(SCRIPT, film, '-o', 'out.mp4', '--network', 'Bicubic', cwd=tmp_path, check=False)
    assert again.returncode == 1
    assert 'out.mp4' in again.stderr.splitlines()[-1]
    assert 'pass force to overwrite it' in again.stderr.splitlines()[-1]


def test_images_are_the_networks_output(run_forked, tmp_path, checkpoint):
    """A folder of PNGs is one pass over the whole sequence, to the last bit."""
    source = write_frames(tmp_path / 'frames', 7)
    run_forked(SCRIPT, source, '-o', 'out', '--checkpoint', checkpoint, '--segment', '3', cwd=tmp_path)
    lq = torch.stack(list(open_source(source)))
    with torch.no_grad():
        expected = (load_network(checkpoint, runtime='auto')(lq[None])[0].clamp(0, 1) * 255).round().byte()
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [f'{i:08d}.png' for i in range(7)]
    for name, frame in zip(names, expected):
        image = cv2.imread(str(tmp_path / 'out' / name))[..., ::-1]
        assert np.array_equal(image, frame.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(('output', 'runtime'), [('out', 'auto'), ('out.mkv', 'torch')])
def test_killed_and_resumed(start_forked, run_forked, tmp_path, checkpoint, output, runtime):
    source = write_frames(tmp_path / 'frames', 50)
    options = ['--checkpoint', checkpoint, '--preset', 'ultrafast', '--mode', 'stream', '--lookahead', '2']
    command = [SCRIPT, source, '-o', output, *options, '--segment-frames', '5', '--runtime', runtime]
    process = start_forked(*command, cwd=tmp_path)
    parts = tmp_path / f'.{output}.parts'
    wanted = 'seg_*.mkv' if output.endswith('.mkv') else 'frames/*.png'
    deadline = time.monotonic() + 120
    moment = 1 + os.getpid() % 3
    while len(list(parts.glob(wanted))) < moment:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert not (tmp_path / output).exists()
    left = len(list(parts.glob(wanted)))
    assert left > 0

    refused = run_forked(*command, cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert 'resume' in refused.stderr.splitlines()[-1]
    run_forked(*command, '--resume', cwd=tmp_path)
    assert not parts.exists()
    command[command.index('-o') + 1] = f'undisturbed{output[3:]}'
    run_forked(*command, cwd=tmp_path)
    if output == 'out':
        assert contents(tmp_path / 'out') == contents(tmp_path / 'undisturbed')
        assert len(contents(tmp_path / 'out')) == 50
    else:
        (times, planes), (undisturbed_times, undisturbed) = (
            decoded(tmp_path / name) for name in ('out.mkv', 'undisturbed.mkv')
        )
        assert times == undisturbed_times
        assert len(planes) == 50
        assert np.array_equal(planes, undisturbed)


def test_compare(tmp_path, film):
    """Bicubic at the left, the network at the right; here both are bicubic."""
    net = load_network(None, 'Bicubic')
    quality = VideoSettings(crf=1, pix_fmt='yuv444p')
    notes = upscale(net, film, tmp_path / 'out.mp4', video=quality, compare=tmp_path / 'both.mp4', show_progress=False)
    assert notes == []
    lq = next(iter(open_source(film)))
    frame = next(iter(open_source(tmp_path / 'both.mp4')))
    assert frame.shape == (3, 192, 512)
    expected = imresize(lq, 4).clamp(0, 1)
    assert (frame[..., :256] - expected).abs().mean() < 0.01
    assert (frame[..., 256:] - expected).abs().mean() < 0.01
    assert packets(tmp_path / 'both.mp4', 'audio') == packets(film, 'audio')


def test_compare_is_resumed_too(tmp_path, film, monkeypatch):
    """Interrupted while frames are made, and interrupted after the comparison is complete but not the output."""
    net = load_network(None, 'Bicubic')
    options = {'compare': tmp_path / 'both.mp4', 'show_progress': False, 'video': VideoSettings(segment_frames=5)}
    upscale(net, film, tmp_path / 'undisturbed.mp4', **{**options, 'compare': tmp_path / 'undisturbed_both.mp4'})

    class Stop(Exception):
        pass

    original, written = VideoTarget._write, []

    def stop_at_frame_8(self, index, frame):
        written.append(index)
        if index == 8:
            raise Stop
        original(self, index, frame)

    monkeypatch.setattr(VideoTarget, '_write', stop_at_frame_8)
    with pytest.raises(Stop):
        upscale(net, film, tmp_path / 'out.mp4', **options)
    assert sorted(path.name for path in tmp_path.glob('*.mp4')) == [
        'film.mp4',
        'undisturbed.mp4',
        'undisturbed_both.mp4',
    ]
    monkeypatch.setattr(VideoTarget, '_write', original)

    finish = VideoTarget._finish

    def stop_at_the_output(self):
        if self.path.name == 'out.mp4':
            raise Stop
        return finish(self)

    monkeypatch.setattr(VideoTarget, '_finish', stop_at_the_output)
    with pytest.raises(Stop):
        upscale(net, film, tmp_path / 'out.mp4', resume=True, **options)
    assert (tmp_path / 'both.mp4').is_file()
    assert not (tmp_path / 'out.mp4').exists()
    monkeypatch.setattr(VideoTarget, '_finish', finish)
    notes = upscale(net, film, tmp_path / 'out.mp4', resume=True, **options)
    assert notes == [f'{tmp_path / "both.mp4"} is there already and was kept.']
    for ours, undisturbed in (('out', 'undisturbed'), ('both', 'undisturbed_both')):
        assert packets(tmp_path / f'{ours}.mp4', 'video') == packets(tmp_path / f'{undisturbed}.mp4', 'video')
    assert not list(tmp_path.glob('.*.parts'))


@pytest.mark.parametrize('other', ['out.mp4', 'sub/../out.mp4'])
def test_compare_is_not_the_output(tmp_path, film, other):
    (tmp_path / 'sub').mkdir()
    with pytest.raises(InputError, match='is the output itself'):
        upscale(load_network(None, 'Bicubic'), film, tmp_path / 'out.mp4', compare=tmp_path / other, force=True)
    assert not list(tmp_path.glob('*out.mp4*'))


def test_another_film_or_network_is_not_mixed_in(tmp_path, monkeypatch):
    frames = write_frames(tmp_path / 'frames', 6)
    net = load_network(None, 'Bicubic')
    original = ImageTarget._write

    def stop(self, index, frame):
        if index == 4:
            raise KeyboardInterrupt
        original(self, index, frame)

    monkeypatch.setattr(ImageTarget, '_write', stop)
    with pytest.raises(KeyboardInterrupt):
        upscale(net, frames, tmp_path / 'out', show_progress=False)
    monkeypatch.setattr(ImageTarget, '_write', original)
    other = build_network({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1}).eval()
    with pytest.raises(InputError, match='start over with force'):
        upscale(other, frames, tmp_path / 'out', resume=True, show_progress=False)
    image = frames / '00000005.png'
    image.write_bytes(image.read_bytes())  # as many bytes, written anew
    with pytest.raises(InputError, match='start over with force'):
        upscale(net, frames, tmp_path / 'out', resume=True, show_progress=False)


def test_the_scale_is_the_networks(tmp_path):
    frames = write_frames(tmp_path / 'frames', 2)
    options = {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 2}
    net = build_network({'type': 'EDSR', **options}).eval()
    upscale(net, frames, tmp_path / 'out', show_progress=False)
    assert cv2.imread(str(tmp_path / 'out' / '00000001.png')).shape == (96, 128, 3)


def test_three_lines(tmp_path, film, checkpoint):
    from basicsr_plugins.upscaling import load_network, upscale

    net = load_network(checkpoint)
    upscale(net, film, tmp_path / 'out.mp4')
    assert len(decoded(tmp_path / 'out.mp4')[0]) == 12


# ---------------------------------------------------------------------------- faults


def test_two_at_once_the_second_with_force(tmp_path, run_forked, monkeypatch, checkpoint):
    """While the first is at work, a command with --force and another network: refused, nothing mixed."""
    write_frames(tmp_path / 'frames', 3)
    monkeypatch.chdir(tmp_path)
    original, second = ImageTarget._write, []
    command = (SCRIPT, 'frames', '-o', 'out', '--checkpoint', checkpoint, '--force')

    def write_and_start_another(self, index, frame):
        original(self, index, frame)
        if index == 1:
            second.append(run_forked(*command, cwd=tmp_path, check=False))

    upscale(load_network(None, 'Bicubic'), 'frames', 'alone', show_progress=False)
    monkeypatch.setattr(ImageTarget, '_write', write_and_start_another)
    upscale(load_network(None, 'Bicubic'), 'frames', 'out', show_progress=False)
    assert second[0].returncode == 1
    assert second[0].stderr == f'error: another process is writing {tmp_path / "out"}; wait until it ends.\n'
    assert contents(tmp_path / 'out') == contents(tmp_path / 'alone')


def test_the_states_of_an_interrupted_run_are_kept_and_removed(tmp_path, checkpoint, monkeypatch):
    """Beside the output, or in --temp-dir; the resumed run does not start the backward pass from the end again."""
    frames = write_frames(tmp_path / 'frames', 12)
    net = load_network(checkpoint)
    upscale(net, frames, tmp_path / 'alone', UpscaleSettings(segment=3), show_progress=False)
    original, stop = ImageTarget._write, [4]

    def interrupt(self, index, frame):
        if index in stop:
            raise KeyboardInterrupt
        original(self, index, frame)

    monkeypatch.setattr(ImageTarget, '_write', interrupt)
    steps = []
    backward_step = type(net).backward_step
    monkeypatch.setattr(type(net), 'backward_step', count_calls(backward_step, steps))
    for temp_dir in (None, tmp_path / 'temp'):
        settings = UpscaleSettings(segment=3, temp_dir=temp_dir)
        stop[:] = [4]
        with pytest.raises(KeyboardInterrupt):
            upscale(net, frames, tmp_path / 'out', settings, show_progress=False)
        folder = tmp_path / '.out.parts' / 'states' if temp_dir is None else next(temp_dir.iterdir())
        assert {file.name for file in folder.iterdir()} == {f'backward_{i:08d}' for i in (3, 6, 9)}
        stop.clear()
        steps.clear()
        upscale(net, frames, tmp_path / 'out', settings, resume=True, force=True, show_progress=False)
        assert len(steps) == 12 - 3
        assert contents(tmp_path / 'out') == contents(tmp_path / 'alone')
        assert not folder.exists()
        assert not (tmp_path / '.out.parts').exists()
        shutil.rmtree(tmp_path / 'out')


def count_calls(function, calls):
    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls.append(kwargs)
        return function(*args, **kwargs)

    return counted


@pytest.mark.parametrize('how', ['resume', 'force'])
def test_what_a_dropped_comparison_left_is_removed(tmp_path, monkeypatch, how):
    frames = write_frames(tmp_path / 'frames', 4)
    net = load_network(None, 'Bicubic')
    original = ImageTarget._write

    def stop(self, index, frame):
        if index == 2 and self.path.name == 'both':
            raise KeyboardInterrupt
        original(self, index, frame)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTarget, '_write', stop)
        with pytest.raises(KeyboardInterrupt):
            upscale(net, frames, tmp_path / 'out', compare=tmp_path / 'both', show_progress=False)
    assert (tmp_path / '.both.parts').exists()
    upscale(net, frames, tmp_path / 'out', show_progress=False, **{how: True})
    assert sorted(path.name for path in tmp_path.iterdir()) == ['frames', 'out']


class TestErrors:
    @pytest.fixture
    def refused(self, run_forked, tmp_path):
        def command(*arguments):
            result = run_forked(SCRIPT, *arguments, cwd=tmp_path, check=False)
            assert result.returncode == 1
            assert 'Traceback' not in result.stderr
            return result.stderr.strip().splitlines()[-1]

        return command

    def test_checkpoint_of_another_network(self, refused, film, checkpoint):
        message = refused(film, '-o', 'out.mp4', '--checkpoint', checkpoint, '--network', 'BasicVSR')
        assert message.startswith(f'error: {checkpoint} does not fit BasicVSR: ')
        assert 'backward_trunk.main.0.weight' in message

    def test_checkpoint_that_is_code(self, refused, film, tmp_path):
        path = tmp_path / 'evil.pth'
        torch.save({'params': os.system}, path)
        message = refused(film, '-o', 'out.mp4', '--checkpoint', path, '--network', 'EFAR')
        assert message.startswith(f'error: {path} is not a checkpoint that holds only weights')

    def test_what_differs_from_the_interrupted_run(self, tmp_path, monkeypatch, checkpoint):
        frames = write_frames(tmp_path / 'frames', 3)
        original = ImageTarget._write

        def stop(self, index, frame):
            if index == 1:
                raise KeyboardInterrupt
            original(self, index, frame)

        monkeypatch.setattr(ImageTarget, '_write', stop)
        with pytest.raises(KeyboardInterrupt):
            upscale(load_network(None, 'Bicubic'), frames, tmp_path / 'out', show_progress=False)
        for arguments, words in (
            (['--checkpoint', checkpoint], 'network is EFAR now, but was Bicubic'),
            (['--network', 'Bicubic', '--segment', '3'], 'segment is 3 now, but was 10'),
            (['--network', 'Bicubic', '--mode', 'stream'], 'mode is stream now, but was exact'),
        ):
            command = [str(frames), '-o', str(tmp_path / 'out'), '--resume', *map(str, arguments)]
            with pytest.raises(InputError, match=rf'out cannot be resumed: {words}; resume with what'):
                upscale_command.main(command)

    @pytest.mark.parametrize('tile', ['²', '٣', '1.5', '-8', ''])
    def test_tile(self, tmp_path, film, tile):
        with pytest.raises(InputError, match='--tile must be auto, none or a number'):
            upscale_command.main([str(film), '-o', str(tmp_path / 'out'), '--network', 'Bicubic', f'--tile={tile}'])

    def test_weights_that_are_not_finite(self, refused, film, checkpoint):
        weights = torch.load(checkpoint, weights_only=True)
        name = next(name for name in weights['params_ema'] if name.endswith('conv_last.bias'))
        weights['params_ema'][name][1] = float('nan')
        torch.save(weights, checkpoint)
        assert refused(film, '-o', 'out', '--checkpoint', checkpoint) == (
            f'error: {checkpoint}: {name} has values that are NaN or infinite; take a checkpoint of before.'
        )

    def test_frames_that_are_not_finite(self, refused, film, checkpoint):
        """Of weights that are finite: nothing is written of them."""
        weights = torch.load(checkpoint, weights_only=True)
        for values in weights['params_ema'].values():
            values.mul_(1e19)
        torch.save(weights, checkpoint)
        assert refused(film, '-o', 'out', '--checkpoint', checkpoint).startswith(
            'error: frame 0 came out with values that are NaN or infinite: '
        )
        assert not (film.parent / 'out').exists()

    def test_a_device_without_values(self, refused, film):
        assert refused(film, '-o', 'out', '--network', 'Bicubic', '--device', 'meta').startswith(
            'error: device meta cannot be used: '
        )

    def test_a_list_of_other_files(self, refused, tmp_path, film):
        (tmp_path / 'list.mp4').write_text(f'ffconcat version 1.0\nfile {film.name}\n')
        assert refused('list.mp4', '-o', 'out', '--network', 'Bicubic') == (
            'error: list.mp4 is not a video that can be read; a list of other files is not followed.'
        )

    def test_no_network(self, refused, film, tmp_path, checkpoint):
        alone = tmp_path / 'alone' / 'deep' / 'net.pth'
        alone.parent.mkdir(parents=True)
        alone.write_bytes(checkpoint.read_bytes())
        assert 'which network is it?' in refused(film, '-o', 'out.mp4', '--checkpoint', alone)
        assert refused(film, '-o', 'out.mp4', '--network', 'EFAR') == (
            'error: EFAR needs its weights: give a checkpoint.'
        )

    @pytest.mark.parametrize(
        ('network', 'line'),
        [
            ({'type': 'SpyNet'}, 'error: SpyNet does not upscale a frame (TypeError in '),
            (
                {'type': 'MSRResNet', 'num_in_ch': 1, 'num_feat': 4},
                'error: MSRResNet does not upscale these frames (RuntimeError in conv.py, line ',
            ),
        ],
    )
    def test_a_network_that_takes_no_frames(self, refused, film, tmp_path, network, line):
        torch.save({'params': build_network(network).state_dict()}, tmp_path / 'other.pth')
        arguments = ','.join(f'{key}={value}' for key, value in network.items() if key != 'type')
        given = f'{network["type"]}{":" if arguments else ""}{arguments}@other.pth'
        assert refused(film, '-o', 'out.mp4', '--network', given).startswith(line)
        assert not (tmp_path / 'out.mp4').exists()

    def test_input(self, refused, tmp_path):
        (tmp_path / 'text.mp4').write_text('no video')
        (tmp_path / 'empty').mkdir()
        for name in ('text.mp4', 'empty', 'missing.mp4'):
            message = refused(name, '-o', 'out.mp4', '--network', 'Bicubic')
            assert message.startswith('error: ')
            assert name in message
        assert not (tmp_path / 'out.mp4').exists()

    def test_damaged_in_the_middle(self, run_forked, tmp_path, film):
        data = bytearray(film.read_bytes())
        start = data.find(b'mdat')
        middle = start + (len(data) - start) // 2
        data[middle : middle + 2000] = bytes(2000)
        (tmp_path / 'damaged.mp4').write_bytes(data)
        result = run_forked(SCRIPT, 'damaged.mp4', '-o', 'out.mp4', '--network', 'Bicubic', cwd=tmp_path)
        assert 'note: ' in result.stderr
        assert 'damaged.mp4' in result.stderr
        assert 0 < len(decoded(tmp_path / 'out.mp4')[0]) < 12
