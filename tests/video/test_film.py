"""Videos read and written: colours, times, the other streams, interruption and damage."""

import errno
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.video.colour import Colour, frame_to_rgb, guess_matrix, rgb_to_frame, yuv_format
from basicsr_plugins.video.film_join import Joining
from basicsr_plugins.video.opening import VideoSettings, open_source, open_target

FAST = VideoSettings(preset='ultrafast', segment_frames=5)
BT709, BT601, BT2020 = 1, 6, 9


def chart(h=48, w=64, seed=0):
    """(3, h, w) in [0, 1]: bars of saturated colours, grey ramps and random colours, in patches of 8 pixels."""
    rng = np.random.default_rng(seed)
    patches = rng.random((h // 8, w // 8, 3))
    corners = [[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    patches[0] = [corners[i % 8] for i in range(w // 8)]
    patches[1] = np.linspace(0, 1, w // 8)[:, None]
    return torch.from_numpy(np.kron(patches.transpose(2, 0, 1), np.ones((1, 8, 8)))).float()


def moving(num_frame, h=48, w=64):
    """A chart that moves, one frame after the other."""
    still = chart(h, w)
    return [still.roll((3 * i, 2 * i), (1, 2)) for i in range(num_frame)]


def make_video(
    path,
    frames,
    colour=None,
    pix_fmt='yuv420p',
    times=None,
    tagged=True,
    audio=None,
    subtitle=None,
    codec='libx264',
    options=None,
    interlaced=False,
    time_base=Fraction(1, 12800),
    aspect=None,
):
    """Encode frames with PyAV, without the code under test but for its RGB to YCbCr."""
    colour = colour or Colour(matrix=BT709)
    times = times or [512 * i for i in range(len(frames))]
    with av.open(str(path), 'w') as output:
        video = output.add_stream(codec, rate=25)
        context = video.codec_context
        context.height, context.width = frames[0].shape[1:]
        context.pix_fmt, context.time_base = pix_fmt, time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if tagged:
            context.colorspace, context.color_range = colour.matrix, 2 if colour.full_range else 1
            context.color_primaries = context.color_trc = 6 if colour.matrix == BT601 else colour.matrix
        context.options = options or {'crf': '1', 'preset': 'veryfast'}
        if interlaced:
            context.options = {**context.options, 'x264-params': 'tff=1'}
        sound = None if audio is None else output.add_stream(audio, rate=48000)
        text = None if subtitle is None else output.add_stream_from_template(subtitle.streams[0], opaque=True)
        for frame, pts in zip(frames, times):
            picture = rgb_to_frame(frame, colour, yuv_format(pix_fmt))
            if not tagged:
                picture.colorspace, picture.color_range = 2, 0
            picture.pts, picture.time_base = pts, time_base
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if sound is not None:
            make_sound(output, sound, float(times[-1] * time_base) + 0.04)
        if text is not None:
            for packet in subtitle.demux():
                if packet.size:
                    packet.stream = text
                    output.mux(packet)
    return path


def make_sound(output, stream, seconds):
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal((2, int(seconds * 48000))) * 0.1).clip(-1, 1).astype(np.float32)
    for start in range(0, noise.shape[1], 960):
        samples = np.ascontiguousarray(noise[:, start : start + 960])
        if stream.codec_context.format.name == 's16':
            samples = (samples.T.reshape(1, -1) * 32767).astype(np.int16)
        elif stream.codec_context.format.name == 'flt':
            samples = np.ascontiguousarray(samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, format=stream.codec_context.format.name, layout='stereo')
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def nearest(frame, scale=4):
    return frame.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def upscale(source, path, scale=4, settings=FAST, before=None, stop=None, **kwargs):
    """Nearest-neighbour upscaling as a user would write it.

    `before(index, target)` is called ahead of each frame that is written; ahead of the `stop`-th comes Ctrl-C.
    """
    with open_target(path, source, scale, settings, **kwargs) as target:
        for index, frame in enumerate(source):
            if index == stop:
                raise KeyboardInterrupt
            if index >= target.num_done:
                if before is not None:
                    before(index, target)
                target.write(nearest(frame, scale))
    return target


def packets(path, kind):
    """Times in seconds and bytes of all packets of a stream."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (packet.pts * packet.time_base, packet.dts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def decoded(path):
    """PyAV's own frames: times in seconds, and planes."""
    with av.open(str(path)) as container:
        frames = [(frame.pts * frame.time_base, frame.to_ndarray()) for frame in container.decode(video=0)]
    return [pts for pts, _ in frames], [planes for _, planes in frames]


def duration(path):
    with av.open(str(path)) as container:
        return container.duration / av.time_base


# --------------------------------------------------------------------------------------------------------------- colour


@pytest.mark.parametrize('matrix', [BT601, BT709, BT2020])
@pytest.mark.parametrize('full_range', [False, True])
def test_known_colours_become_the_standards_numbers(matrix, full_range):
    """Y, Cb, Cr of white, black and red by hand, from the equations of the standards."""
    kr, kb = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}[matrix]
    rgb = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0]]).float().T.reshape(3, 1, 3)
    frame = rgb_to_frame(rgb, Colour(matrix, full_range), yuv_format('yuv444p'))
    ycc = np.stack([np.frombuffer(plane, np.uint8)[:3] for plane in frame.planes], axis=1)
    red = np.array([kr, -kr / (2 * (1 - kb)), 0.5])
    if full_range:
        expected = [[255, 128, 128], [0, 128, 128], (red * 255 + [0, 128, 128]).round().clip(0, 255)]
    else:
        expected = [[235, 128, 128], [16, 128, 128], (red * [219, 224, 224] + [16, 128, 128]).round()]
    np.testing.assert_array_equal(ycc, expected)


@pytest.mark.parametrize('chroma', ['nearest', 'linear'])
@pytest.mark.parametrize('pix_fmt', ['yuv444p', 'yuv444p10le', 'yuv422p', 'yuv420p', 'yuv420p10le'])
def test_planes_and_back(pix_fmt, chroma):
    """A ramp stays in its place, whatever the subsampling; repeated chroma makes steps of one pixel's difference."""
    y, x = torch.meshgrid(torch.linspace(0.1, 0.9, 32), torch.linspace(0.1, 0.9, 48), indexing='ij')
    rgb = torch.stack([x, y, 1 - x])
    colour = Colour(BT709, centred=True)
    back = frame_to_rgb(rgb_to_frame(rgb, colour, yuv_format(pix_fmt)), colour, chroma)
    inside = (back - rgb)[:, 2:-2, 2:-2] * 255
    steps = chroma == 'nearest' and '444' not in pix_fmt
    assert inside.mean().abs() < 0.1
    assert inside.abs().mean() < (2.1 if steps else 0.2 if '10' in pix_fmt else 0.6)
    assert inside.abs().max() < (7 if steps else 0.6 if '10' in pix_fmt else 2.5)


def test_linear_chroma_of_left_sited_video_lies_on_even_columns():
    """Of a column of colour at x = 8, stored in the chroma sample that MPEG-2 puts there."""
    frame = rgb_to_frame(torch.full((3, 4, 32), 0.5), Colour(BT709), yuv_format('yuv420p'))
    stride = frame.planes[2].line_size
    values = np.full((2, stride), 128, np.uint8)
    values[:, 4] = 178
    frame.planes[2].update(values.tobytes())
    for centred, expected in ((False, [0, 0.5, 1, 0.5, 0]), (True, [0.25, 0.75, 0.75, 0.25, 0])):
        red = frame_to_rgb(frame, Colour(BT709, centred=centred), 'linear')[0, 0]
        excess = (red - red[0]) / (2 * (1 - 0.2126) * 50 / 224)
        start = 6 if not centred else 7
        np.testing.assert_allclose(excess[start : start + 5], expected, atol=1e-5)


def test_packed_frames_are_read_like_planar_ones():
    rgb = chart()
    for full_range in (False, True):
        colour = Colour(BT601, full_range)
        planar = rgb_to_frame(rgb, colour, yuv_format('yuv420p'))
        expected = frame_to_rgb(planar, colour)
        for name in ('nv12', 'yuva420p'):
            assert (frame_to_rgb(planar.reformat(format=name), colour) - expected).abs().max() < 1e-6
    packed = av.VideoFrame.from_ndarray((rgb * 255).round().byte().permute(1, 2, 0).numpy().copy(), format='rgb24')
    for name in ('rgb24', 'bgra', 'gbrp'):
        assert (frame_to_rgb(packed.reformat(format=name), colour) - rgb).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize('codec', ['h264', 'hevc'])
@pytest.mark.parametrize('matrix', [BT601, BT709])
@pytest.mark.parametrize('full_range', [False, True])
def test_whole_chain_is_within_one_grey_level(tmp_path, codec, matrix, full_range):
    colour = Colour(matrix, full_range)
    source = open_source(make_video(tmp_path / 'chart.mp4', [chart(seed=i) for i in range(3)], colour))
    assert (source.colour.matrix, source.colour.full_range) == (matrix, full_range)
    upscale(source, tmp_path / 'out.mp4', settings=VideoSettings(codec=codec, crf=1, preset='veryfast'))
    output = open_source(tmp_path / 'out.mp4')
    assert (output.colour.matrix, output.colour.full_range) == (matrix, full_range)
    assert output.colour.primaries == output.colour.transfer == matrix
    for i, (lr, hr) in enumerate(zip(source, output)):
        assert (hr - nearest(lr)).abs().mean() * 255 < 0.7
        assert (hr - nearest(chart(seed=i))).abs().mean() * 255 < 0.9
    again = open_source(tmp_path / 'chart.mp4')
    wrong = Colour(BT601 if matrix == BT709 else BT709, full_range)
    again.colour = wrong  # the measure notices a wrong matrix
    assert (next(iter(again)) - next(iter(source))).abs().mean() * 255 > 2


def test_untagged_video_is_guessed_by_height_and_then_tagged(tmp_path):
    assert [guess_matrix(h) for h in (144, 576, 577, 720)] == [BT601, BT601, BT709, BT709]
    make_video(tmp_path / 'small.mp4', [chart()], Colour(BT601), tagged=False)
    source = open_source(tmp_path / 'small.mp4')
    assert (source.colour.matrix, source.colour.full_range) == (BT601, False)
    upscale(source, tmp_path / 'out.mp4', scale=16)  # 768 lines, where a player would guess BT.709
    assert open_source(tmp_path / 'out.mp4').colour.matrix == BT601
    assert (next(iter(open_source(tmp_path / 'out.mp4'))) - nearest(next(iter(source)), 16)).abs().mean() * 255 < 1.5


@pytest.mark.parametrize(('codec', 'pix_fmt'), [('h264', 'yuv420p10le'), ('hevc', 'yuv420p10le'), ('h264', 'yuv444p')])
def test_depth_and_chroma_are_kept(tmp_path, codec, pix_fmt):
    ramp = torch.linspace(0, 1, 256).expand(3, 16, 256)
    source = open_source(make_video(tmp_path / 'in.mp4', [ramp] * 2, pix_fmt=pix_fmt, options={'crf': '0'}))
    assert source.bit_depth == (10 if '10' in pix_fmt else 8)
    upscale(source, tmp_path / 'out.mkv', settings=VideoSettings(codec=codec, crf=0, preset='veryfast'))
    output = open_source(tmp_path / 'out.mkv')
    assert output.format.name == pix_fmt
    assert (next(iter(output)) - nearest(next(iter(source)))).abs().mean() * (2**source.bit_depth - 1) < 1


def test_hevc_of_few_frames(tmp_path):
    """x265 gives a sequence shorter than its delay random decoding times."""
    for num_frame in (1, 2, 3, 4) * 3:
        source = open_source(make_video(tmp_path / 'in.mp4', moving(num_frame)))
        upscale(source, tmp_path / 'out.mp4', settings=VideoSettings(codec='hevc', preset='ultrafast'), force=True)
        assert decoded(tmp_path / 'out.mp4')[0] == decoded(tmp_path / 'in.mp4')[0]
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert container.streams.video[0].codec_context.codec_tag == 'hvc1'  # Apple's players ask for it


# ---------------------------------------------------------------------------------------------- times and other streams


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov'])
@pytest.mark.parametrize('audio', ['aac', 'libopus', 'pcm_s16le'])
def test_times_duration_and_sound_are_kept(tmp_path, suffix, audio):
    if (suffix, audio) in (('.mp4', 'pcm_s16le'), ('.mov', 'libopus')):
        pytest.skip('FFmpeg does not write it')
    rng = np.random.default_rng(0)
    times = [int(step) for step in np.cumsum(rng.integers(200, 900, 23))]  # variable frame rate, not from zero
    make_video(tmp_path / f'in{suffix}', moving(23), times=times, audio=audio)
    source = open_source(tmp_path / f'in{suffix}')
    upscale(source, tmp_path / f'out{suffix}')
    before, after = (decoded(tmp_path / f'{name}{suffix}')[0] for name in ('in', 'out'))
    assert len(before) == 23
    assert after == before
    sound = [packets(tmp_path / f'{name}{suffix}', 'audio') for name in ('in', 'out')]
    if audio == 'pcm_s16le':  # the demuxer cuts it as it likes
        sound = [(packet[0][:2], b''.join(data for _, _, data in packet)) for packet in sound]
    assert sound[0] == sound[1]
    assert duration(tmp_path / f'out{suffix}') == pytest.approx(
        duration(tmp_path / f'in{suffix}'), abs=0.021
    )  # a packet of sound
    decode_times = [dts for _, dts, _ in packets(tmp_path / f'out{suffix}', 'video')]
    assert all(a < b for a, b in zip(decode_times, decode_times[1:]))


def test_sound_goes_from_one_container_to_another(tmp_path):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(12), audio='aac'))
    upscale(source, tmp_path / 'out.mkv')
    before, after = (packets(tmp_path / name, 'audio') for name in ('in.mp4', 'out.mkv'))
    assert [data for _, _, data in after] == [data for _, _, data in before]
    shift = after[0][0] - before[0][0]
    assert 0 <= shift < Fraction(25, 1000)
    times = decoded(tmp_path / 'in.mp4')[0]
    for pts, original in zip(decoded(tmp_path / 'out.mkv')[0], times):
        assert abs(pts - original - shift) <= Fraction(1, 1000)


