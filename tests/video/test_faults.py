"""What users and disks do: two runs at once, damaged parts, sources that change, links and lists, full disks."""

import errno
import json
import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

from basicsr_plugins import upscaling
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import load_network
from basicsr_plugins.video.images import ImageTarget, is_whole_png
from basicsr_plugins.video.opening import VideoSettings, open_source, open_target
from basicsr_plugins.video.work_folder import describe_difference

from ..inference.networks import small_network
from .test_film import FAST, decoded, make_video, moving, packets, upscale
from .test_images import write


@pytest.fixture
def film(tmp_path):
    return make_video(tmp_path / 'in.mp4', moving(17))


def flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


# ---------------------------------------------------------------------------- two at once


@pytest.mark.parametrize('output', ['out.mp4', 'out'])
def test_a_second_run_to_one_output_is_refused_also_with_force(tmp_path, film, output):
    """The first goes on undisturbed, and its output is its own."""
    upscale(open_source(film), tmp_path / f'alone{output[3:]}')
    refused = []

    def second(index, target):
        for options in ({'force': True}, {'resume': True}, {}):
            with pytest.raises(InputError, match=rf'^another process is writing .*{output}; wait until it ends\.$'):
                open_target(tmp_path / output, open_source(film), 2, FAST, **options)
            refused.append(index)

    upscale(open_source(film), tmp_path / output, before=second)
    assert len(refused) == 17 * 3
    if output == 'out':
        contents = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ('out', 'alone')]
        assert contents[0] == contents[1]
    else:
        assert packets(tmp_path / 'out.mp4', 'video') == packets(tmp_path / 'alone.mp4', 'video')
    upscale(open_source(film), tmp_path / output, force=True)  # free again


# ---------------------------------------------------------------------------- damaged parts


@pytest.mark.parametrize('damaged', ['seg_00001.mkv', 'seg_00001.json'])
def test_a_damaged_segment_is_made_again(tmp_path, film, damaged):
    upscale(open_source(film), tmp_path / 'whole.mp4')
    with pytest.raises(KeyboardInterrupt):
        upscale(open_source(film), tmp_path / 'out.mp4', stop=16)
    part = tmp_path / '.out.mp4.parts' / damaged
    if damaged.endswith('.json'):
        record = json.loads(part.read_text())
        record['times'][2] += 1
        part.write_text(json.dumps(record))
    else:
        flip_byte(part, part.stat().st_size // 2)
    target = upscale(open_source(film), tmp_path / 'out.mp4', resume=True)
    assert target.num_done == 5
    assert [note for note in target.notes if 'seg_00001.mkv is damaged; it is made again' in note]
    assert packets(tmp_path / 'out.mp4', 'video') == packets(tmp_path / 'whole.mp4', 'video')


def test_a_damaged_png_is_made_again(tmp_path):
    write(tmp_path / 'clip', [f'{i}.png' for i in range(6)])
    source = open_source(tmp_path / 'clip')
    upscale(source, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / 'out', stop=5)
    flip_byte(tmp_path / '.out.parts' / 'frames' / '2.png', 400)
    target = upscale(source, tmp_path / 'out', resume=True)
    assert target.num_done == 2
    for i in range(6):
        assert (tmp_path / 'out' / f'{i}.png').read_bytes() == (tmp_path / 'whole' / f'{i}.png').read_bytes()


def test_every_flipped_byte_of_a_png_is_noticed():
    data = cv2.imencode('.png', np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))[1].tobytes()
    assert is_whole_png(data)
    for position in range(len(data)):
        assert not is_whole_png(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])


@pytest.mark.parametrize('content', ['[]', '{', 'null', '7'])
def test_a_damaged_state_is_one_sentence(tmp_path, film, content):
    with pytest.raises(KeyboardInterrupt):
        upscale(open_source(film), tmp_path / 'out.mp4', stop=8)
    (tmp_path / '.out.mp4.parts' / 'state.json').write_text(content)
    with pytest.raises(InputError, match=r'state\.json is damaged; start over with force\.'):
        open_target(tmp_path / 'out.mp4', open_source(film), 4, FAST, resume=True)
    assert upscale(open_source(film), tmp_path / 'out.mp4', force=True).num_done == 0


# ---------------------------------------------------------------------------- sources


