"""One film by two processes of gloo: the frames of one process, whatever is killed in between."""

import os
import socket
import traceback

import cv2
import numpy as np
import pytest
import torch

from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import upscale
from basicsr_plugins.upscaling_shared import Share, find_shares, upscale_shared
from basicsr_plugins.video.images import ImageTarget
from basicsr_plugins.video.media import VideoSettings
from basicsr_plugins.video.opening import open_source

from .conftest import PROJECT
from .inference.networks import film, small_network
from .video.test_film import decoded, make_video, packets

SCENES = (4, 3, 6, 2)  # frames
SETTINGS = UpscaleSettings(segment=2)


def clip():
    return torch.cat([film(length, 32, 32, seed) for seed, length in enumerate(SCENES)])


def write_frames(folder):
    folder.mkdir()
    for i, frame in enumerate(clip()):
        image = (frame.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def together(work, number=2):
    """Exit codes of so many processes, forked from this one, that call `work(rank)`."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    torchrun = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'TORCHELASTIC_RUN_ID': 'test'}
    pids = []
    for rank in range(number):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
                os.environ.update(torchrun, RANK=str(rank), WORLD_SIZE=str(number), LOCAL_RANK=str(rank))
                work(rank)
                code = 0
            except SystemExit:
                pass
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.fixture
def one_thread():
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def test_shares_are_whole_scenes():
    assert find_shares(clip(), True, 2) == [(0, 7), (7, 15)]
    assert find_shares(clip(), True, 3) == [(0, 4), (4, 13), (13, 15)]
    assert find_shares(clip(), True, 6)[-1][1] == 15
    shares = find_shares(clip(), True, 6)
    assert sorted(end - first for first, end in shares) == [0, 0, *sorted(SCENES)]
    assert [first for first, _ in shares[1:]] == [end for _, end in shares[:-1]]
    assert find_shares(clip(), False, 2) == [(0, 15), (15, 15)]


def test_a_share_is_a_part_of_its_source(tmp_path):
    source = open_source(write_frames(tmp_path / 'frames'))
    share = Share(source, 7, 10)
    assert torch.equal(torch.stack(list(share)), clip()[7:10])
    assert [file.name for file in share.files] == ['7.png', '8.png', '9.png']
    assert share.num_frame == 3
    assert share.identity() != Share(source, 7, 11).identity()


def test_frames_are_those_of_one_process(tmp_path, one_thread, monkeypatch):
    """And where a process is killed, the others end; resumed, nothing is missing and nothing is done again."""
    frames, net = write_frames(tmp_path / 'frames'), small_network('EFAR')
    upscale(net, frames, tmp_path / 'alone', SETTINGS, show_progress=False)
    original = ImageTarget._write

    def killed(self, index, frame):
        if 'part_1' in self.path.name and index == 5:
            os._exit(9)
        original(self, index, frame)

    def work(rank, **options):
        upscale_shared(net, frames, tmp_path / 'out', SETTINGS, show_progress=False, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTarget, '_write', killed)
        assert together(work) == [1, 9]
    assert not (tmp_path / 'out').exists()
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / '.out.parts').glob('.part_*.parts/frames/*.png')}
    assert len(left) == 7 + 5

    def resumed(rank):
        def write(self, index, frame):
            assert self._file(index) not in left
            original(self, index, frame)

        ImageTarget._write = write
        work(rank, resume=True)

    assert together(resumed) == [0, 0]
    assert contents(tmp_path / 'out') == contents(tmp_path / 'alone')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['alone', 'frames', 'out']


def test_a_video_is_joined_from_the_parts(tmp_path, one_thread):
    times = [512 * i + (200 if i % 3 else 0) for i in range(sum(SCENES))]
    source = make_video(tmp_path / 'film.mp4', clip(), times=times, audio='aac')
    net, video = small_network('BasicVSR'), VideoSettings(crf=1, pix_fmt='yuv444p', segment_frames=5)
    upscale(net, source, tmp_path / 'alone.mp4', SETTINGS, video, show_progress=False)
    assert together(
        lambda rank: upscale_shared(net, source, tmp_path / 'out.mp4', SETTINGS, video, show_progress=False)
    ) == [0, 0]
    (times, ours), (expected_times, expected) = (decoded(tmp_path / name) for name in ('out.mp4', 'alone.mp4'))
    assert times == expected_times
    difference = np.abs(np.asarray(ours, np.float32) - np.asarray(expected, np.float32))
    assert difference.mean() < 1  # of 255: what the encoder loses, with key frames at other places
    assert packets(tmp_path / 'out.mp4', 'audio') == packets(tmp_path / 'alone.mp4', 'audio')
    assert not list(tmp_path.glob('.*.parts'))


def test_torchrun(run, tmp_path):
    """The command, and what ends it: one sentence of the first process."""
    frames = write_frames(tmp_path / 'frames')
    torchrun = ('python', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    command = (*torchrun, PROJECT / 'scripts' / 'upscale.py', frames, '--network', 'Bicubic', '-o', 'out')
    result = run(*command, cwd=tmp_path)
    assert result.stdout.split() == ['out']
    assert len(contents(tmp_path / 'out')) == sum(SCENES)
    again = run(*command, cwd=tmp_path, check=False)
    assert again.returncode != 0
    assert again.stderr.count('is there already; pass') == 1
    assert 'broadcast' not in again.stderr