def test_subtitles_are_copied_or_noted(tmp_path):
    lines = (f'{i + 1}\n00:00:00,{i}00 --> 00:00:00,{i}80\nline {i}\n\n' for i in range(3))
    (tmp_path / 'text.srt').write_text(''.join(lines))
    with av.open(str(tmp_path / 'text.srt')) as subtitle:
        make_video(tmp_path / 'in.mkv', moving(12), audio='aac', subtitle=subtitle)
    source = open_source(tmp_path / 'in.mkv')
    assert upscale(source, tmp_path / 'out.mkv').notes == []
    assert packets(tmp_path / 'out.mkv', 'subtitle') == packets(tmp_path / 'in.mkv', 'subtitle')
    assert len(packets(tmp_path / 'out.mkv', 'subtitle')) == 3
    target = upscale(source, tmp_path / 'out.mp4')
    assert len(target.notes) == 1
    assert 'stream 2' in target.notes[0]
    assert 'subrip' in target.notes[0] or 'srt' in target.notes[0]
    assert len(packets(tmp_path / 'out.mp4', 'audio')) == len(packets(tmp_path / 'in.mkv', 'audio'))


def test_languages_and_titles_are_kept(tmp_path):
    make_video(tmp_path / 'plain.mp4', moving(3), audio='aac')
    with av.open(str(tmp_path / 'plain.mp4')) as plain, av.open(str(tmp_path / 'in.mkv'), 'w') as output:
        output.metadata['title'] = 'A walk'
        copies = {s.index: output.add_stream_from_template(s, opaque=True) for s in plain.streams}
        copies[1].metadata['language'] = 'deu'
        for packet in plain.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    upscale(open_source(tmp_path / 'in.mkv'), tmp_path / 'out.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert container.metadata['title'] == 'A walk'
        assert container.streams.audio[0].metadata['language'] == 'deu'


def test_a_title_that_is_not_utf8(tmp_path):
    path = make_video(tmp_path / 'in.mkv', moving(3))
    with av.open(str(path)) as source, av.open(str(tmp_path / 'titled.mkv'), 'w') as output:
        output.metadata['title'] = 'TITLE'
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    titled = tmp_path / 'titled.mkv'
    titled.write_bytes(titled.read_bytes().replace(b'TITLE', b'\xff\xfea\xe9b'))
    upscale(open_source(titled), tmp_path / 'out.mkv')
    with av.open(str(tmp_path / 'out.mkv')) as container:
        assert 'a' in container.metadata['title']
        assert len(list(container.decode(video=0))) == 3


def test_sound_that_the_container_refuses_is_an_error_before_any_work(tmp_path):
    source = open_source(make_video(tmp_path / 'in.mkv', moving(2), audio='libvorbis' if _has('libvorbis') else 'flac'))
    with pytest.raises(InputError, match=r'\.mov does not take stream 1 .*(vorbis|flac).*\.mkv'):
        open_target(tmp_path / 'out.mov', source, 4)
    assert os.listdir(tmp_path) == ['in.mkv']


def _has(codec):
    try:
        av.Codec(codec, 'w')
    except ValueError:
        return False
    return True


def test_transport_streams_start_at_zero(tmp_path):
    source = open_source(
        make_video(
            tmp_path / 'in.ts', moving(6), audio='aac', time_base=Fraction(1, 90000), times=[3600 * i for i in range(6)]
        )
    )
    assert source.origin > 0
    upscale(source, tmp_path / 'out.mp4')
    times = decoded(tmp_path / 'out.mp4')[0]
    assert times[0] < Fraction(1, 10)
    assert [b - a for a, b in zip(times, times[1:])] == [Fraction(1, 25)] * 5
    before, after = (packets(tmp_path / name, 'audio') for name in ('in.ts', 'out.mp4'))
    lag = [pts - original for (pts, _, _), (original, _, _) in zip(after, before)]
    video_lag = times[0] - decoded(tmp_path / 'in.ts')[0][0]
    assert len(before) == len(after)
    assert max(abs(value - video_lag) for value in lag) < Fraction(1, 1000)


@pytest.mark.parametrize(
    ('matrix', 'turn'),
    [
        ((0, 1, -1, 0), lambda x: x.rot90(-1, (1, 2))),
        ((0, -1, 1, 0), lambda x: x.rot90(1, (1, 2))),
        ((-1, 0, 0, -1), lambda x: x.rot90(2, (1, 2))),
        ((-1, 0, 0, 1), lambda x: x.flip(2)),
    ],
)
def test_rotation_is_applied(tmp_path, matrix, turn):
    path = make_video(tmp_path / 'in.mp4', [chart()])
    plain = next(iter(open_source(path)))
    data = bytearray(path.read_bytes())
    at = data.rindex(b'tkhd') + 4 + 40  # the matrix of a version 0 track header
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], '>i4').tobytes()
    path.write_bytes(data)
    source = open_source(path)
    assert source.size == turn(plain).shape[1:]
    torch.testing.assert_close(next(iter(source)), turn(plain), rtol=0, atol=0)
    upscale(source, tmp_path / 'out.mp4', settings=VideoSettings(crf=1))
    output = open_source(tmp_path / 'out.mp4')
    assert (next(iter(output)) - nearest(turn(plain))).abs().mean() * 255 < 1