class TestFrameSizeChanges:
    @pytest.fixture
    def film(self, tmp_path):
        """Six frames of 64x48 (`a.ts`), then six of 96x80 (`b.ts`)."""
        for name, size in (('a', (48, 64)), ('b', (80, 96))):
            make_video(
                tmp_path / f'{name}.ts',
                moving(6, *size),
                times=[3600 * i for i in range(6)],
                time_base=Fraction(1, 90000),
                options={'tune': 'zerolatency'},
            )
        (tmp_path / 'in.ts').write_bytes((tmp_path / 'a.ts').read_bytes() + (tmp_path / 'b.ts').read_bytes())
        return tmp_path / 'in.ts'

    @pytest.mark.parametrize('outputs', [('out.mp4', None), ('out', 'beside.mp4')])
    def test_a_film_ends_with_the_frames_number(self, tmp_path, film, outputs):
        net = load_network(None, 'Bicubic', 'cpu')
        output, compare = (name and tmp_path / name for name in outputs)
        message = r'in\.ts: frame 6 \(at .* s\) is 96x80, but those before it 64x48; write a folder of PNGs, or cut'
        with pytest.raises(InputError, match=message):
            upscaling.upscale(net, film, output, video=FAST, compare=compare, show_progress=False)
        assert not output.exists()

    @pytest.mark.parametrize(('mode', 'stop'), [('exact', 4), ('exact', 8), ('stream', 8)])
    def test_pngs_go_on_at_the_other_size(self, tmp_path, film, monkeypatch, mode, stop):
        """As the parts by themselves; interrupted in either part and resumed, too."""
        net = small_network('EFAR')
        settings = UpscaleSettings(mode=mode, segment=2, lookahead=1)

        def run(source, output, **options):
            notes = upscaling.upscale(net, source, tmp_path / output, settings, show_progress=False, **options)
            return notes, [file.read_bytes() for file in sorted((tmp_path / output).iterdir())]

        expected = run(tmp_path / 'a.ts', 'a')[1] + run(tmp_path / 'b.ts', 'b')[1]
        notes, frames = run(film, 'out', compare=tmp_path / 'beside')
        assert any('frame 6 (at' in note and 'each part is upscaled at its size' in note for note in notes)
        assert frames == expected
        assert cv2.imread(str(tmp_path / 'beside' / '00000006.png')).shape == (320, 768, 3)
        write = ImageTarget._write

        def write_or_stop(self, index, frame):
            if index == stop:
                raise KeyboardInterrupt
            write(self, index, frame)

        with monkeypatch.context() as patch:
            patch.setattr(ImageTarget, '_write', write_or_stop)
            with pytest.raises(KeyboardInterrupt):
                run(film, 'again')
        assert run(film, 'again', resume=True)[1] == expected


