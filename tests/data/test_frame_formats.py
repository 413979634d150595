"""Layouts raw and tiles: the very pixels, patch by patch; damage is named."""

import struct
import zlib

import numpy as np
import pytest
import zstandard

from basicsr_plugins.data.frame_formats import (
    DecodedFrame,
    StoredFrame,
    decode_value,
    encode_image,
    stored_layout,
    stored_shape,
)
from basicsr_plugins.errors import InputError


def picture(h, w, c=3, seed=0):
    """(h, w, c) uint8: smooth, with noise, and with both ends of the range."""
    rows, columns = np.mgrid[0:h, 0:w]
    smooth = np.stack([rows * (k + 1) + columns * (3 - k) for k in range(c)], axis=-1)
    image = (smooth + np.random.default_rng(seed).integers(-9, 10, (h, w, c))).astype(np.uint8)
    image[0, 0], image[-1, -1] = 0, 255
    return image


@pytest.mark.parametrize('layout', ['raw', 'tiles'])
@pytest.mark.parametrize('shape', [(1, 1, 3), (64, 64, 3), (65, 63, 3), (150, 200, 3), (70, 130, 4), (70, 130, 1)])
def test_patches_are_those_of_the_image(layout, shape):
    image = picture(*shape)
    stored = image[..., 0] if shape[2] == 1 else image
    value = encode_image(stored, layout, 0, 'frame')
    assert stored_layout(value) == layout
    assert stored_shape(value, 'frame') == shape
    assert np.array_equal(decode_value(value, 'frame'), stored)

    rgb = image.repeat(3, axis=2) if shape[2] == 1 else image[..., 2::-1]
    frame = StoredFrame(value, 'frame')
    assert np.array_equal(frame.whole(), rgb.transpose(2, 0, 1))
    decoded = DecodedFrame(rgb[..., ::-1])
    rng = np.random.default_rng(1)
    for _ in range(40):
        h, w = (int(rng.integers(1, size + 1)) for size in shape[:2])
        top, left = int(rng.integers(0, shape[0] - h + 1)), int(rng.integers(0, shape[1] - w + 1))
        patch, reference = np.zeros((2, 3, h, w), np.uint8)
        frame.copy_patch(top, left, patch)
        decoded.copy_patch(top, left, reference)
        assert np.array_equal(patch, rgb[top : top + h, left : left + w].transpose(2, 0, 1))
        assert np.array_equal(patch, reference)


def test_tiles_as_documented():
    """Read pixel by pixel from what the module says of the format."""
    image = picture(70, 130)
    value = encode_image(image, 'tiles', 0, 'frame')
    magic, version, layout, c, tile, h, w, checksum = struct.unpack('<4sBBBBIII', value[:20])
    assert (magic, version, layout, c, tile, h, w) == (b'VSRF', 1, 2, 3, 64, 70, 130)
    offsets = struct.unpack('<7I', value[20:48])  # 2x3 tiles and the end
    assert zlib.crc32(value[20:48]) == checksum
    assert offsets[0] == 48
    assert offsets[-1] == len(value)
    for y, x in [(0, 0), (0, 128), (64, 64), (64, 128)]:
        number = y // 64 * 3 + x // 64
        height, width = min(64, 70 - y), min(64, 130 - x)
        data = zstandard.ZstdDecompressor().decompress(value[offsets[number] : offsets[number + 1]], 3 * 64 * 64)
        differences = np.frombuffer(data, np.uint8).reshape(3, height, width)
        for row in (0, 1, height - 1):
            for column in (0, width - 1):
                red, green, blue = (int(differences[k, : row + 1, column].sum()) for k in range(3))
                pixel = [(blue + green) % 256, green % 256, (red + green) % 256]
                assert image[y + row, x + column].tolist() == pixel


def test_natural_texture_takes_no_more_room_than_png():
    noise = np.random.default_rng(0).normal(0, 2, (256, 256, 1)) + np.random.default_rng(1).normal(0, 1, (256, 256, 3))
    rows, columns = np.mgrid[0:256, 0:256, 0:1][:2]
    image = (128 + 60 * np.sin(rows / 30) * np.cos(columns / 40) + noise).round().astype(np.uint8)
    png, raw, tiles = (len(encode_image(image, layout, 1, 'frame')) for layout in ('png', 'raw', 'tiles'))
    assert tiles < 1.25 * png < raw


def flip(value, position):
    """One bit."""
    damaged = bytearray(value)
    damaged[position] ^= 4
    return bytes(damaged)


def test_a_damaged_tile_is_named_and_the_others_read():
    image = picture(150, 200)
    value = encode_image(image, 'tiles', 0, 'frame')
    offsets = np.frombuffer(value, '<u4', 3 * 4 + 1, 20)
    for number in (5, 11):  # rows of four tiles
        for position in (offsets[number] + 1, (offsets[number] + offsets[number + 1]) // 2, offsets[number + 1] - 1):
            frame = StoredFrame(flip(value, position), '000/00000003 of x.lmdb')
            out = np.empty((3, 30, 30), np.uint8)
            frame.copy_patch(0, 0, out)
            assert np.array_equal(out, image[:30, :30, ::-1].transpose(2, 0, 1))
            y, x = number // 4 * 64, number % 4 * 64
            expected = rf'000/00000003 of x\.lmdb is damaged: the tile at row {y}, column {x} does not decompress\.'
            with pytest.raises(InputError, match=expected):
                frame.copy_patch(y - 10, min(x - 10, 170), out)
            with pytest.raises(InputError, match=expected):
                frame.whole()


def test_damaged_raw_frames():
    value = encode_image(picture(20, 30), 'raw', 0, 'frame')
    with pytest.raises(InputError, match=r'frame is damaged: its checksum differs\.'):
        StoredFrame(flip(value, 500), 'frame').whole()
    with pytest.raises(InputError, match=r'frame is damaged: it has 1819 bytes for 30x20 pixels\.'):
        StoredFrame(value[:-1], 'frame')


@pytest.mark.parametrize('layout', ['raw', 'tiles'])
def test_damaged_headers(layout):
    """Whichever byte of the header changes: one sentence, and never a frame."""
    value = encode_image(picture(70, 80), layout, 0, 'frame')
    for position in range(4, 20):
        if (layout, position) == ('raw', 7):
            continue  # the side of a tile means nothing there
        with pytest.raises(InputError, match=r'^frame is (damaged: .*|of version .*)\.$'):
            StoredFrame(flip(value, position), 'frame').whole()


def test_other_versions_are_refused():
    value = bytearray(encode_image(picture(20, 30), 'raw', 0, 'frame'))
    value[4] = 2
    with pytest.raises(InputError, match=r'frame is of version 2 of this format, and this release reads version 1; '):
        StoredFrame(bytes(value), 'frame')
    with pytest.raises(InputError, match=r'frame is of version 2 of this format'):
        stored_shape(bytes(value), 'frame')


@pytest.mark.parametrize('layout', ['raw', 'tiles'])
def test_16_bits_are_refused(layout):
    with pytest.raises(
        InputError, match=f'frame has 16 bits per value, and the layout {layout} only 8; use the layout'
    ):
        encode_image(np.zeros((4, 4), np.uint16), layout, 0, 'frame')