def test_interlaced_video_is_noted(tmp_path):
    options = {'flags': '+ildct', 'preset': 'veryfast'}
    source = open_source(make_video(tmp_path / 'in.mp4', moving(3, 64, 64), options=options, interlaced=True))
    assert source.interlaced
    assert any('interlaced' in note for note in source.notes)
    assert not open_source(make_video(tmp_path / 'progressive.mp4', moving(2))).interlaced


def test_pixel_shape_is_kept(tmp_path):
    film = make_video(tmp_path / 'in.mkv', moving(1), aspect=Fraction(16, 15))
    upscale(open_source(film), tmp_path / 'out.mp4')
    assert open_source(tmp_path / 'out.mp4').aspect == Fraction(16, 15)


# -------------------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize('codec', ['h264', 'hevc'])
def test_interrupted_and_resumed_equals_undisturbed(tmp_path, codec):
    settings = VideoSettings(codec=codec, preset='veryfast', segment_frames=5)
    times = [int(step) for step in np.cumsum(np.random.default_rng(0).integers(200, 900, 23))]
    source = open_source(make_video(tmp_path / 'in.mp4', moving(23), times=times, audio='aac'))
    upscale(source, tmp_path / 'whole.mp4', settings=settings)
    for stop in (8, 9, 17):
        with pytest.raises(KeyboardInterrupt):
            upscale(source, tmp_path / 'out.mp4', settings=settings, stop=stop, resume=True)
        assert not (tmp_path / 'out.mp4').exists()
        parts = sorted((tmp_path / '.out.mp4.parts').glob('*.mkv*'))
        assert [file.name for file in parts] == [f'seg_{i:05d}.mkv' for i in range(stop // 5)]  # finished ones only
    assert len(decoded(parts[1])[0]) == 5  # each can be played
    target = upscale(source, tmp_path / 'out.mp4', settings=settings, resume=True)
    assert target.num_done == 15
    assert not (tmp_path / '.out.mp4.parts').exists()
    assert packets(tmp_path / 'out.mp4', 'video') == packets(tmp_path / 'whole.mp4', 'video')
    assert packets(tmp_path / 'out.mp4', 'audio') == packets(tmp_path / 'in.mp4', 'audio')
    assert decoded(tmp_path / 'out.mp4')[0] == decoded(tmp_path / 'in.mp4')[0]


SLOW_RUN = """
import sys, time
from basicsr_plugins.video.film_join import Joining
from basicsr_plugins.video.opening import VideoSettings, open_source, open_target
source = open_source(sys.argv[1])
with open_target(sys.argv[2], source, 4, VideoSettings(preset='ultrafast', segment_frames=5), resume=True) as target:
    for index, frame in enumerate(source):
        if index >= target.num_done:
            target.write(frame.repeat_interleave(4, 1).repeat_interleave(4, 2))
            print(index, flush=True)
"""


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    make_video(tmp_path / 'in.mp4', moving(40))
    command = [sys.executable, '-c', SLOW_RUN, str(tmp_path / 'in.mp4'), str(tmp_path / 'out.mp4')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.stdout.readline().strip() != '17':
            assert process.poll() is None
        process.kill()
    assert not (tmp_path / 'out.mp4').exists()
    source = open_source(tmp_path / 'in.mp4')
    target = upscale(source, tmp_path / 'out.mp4', resume=True)
    assert 15 <= target.num_done < 40
    upscale(source, tmp_path / 'whole.mp4')
    assert packets(tmp_path / 'out.mp4', 'video') == packets(tmp_path / 'whole.mp4', 'video')


def test_nothing_is_overwritten_or_mixed(tmp_path):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(8)))
    out = tmp_path / 'out.mp4'
    out.write_bytes(b'precious')
    with pytest.raises(InputError, match=r'out\.mp4 is there already'):
        open_target(out, source, 4, FAST)
    with pytest.raises(KeyboardInterrupt):
        upscale(source, out, stop=7, force=True, job={'network': 'EFAR'})
    assert out.read_bytes() == b'precious'
    out.unlink()
    with pytest.raises(InputError, match='interrupted run left'):
        open_target(out, source, 4, FAST)
    with pytest.raises(InputError, match='crf is 20 now, but was 18'):
        open_target(out, source, 4, VideoSettings(preset='ultrafast', segment_frames=5, crf=20), resume=True)
    with pytest.raises(InputError, match='network is BasicVSR now, but was EFAR'):
        open_target(out, source, 4, FAST, resume=True, job={'network': 'BasicVSR'})
    other = open_source(make_video(tmp_path / 'other.mp4', moving(8)))
    with pytest.raises(InputError, match=r'film is other\.mp4 now, but was in\.mp4'):
        open_target(out, other, 4, FAST, resume=True, job={'network': 'EFAR'})
    assert upscale(source, out, resume=True, job={'network': 'EFAR'}).num_done == 5
    assert len(decoded(out)[0]) == 8
    assert sorted(os.listdir(tmp_path)) == ['in.mp4', 'other.mp4', 'out.mp4']


def test_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(12)))
    out = tmp_path / 'out.mkv'

    def fill(index, target):
        if index == 5:
            os.symlink('/dev/full', target.parts / 'seg_00001.mkv.part')

    with pytest.raises(InputError, match=rf'seg_00001\.mkv.*{os.strerror(errno.ENOSPC)}'):
        upscale(source, out, before=fill)
    assert not out.exists()
    with monkeypatch.context() as patch:
        join = Joining.write
        patch.setattr(Joining, 'write', lambda joining, joined: join(joining, Path('/dev/full')))
        with pytest.raises(InputError, match=rf'out\.mkv.*{os.strerror(errno.ENOSPC)}; it takes .* MiB are free'):
            upscale(source, out, resume=True)
    assert upscale(source, out, resume=True).num_done == 12
    assert len(decoded(out)[0]) == 12