@pytest.mark.parametrize('index', [0, 1, 4, 9, 10, 11, 12, 13, 22])
def test_a_damaged_packet_costs_no_frame_that_is_shown_before_it(tmp_path, index):
    """Packets are stored as they are decoded, some frames ahead of those shown before them; two groups of twelve."""
    options = {'x264-params': 'keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0', 'preset': 'veryfast'}
    film = make_video(tmp_path / 'in.mp4', moving(24), options=options)
    whole = open_source(film)
    frames = list(whole)
    with av.open(str(film)) as container:
        stored = [(packet.pts, packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(film.read_bytes())
    pts, position, size = stored[index]
    settings = (
        4 + int.from_bytes(data[position : position + 4], 'big') if index == 0 else 0
    )  # of the encoder, ahead of it
    slices = position + settings + 5
    data[slices : position + size] = b'\xff' * (position + size - slices)
    film.write_bytes(data)
    source = open_source(film)
    left = list(source)
    if index == 0:
        expected = [time for time in whole.times if time >= whole.times[12]]
        assert [note for note in source.notes if 'is damaged at its start' in note]
    else:
        expected = sorted(time for time, *_ in stored[:index] if time < pts)
        assert f'its frames end after {len(expected)}' in source.damage
    assert list(source.times) == expected
    for time, frame in zip(source.times, left):
        assert torch.equal(frame, frames[list(whole.times).index(time)])


def test_no_frame_is_lost_ahead_of_damage_that_is_noticed(tmp_path):
    """A decoder that meets it within a packet loses a whole frame that it was about to give, of those before."""
    options = {'x264-params': 'keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0', 'preset': 'veryfast'}
    film = make_video(tmp_path / 'in.mp4', moving(24), options=options)
    whole = open_source(film)
    frames = list(whole)
    with av.open(str(film)) as container:
        stored = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data, rng, lengths = film.read_bytes(), np.random.default_rng(0), []
    for position, size in stored[3:]:
        film.write_bytes(data)
        flip_byte(film, position + int(rng.integers(5, size)))
        source = open_source(film)
        left = list(source)
        if source.damage:
            assert source.times == whole.times[: len(left)]
            assert torch.equal(torch.stack(left[:3]), torch.stack(frames[: len(left[:3])]))
            lengths.append(len(left))
    assert len(lengths) > 5


def test_a_film_that_is_replaced_while_it_is_read(tmp_path, film):
    """Also where the other one could be read on."""

    def replace(index, target):
        if index == 3:
            make_video(tmp_path / 'other.mp4', moving(17), audio='aac')
            os.replace(tmp_path / 'other.mp4', film)

    with pytest.raises(InputError, match=r'in\.mp4 has changed since it was opened'):
        upscale(open_source(film), tmp_path / 'out.mp4', before=replace)
    with pytest.raises(InputError, match='the film has changed since; resume with what the interrupted run had'):
        open_target(tmp_path / 'out.mp4', open_source(film), 4, FAST, resume=True)
    assert not (tmp_path / 'out.mp4').exists()


def test_a_film_that_is_removed_while_it_is_read(tmp_path, film):
    with pytest.raises(InputError, match=r'in\.mp4 cannot be read: No such file or directory'):
        upscale(open_source(film), tmp_path / 'out.mp4', before=lambda *_: film.unlink(missing_ok=True))


def test_an_image_that_is_replaced_while_others_are_read(tmp_path):
    write(tmp_path / 'clip', ['0.png', '1.png', '2.png'])
    frames = iter(open_source(tmp_path / 'clip'))
    next(frames)
    write(tmp_path / 'clip', ['2.png'])
    next(frames)
    with pytest.raises(InputError, match=r'2\.png has changed since the images were listed'):
        next(frames)


def test_a_broken_link_among_the_frames(tmp_path):
    write(tmp_path / 'clip', ['0.png', '1.png'])
    (tmp_path / 'clip' / '2.png').symlink_to(tmp_path / 'gone.png')
    (tmp_path / 'clip' / '3.png').mkdir()
    with pytest.raises(InputError, match=r'2\.png cannot be read: No such file or directory'):
        open_source(tmp_path / 'clip')
    (tmp_path / 'clip' / '2.png').unlink()
    with pytest.raises(InputError, match=r'3\.png cannot be read: it is no file'):
        open_source(tmp_path / 'clip')


def test_a_flipped_byte_of_a_source_image(tmp_path):
    write(tmp_path / 'clip', ['0.png', '1.png'])
    flip_byte(tmp_path / 'clip' / '1.png', 300)
    with pytest.raises(InputError, match=r'1\.png is damaged or not an image'):
        list(open_source(tmp_path / 'clip'))


def test_fifos_devices_and_streams(tmp_path, film):
    os.mkfifo(tmp_path / 'fifo.mp4')
    for path in (tmp_path / 'fifo.mp4', '/dev/null'):
        with pytest.raises(InputError, match='is neither a file nor a folder'):
            open_source(path)
        with pytest.raises(InputError, match=r'is no file; give the output|there is no folder|is a file; give'):
            open_target(path, open_source(film), 4, FAST, force=True)
    with pytest.raises(InputError, match='the output - would be a stream'):
        open_target('-', open_source(film), 4, FAST)
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('name', ['list.mp4', 'list.ffconcat', 'list.m3u8'])
def test_a_film_reads_no_other_files(tmp_path, film, name):
    texts = {'m3u8': '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nin.mp4\n#EXT-X-ENDLIST\n'}
    (tmp_path / name).write_text(texts.get(name.split('.')[1], 'ffconcat version 1.0\nfile in.mp4\n'))
    with pytest.raises(InputError, match=r'list\.\w+ is not a video that can be read'):
        open_source(tmp_path / name)


@pytest.mark.parametrize(('channels', 'dtype'), [(4, np.uint8), (4, np.uint16)])
def test_alpha_is_noted_where_it_says_something(tmp_path, channels, dtype):
    """In whichever image; not where all are opaque."""
    images = write(tmp_path / 'clip', ['0.png', '1.png', '2.png'], channels=channels, dtype=dtype)
    for i, image in enumerate(images):
        image[..., 3] = np.iinfo(dtype).max
        image[0, 0, 3] -= i == 1
        cv2.imwrite(str(tmp_path / 'clip' / f'{i}.png'), image)
    source = open_source(tmp_path / 'clip')
    assert source.notes == []
    list(source)
    assert [note for note in source.notes if '1.png has an alpha channel that is not opaque' in note]
    assert len(source.notes) == 1


# ---------------------------------------------------------------------------- rates, words, disks


@pytest.mark.parametrize(
    ('fps', 'expected'),
    [
        ('23.976023976023978', Fraction(24000, 1001)),
        (59.94005994005994, Fraction(60000, 1001)),
        ('29.97', Fraction(2997, 100)),
        ('30000/1001', Fraction(30000, 1001)),
        ('0.001', Fraction(1, 1000)),
        ('999.99999999', Fraction(1000)),
        ('3.141592653589793', Fraction('3.141592653589793').limit_denominator(100_000)),
    ],
)
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_frame_rates(tmp_path, fps, expected, suffix):
    """The nearest that the containers hold; Matroska counts in milliseconds."""
    write(tmp_path / 'clip', [f'{i}.png' for i in range(4)])
    settings = VideoSettings(preset='ultrafast', fps=fps)
    assert settings.frame_rate() == expected
    upscale(open_source(tmp_path / 'clip'), tmp_path / f'out{suffix}', settings=settings)
    for i, time in enumerate(decoded(tmp_path / f'out{suffix}')[0]):
        assert abs(time - i / expected) <= (Fraction(1, 1000) if suffix == '.mkv' else 0)


@pytest.mark.parametrize('fps', ['1e-9', '1e-99999999', '1e12', 'inf', 'nan', '²', '0', '-25', '1/0', '', None])
def test_impossible_frame_rates(fps):
    with pytest.raises(InputError, match=r'but must be a number from 0\.001 to 1000, as 25 or 30000/1001'):
        VideoSettings(fps=fps)


@pytest.mark.parametrize(
    ('left', 'now', 'words'),
    [
        ({'job': {'network': 'EFAR'}}, {'job': {'network': 'MSFFN'}}, 'network is MSFFN now, but was EFAR'),
        (
            {'job': {'network': 'EFAR', 'weights': '1'}},
            {'job': {'network': 'EFAR', 'weights': '2'}},
            'the network has other layers or weights than it had',
        ),
        ({'source': {'film': 'a', 'bytes': 1}}, {'source': {'film': 'a', 'bytes': 2}}, 'the film has changed since'),
        ({'source': {'listing': 'a'}}, {'source': {'listing': 'b'}}, 'the images have changed since'),
        ({'source': {'film': 'a'}}, {'source': {'number of images': 3}}, 'number of images is 3 now, but was not set'),
        ({'frame size': [4, 6]}, {'frame size': [8, 6]}, 'frame size is 8, 6 now, but was 4, 6'),
        ({'crf': 18}, {'crf': 18}, None),
    ],
)
def test_what_differs_is_said_in_words(left, now, words):
    assert describe_difference(left, now) == words


def test_a_disk_full_at_joining_leaves_no_unfinished_file(tmp_path, film, monkeypatch):
    source = open_source(film)

    def full(self, packet):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    finish = type(open_target(tmp_path / 'none.mp4', source, 4, FAST))._finish
    with monkeypatch.context() as patch:

        def finish_on_a_full_disk(self):
            self._joined.write_bytes(b'unfinished')
            patch.setattr('basicsr_plugins.video.film_join.sync', lambda file: full(self, None))
            return finish(self)

        patch.setattr('basicsr_plugins.video.film_target.VideoTarget._finish', finish_on_a_full_disk)
        with pytest.raises(InputError, match=r'the disk of .* is full .*; it takes 0\.\d MiB.*what is finished stays'):
            upscale(source, tmp_path / 'out.mp4')
    left = {file.name for file in (tmp_path / '.out.mp4.parts').iterdir()}
    assert left == {'lock', 'state.json', *(f'seg_{i:05d}.{kind}' for i in range(4) for kind in ('mkv', 'json'))}
    assert upscale(source, tmp_path / 'out.mp4', resume=True).num_done == 17
    assert len(packets(tmp_path / 'out.mp4', 'video')) == 17


def test_alpha_of_vp9_is_noted(tmp_path):
    make_video(tmp_path / 'in.mkv', moving(2))
    with av.open(str(tmp_path / 'in.mkv')) as plain, av.open(str(tmp_path / 'alpha.mkv'), 'w') as output:
        stream = output.add_stream_from_template(plain.streams.video[0])
        stream.metadata['alpha_mode'] = '1'
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    assert any('alpha channel' in note for note in open_source(tmp_path / 'alpha.mkv').notes)
    assert open_source(tmp_path / 'in.mkv').notes == []
