"""Films and images upscaled by a network of twice the frame rate: frames, times, sound, interruption."""

from fractions import Fraction

import av
import cv2
import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import load_network, upscale
from basicsr_plugins.video.media import VideoSettings
from basicsr_plugins.video.opening import VideoTarget, open_source

from .archs.test_zooming_slow_mo_arch import random_weights
from .conftest import PROJECT
from .test_upscale_command import write_frames
from .video.test_film import decoded, duration, make_video, moving, packets

NETWORK = 'ZoomingSlowMo:num_feat=8,num_extract_block=1,num_block=1,deform_groups=2'
OPTIONS = {'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2}
TIMES = [512 * i + (201 if i % 3 else 0) for i in range(8)]  # in 1/12800 s, some halves between


@pytest.fixture
def checkpoint(tmp_path):
    net = random_weights(build_network({'type': 'ZoomingSlowMo', **OPTIONS}))
    with torch.no_grad():  # pictures in [0, 1] that differ
        net.conv_last.weight *= 0.2 / net(torch.stack(moving(3))[None]).std()
        net.conv_last.bias.fill_(0.5)
    torch.save({'params': net.state_dict()}, tmp_path / 'w.pth')
    return tmp_path / 'w.pth'


def restored(checkpoint, source):
    lq = torch.stack(list(open_source(source)))
    with torch.no_grad():
        return load_network(checkpoint, NETWORK, 'cpu')(lq[None])[0].clamp(0, 1)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_times_lie_between_and_sound_is_copied(run_forked, tmp_path, checkpoint, suffix):
    """By the command: 15 frames of 8, each new one half-way in time, over the same duration; pictures in order."""
    film = make_video(tmp_path / f'film{suffix}', moving(8), times=TIMES, audio='aac')
    output = tmp_path / f'out{suffix}'
    arguments = ('-o', output, '--checkpoint', checkpoint, '--network', NETWORK, '--runtime', 'torch', '--crf', '1')
    run_forked(PROJECT / 'scripts' / 'upscale.py', film, *arguments, cwd=tmp_path)

    given = decoded(film)[0]
    between = [(one + other) / 2 for one, other in zip(given, given[1:])]
    times, planes = decoded(output)
    assert len(planes) == 15
    rounding = Fraction(1, 1000) if suffix == '.mkv' else 0
    assert all(abs(time - wanted) <= rounding for time, wanted in zip(times, sorted(given + between)))
    assert packets(output, 'audio') == packets(film, 'audio')
    assert duration(output) == pytest.approx(duration(film), abs=0.022)  # a packet of sound
    if suffix == '.mp4':
        with av.open(str(output)) as container, av.open(str(film)) as source:
            rates = [float(one.streams.video[0].average_rate) for one in (container, source)]
        assert rates[0] == pytest.approx(2 * rates[1], rel=0.15)  # 15 frames in the time of 8
    frames, expected = torch.stack(list(open_source(output))).mean(1), restored(checkpoint, film).mean(1)
    error = (
        (frames[:, None] - expected[None]).abs().mean(dim=(2, 3))
    )  # (written, made), of grey: chroma has fewer samples
    assert error.argmin(dim=1).tolist() == list(range(15))
    assert error.diagonal().max() < 0.03


def test_interrupted_at_any_frame_and_resumed(tmp_path, checkpoint, monkeypatch):
    """What is left ends with a frame that was given, or with one between: the film is that of an undisturbed run."""
    film = make_video(tmp_path / 'film.mp4', moving(8), times=TIMES)
    net = load_network(checkpoint, NETWORK, 'cpu')
    video = VideoSettings(preset='ultrafast', segment_frames=3)
    settings = UpscaleSettings(segment=3)
    upscale(net, film, tmp_path / 'whole.mp4', settings, video, show_progress=False)
    write = VideoTarget.write
    for stop in (4, 7, 14):  # 3, 6, 12 frames are kept

        def interrupted(target, frame, stop=stop):
            if target.num_written == stop:
                raise KeyboardInterrupt
            write(target, frame)

        output = tmp_path / f'{stop}.mp4'
        monkeypatch.setattr(VideoTarget, 'write', interrupted)
        with pytest.raises(KeyboardInterrupt):
            upscale(net, film, output, settings, video, show_progress=False)
        monkeypatch.setattr(VideoTarget, 'write', write)
        upscale(net, film, output, settings, video, resume=True, show_progress=False)
        assert packets(output, 'video') == packets(tmp_path / 'whole.mp4', 'video')


def test_images_become_numbered_images_or_a_film_of_twice_their_rate(tmp_path, checkpoint):
    source = write_frames(tmp_path / 'frames', 3)
    net = load_network(checkpoint, NETWORK, 'cpu')
    upscale(net, source, tmp_path / 'out', show_progress=False)
    expected = (restored(checkpoint, source) * 255).round().byte()
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [f'{i:08d}.png' for i in range(5)]
    for i, frame in enumerate(expected):
        image = torch.from_numpy(cv2.imread(str(tmp_path / 'out' / f'{i:08d}.png'))[..., ::-1].copy())
        assert torch.equal(image.permute(2, 0, 1), frame)
    upscale(net, source, tmp_path / 'out.mp4', video=VideoSettings(fps=10), show_progress=False)
    assert decoded(tmp_path / 'out.mp4')[0] == [Fraction(i, 20) for i in range(5)]