# -------------------------------------------------------------------------------------------------- damage and refusal


def damage(path, index, fill):
    """Overwrite the data of the index-th video packet, behind the header that Matroska puts before it."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        position, size, pts = packet.pos, packet.size, packet.pts
    data = bytearray(path.read_bytes())
    data[position + 8 : position + size] = fill * (size - 8)
    path.write_bytes(data)
    return pts


@pytest.mark.parametrize('fill', [b'\x00', b'\xa5'])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_damage_ends_with_the_last_good_frame(tmp_path, suffix, fill):
    options = {'crf': '10', 'bf': '2', 'preset': 'fast', 'x264-params': 'b-adapt=0'}
    path = make_video(tmp_path / f'in{suffix}', moving(30), audio='aac', options=options)
    whole = list(open_source(path))
    pts = damage(path, 17, fill)
    source = open_source(path)
    frames = list(source)
    assert 10 < len(frames) < 25
    assert source.times[-1] < pts
    for frame, expected in zip(frames, whole):
        assert torch.equal(frame, expected)
    assert f'end after {len(frames)}' in source.damage
    assert f'{float(source.times[-1] * source.time_base):.3f} s' in source.damage
    upscale(source, tmp_path / f'out{suffix}')
    assert len(decoded(tmp_path / f'out{suffix}')[0]) == len(frames)
    before, after = (packets(tmp_path / f'{name}{suffix}', 'audio') for name in ('in', 'out'))
    assert after == before[: len(after)]
    end = (source.times[-1] + source.last_duration) * source.time_base
    assert end - Fraction(1, 20) < after[-1][0] < end


def test_cut_off_files(tmp_path):
    path = make_video(tmp_path / 'in.mkv', moving(30))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(path)
    assert 5 < len(list(source)) < 25
    assert 'is damaged: its frames end after' in source.damage
    assert 'should go on to' in source.damage or 'Invalid' in source.damage
    assert source.exhausted
    make_video(tmp_path / 'in.mp4', moving(5))
    (tmp_path / 'cut.mp4').write_bytes((tmp_path / 'in.mp4').read_bytes()[:-200])
    with pytest.raises(InputError, match=r'cut\.mp4 is not a video that can be read'):
        open_source(tmp_path / 'cut.mp4')


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / 'text.mp4').write_text('this is not a video\n' * 100)
    (tmp_path / 'empty.mp4').touch()
    with av.open(str(tmp_path / 'sound.mp4'), 'w') as output:
        make_sound(output, output.add_stream('aac', rate=48000), 0.5)
    for name, message in (
        ('text.mp4', 'is not a video that can be read'),
        ('empty.mp4', 'is not a video that can be read'),
        ('sound.mp4', r'has no video stream \(only audio\)'),
        ('missing.mp4', 'there is no file or folder'),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(tmp_path / name)
        assert name in str(caught.value)


def test_settings_that_cannot_be_are_refused(tmp_path, monkeypatch):
    source = open_source(make_video(tmp_path / 'in.mp4', [chart()]))
    for path, settings, message in (
        ('out.webm', {}, r'\.webm is not written'),
        ('none/out.mp4', {}, 'there is no folder'),
        ('in.mp4', {}, 'is there already'),
        ('out.mp4', {'codec': 'vp8'}, "codec is 'vp8'"),
        ('out.mp4', {'pix_fmt': 'yuv410p'}, 'libx264 does not take yuv410p'),
        ('out.mp4', {'pix_fmt': 'nonsense'}, "no pixel format 'nonsense'"),
    ):
        with pytest.raises(InputError, match=message):
            open_target(tmp_path / path, source, 4, VideoSettings(**settings))
    for wrong in ({'crf': 60}, {'segment_frames': 0}, {'fps': 'x'}, {'bit_depth': 12}, {'preset': 'x'}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            VideoSettings(**wrong)
    with pytest.raises(InputError, match='is where the frames come from'):
        open_target(tmp_path / 'in.mp4', source, 4, force=True)
    with pytest.raises(InputError, match='libx264 refuses frames of 64000x48000'):
        open_target(tmp_path / 'out.mp4', source, 1000)
    monkeypatch.setitem(sys.modules['basicsr_plugins.video.film_target'].ENCODERS, 'hevc', 'libx265_absent')
    with pytest.raises(InputError, match='no encoder libx265_absent for hevc'):
        open_target(tmp_path / 'out.mp4', source, 4, VideoSettings(codec='hevc'))
    with pytest.raises(InputError, match=r'\(3, 47, 64\), but \(3, 192, 256\)'):  # noqa: SIM117
        with open_target(tmp_path / 'out.mp4', source, 4) as target:
            target.write(torch.zeros(3, 47, 64))
    with pytest.raises(InputError, match='nothing was written'), open_target(tmp_path / 'out.mp4', source, 4):
        pass
    assert sorted(os.listdir(tmp_path)) == ['in.mp4']


NVENC = [codec for codec in ('h264_nvenc', 'hevc_nvenc') if codec in av.codecs_available]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('codec', NVENC)
def test_encoders_of_a_gpu_that_is_not_there(tmp_path, codec):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(3)))
    with pytest.raises(InputError, match=f'{codec} refuses frames of 256x192 .*; it needs an NVIDIA GPU'):
        open_target(tmp_path / 'out.mp4', source, 4, VideoSettings(codec=codec))
    deep = open_source(make_video(tmp_path / 'deep.mkv', moving(3), codec='libx265', pix_fmt='yuv420p10le'))
    with pytest.raises(InputError, match=f'{codec} writes 8 bits here, but .*deep.mkv has 10; take {codec[:4]}'):
        open_target(tmp_path / 'out.mp4', deep, 4, VideoSettings(codec=codec))
    assert sorted(os.listdir(tmp_path)) == ['deep.mkv', 'in.mp4']


def test_options_of_encoders():
    encoder_options = sys.modules['basicsr_plugins.video.film_target']._encoder_options
    assert encoder_options(VideoSettings(crf=20.5)) == {'crf': '20.5', 'preset': 'medium', 'threads': '8'}
    for crf, preset, expected in ((0, 'medium', ('1', 'p4')), (30, 'veryslow', ('30', 'p7'))):
        options = encoder_options(VideoSettings(codec='hevc_nvenc', crf=crf, preset=preset))
        assert options == {'rc': 'vbr', 'b': '0', **dict(zip(('cq', 'preset'), expected))}


def test_odd_sizes(tmp_path):
    frames = [torch.rand(3, 15, 21, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    source = open_source(make_video(tmp_path / 'in.mp4', frames, pix_fmt='yuv444p'))
    upscale(source, tmp_path / 'out.mp4', scale=3, settings=VideoSettings(crf=0))
    assert (next(iter(open_source(tmp_path / 'out.mp4'))) - nearest(next(iter(source)), 3)).abs().mean() * 255 < 1
    with pytest.raises(InputError, match=r'63x45 cannot be yuv420p.*yuv444p'):
        open_target(tmp_path / 'odd.mp4', source, 3, VideoSettings(pix_fmt='yuv420p'))


def test_odd_frames_of_an_avi(tmp_path):
    """MPEG-4 in AVI has 4:2:0 of odd sizes and packets without a time of showing."""
    with av.open(str(tmp_path / 'in.avi'), 'w') as output:
        stream = output.add_stream('mpeg4', rate=25)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.bit_rate = 61, 45, 'yuv420p', 10**7
        for frame in moving(10):
            picture = av.VideoFrame.from_ndarray((frame * 255).byte().permute(1, 2, 0).numpy().copy(), format='rgb24')
            output.mux(stream.encode(picture.reformat(61, 45, 'yuv420p')))
        output.mux(stream.encode(None))
    source = open_source(tmp_path / 'in.avi')
    upscale(source, tmp_path / 'out.mp4', settings=VideoSettings(crf=1))
    frames = list(open_source(tmp_path / 'out.mp4'))
    assert len(frames) == 10
    for lr, hr in zip(source, frames):
        assert (hr - nearest(lr)).abs().mean() * 255 < 1
    times = decoded(tmp_path / 'out.mp4')[0]
    assert [b - a for a, b in zip(times, times[1:])] == [Fraction(1, 25)] * 9


def test_source_starts_anew_and_knows_its_length(tmp_path):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(7)))
    assert (source.size, source.num_frame, source.bit_depth, source.damage) == ((48, 64), 7, 8, None)
    first = [frame for frame, _ in zip(source, range(3))]
    assert not source.exhausted
    again = list(source)
    assert source.exhausted
    assert len(again) == 7
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert list(source.times) == [512 * i for i in range(7)]


def test_part_of_a_video_has_part_of_its_sound(tmp_path):
    source = open_source(make_video(tmp_path / 'in.mp4', moving(25), audio='aac'))
    with open_target(tmp_path / 'out.mp4', source, 4, FAST) as target:
        for frame, _ in zip(source, range(10)):
            target.write(nearest(frame))
    assert duration(tmp_path / 'out.mp4') == pytest.approx(0.4, abs=0.03)


def test_real_clip(tmp_path, shared):
    """Frames of Vid4 through near-lossless H.264: the PSNR that 4:2:0 leaves, and the packets of the sound."""
    files = sorted((shared / 'data/Vid4/BIx4/city').glob('*.png'))[:10]
    images = [torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1) / 255 for file in files]
    source = open_source(make_video(tmp_path / 'city.mp4', images, Colour(BT601), audio='aac'))
    upscale(source, tmp_path / 'city_x4.mp4', settings=VideoSettings(crf=1, preset='veryfast'))
    for image, frame in zip(images, open_source(tmp_path / 'city_x4.mp4')):
        assert (frame - nearest(image)).square().mean().log10() * -10 > 35
    assert packets(tmp_path / 'city_x4.mp4', 'audio') == packets(tmp_path / 'city.mp4', 'audio')


def test_pictures_side_by_side_have_the_times_and_the_sound(tmp_path):
    times = [0, 300, 900, 1400]
    source = open_source(make_video(tmp_path / 'in.mp4', moving(4), times=times, audio='aac'))
    with open_target(tmp_path / 'out.mp4', source, 2, FAST, size=(96, 256)) as target:
        for frame in source:
            target.write(torch.cat([nearest(frame, 2)] * 2, dim=2))
    assert open_source(tmp_path / 'out.mp4').size == (96, 256)
    assert decoded(tmp_path / 'out.mp4')[0] == decoded(tmp_path / 'in.mp4')[0]
    assert packets(tmp_path / 'out.mp4', 'audio') == packets(tmp_path / 'in.mp4', 'audio')
