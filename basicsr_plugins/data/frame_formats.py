"""How a frame is stored as bytes, and how a patch of it is read: layouts `png`, `raw` and `tiles`.

`png` is the toolbox's. The others hold 8 bits per value, in planes (R, G, B; or one of grey; alpha last), so that a
patch is read without decoding the frame. Both begin with HEADER:

    raw     the planes, row by row.
    tiles   uint32 offsets of TILE x TILE tiles from the beginning, row by row, and of the end; then the tiles.

A tile is zstd with a checksum, of differences mod 256: red and blue minus green, then each pixel minus the one above it
in its tile. That undoes by whole rows, which numpy adds fast; see docs/data_layouts.md for what else was measured.

Shape shorthand: c planes, h and w height and width of a frame.

Neither BasicSR nor torch is imported: workers start fast.
"""

from __future__ import annotations

import struct
import threading
import zlib
from typing import Union

import numpy as np
import zstandard

from basicsr_plugins.data.preparation import decode_image, encode_png
from basicsr_plugins.errors import InputError

Value = Union[bytes, memoryview]

LAYOUTS = ('png', 'raw', 'tiles')
VERSION = 1
MAGIC = b'VSRF'
HEADER = struct.Struct('<4sBBBBIII')  # magic, version, layout (index in LAYOUTS), c, tile side, h, w, CRC-32
TILE = 64
ZSTD_LEVEL = 1  # higher ones make noise larger
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; 3 is a palette of colours

_LOCAL = threading.local()  # a zstd decompressor serves one thread at a time


class DecodedFrame:
    """A frame that had to be decoded as a whole.

    Args:
        image: (h, w, 3), BGR, uint8.
    """

    def __init__(self, image: np.ndarray):
        self.shape = image.shape
        self.planes = image[..., ::-1].transpose(2, 0, 1)

    def copy_patch(self, top: int, left: int, out: np.ndarray) -> None:
        """Write the patch at (top, left) to `out`, (3, height, width), RGB."""
        out[...] = self.planes[:, top : top + out.shape[1], left : left + out.shape[2]]

    def whole(self) -> np.ndarray:
        """The frame, (3, h, w), RGB."""
        return np.ascontiguousarray(self.planes)


class StoredFrame:
    """A frame of layout `raw` or `tiles`, of which only what is asked for is read.

    Args:
        value: The frame as stored. It must stay valid as long as this object lives.
        name: What messages call it.
        owner: Kept alive with this object: the database that `value` lies in.

    Raises:
        InputError: It is damaged, or of another version.
    """

    def __init__(self, value: Value, name: str, owner: object = None):
        self.value, self.name, self.owner = memoryview(value), name, owner
        magic, _, layout, c, self.tile, h, w, self.checksum = read_header(value, name)
        self.layout = LAYOUTS[layout] if layout < len(LAYOUTS) else ''
        self.shape = (h, w, c)
        if magic != MAGIC or self.layout not in ('raw', 'tiles') or not (c and h and w):
            raise self._damaged('its header makes no sense')
        if self.layout == 'raw':
            if len(value) != HEADER.size + c * h * w:
                raise self._damaged(f'it has {len(value)} bytes for {w}x{h} pixels')
            self.planes = np.frombuffer(value, np.uint8, offset=HEADER.size).reshape(c, h, w)
        else:
            self.offsets = self._read_offsets()

    def copy_patch(self, top: int, left: int, out: np.ndarray) -> None:
        """Write the patch at (top, left) to `out`, (3, height, width), RGB.

        Raises:
            InputError: A tile that the patch touches is damaged.
        """
        out[...] = self._read(top, left, *out.shape[1:])[:3]  # a plane of grey fills all three

    def whole(self) -> np.ndarray:
        """The frame, (3, h, w), RGB, checked.

        Raises:
            InputError: It is damaged.
        """
        planes = self.stored_planes()[:3]
        return planes if len(planes) == 3 else planes.repeat(3, axis=0)

    def stored_planes(self) -> np.ndarray:
        """All planes, (c, h, w), checked.

        Raises:
            InputError: It is damaged.
        """
        if self.layout == 'raw' and zlib.crc32(self.value[HEADER.size :]) != self.checksum:
            raise self._damaged('its checksum differs')
        return np.array(self._read(0, 0, *self.shape[:2]))

    def _read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(c, height, width)."""
        if self.layout == 'raw':
            return self.planes[:, top : top + height, left : left + width]
        start = top // self.tile * self.tile  # the columns of whole tiles are undone from their upper ends
        planes = np.empty((self.shape[2], top + height - start, width), np.uint8)
        for y in range(start, top + height, self.tile):
            for x in range(left // self.tile * self.tile, left + width, self.tile):
                tile = self._read_tile(y, x)
                rows = slice(y - start, y - start + tile.shape[1])
                columns = slice(max(x - left, 0), x - left + tile.shape[2])
                target = planes[:, rows, columns]
                skipped = max(left - x, 0)
                target[...] = tile[:, : target.shape[1], skipped : skipped + target.shape[2]]
        for row in range(1, self.tile):
            rows = planes[:, row :: self.tile]
            np.add(rows, planes[:, row - 1 :: self.tile][:, : rows.shape[1]], out=rows)
        if len(planes) >= 3:
            planes[0] += planes[1]
            planes[2] += planes[1]
        return planes[:, top - start :]

    def _read_tile(self, y: int, x: int) -> np.ndarray:
        """The tile with upper left pixel (y, x): (c, at most tile, at most tile) differences."""
        h, w, c = self.shape
        shape = (c, min(self.tile, h - y), min(self.tile, w - x))
        number = y // self.tile * -(-w // self.tile) + x // self.tile
        if not hasattr(_LOCAL, 'decompressor'):
            _LOCAL.decompressor = zstandard.ZstdDecompressor()
        data = self.value[self.offsets[number] : self.offsets[number + 1]]
        try:
            content = _LOCAL.decompressor.decompress(data, max_output_size=shape[0] * shape[1] * shape[2])
            return np.frombuffer(content, np.uint8).reshape(shape)
        except (zstandard.ZstdError, ValueError) as error:
            raise self._damaged(f'the tile at row {y}, column {x} does not decompress') from error

    def _read_offsets(self) -> list[int]:
        h, w, _ = self.shape
        number = -(-h // self.tile) * -(-w // self.tile) if self.tile else 0
        table = self.value[HEADER.size : HEADER.size + 4 * (number + 1)]
        if not number or len(table) != 4 * (number + 1) or zlib.crc32(table) != self.checksum:
            raise self._damaged('its list of tiles makes no sense')
        return np.frombuffer(table, '<u4').tolist()

    def _damaged(self, why: str) -> InputError:
        return InputError(f'{self.name} is damaged: {why}.')


def encode_image(image: np.ndarray, layout: str, compress_level: int, name: str) -> bytes:
    """Store an image.

    Args:
        image: (h, w) or (h, w, c), BGR; 8 or 16 bits for `png`, 8 for the others.
        layout: One of LAYOUTS.
        compress_level: 0 to 9, of PNG.
        name: What messages call the image.

    Raises:
        InputError: It has more than 8 bits, and the layout has not.
    """
    if layout == 'png':
        return encode_png(image, compress_level)
    if image.dtype != np.uint8:
        raise InputError(f'{name} has 16 bits per value, and the layout {layout} only 8; use the layout png.')
    planes = _swap_red_and_blue(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1))
    c, h, w = planes.shape
    if layout == 'raw':
        content = planes.tobytes()
        checked, tile = content, 0
    else:
        checked, tiles = _compress_tiles(planes)
        content, tile = checked + tiles, TILE
    return HEADER.pack(MAGIC, VERSION, LAYOUTS.index(layout), c, tile, h, w, zlib.crc32(checked)) + content


def decode_value(value: Value, name: str) -> np.ndarray | None:
    """The very image that was stored, (h, w) or (h, w, c), BGR; None for a PNG that does not decode.

    Raises:
        InputError: A frame of layout `raw` or `tiles` is damaged or of another version.
    """
    if stored_layout(value) == 'png':
        return decode_image(bytes(value))
    image = _swap_red_and_blue(StoredFrame(value, name).stored_planes()).transpose(1, 2, 0)
    return np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)


def stored_layout(value: Value) -> str:
    """The layout of a stored frame; whatever does not say otherwise counts as `png`."""
    if bytes(value[: len(MAGIC)]) != MAGIC or len(value) < HEADER.size:
        return 'png'
    number = value[len(MAGIC) + 1]
    return LAYOUTS[number] if number < len(LAYOUTS) else 'unknown'


def stored_shape(value: Value, name: str) -> tuple[int, int, int]:
    """(h, w, c) of a stored frame, from its header.

    Raises:
        InputError: It is no PNG and of none of the other layouts, or is damaged or of another version.
    """
    if stored_layout(value) == 'png':
        if bytes(value[:8]) != PNG_SIGNATURE or len(value) < 26:
            raise InputError(f'{name} is damaged: it is no PNG.')
        width, height, _, colour_type = struct.unpack('>IIBB', bytes(value[16:26]))
        return height, width, PNG_CHANNELS[colour_type]
    return StoredFrame(value, name).shape


def read_header(value: Value, name: str) -> tuple:
    """The fields of HEADER.

    Raises:
        InputError: The frame is of another version.
    """
    header = HEADER.unpack_from(value)
    if header[1] != VERSION:
        raise InputError(
            f'{name} is of version {header[1]} of this format, and this release reads version {VERSION}; '
            'pack it anew, or read it with the release that packed it.'
        )
    return header


def _compress_tiles(planes: np.ndarray) -> tuple[bytes, bytes]:
    """The list of offsets, and the tiles."""
    c, h, w = planes.shape
    if c >= 3:
        green = planes[1]
        planes = np.stack([planes[0] - green, green, planes[2] - green, *planes[3:]])
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=False)
    tiles = []
    for y in range(0, h, TILE):
        for x in range(0, w, TILE):
            tile = planes[:, y : y + TILE, x : x + TILE].copy()
            tile[:, 1:] -= planes[:, y : y + tile.shape[1] - 1, x : x + TILE]
            tiles.append(compressor.compress(tile.tobytes()))
    first = HEADER.size + 4 * (len(tiles) + 1)
    offsets = first + np.cumsum([0, *map(len, tiles)])
    return offsets.astype('<u4').tobytes(), b''.join(tiles)


def _swap_red_and_blue(planes: np.ndarray) -> np.ndarray:
    """BGR(A) to RGB(A) and back; grey stays. (c, h, w)."""
    return planes[[2, 1, 0, *range(3, len(planes))]] if len(planes) >= 3 else planes
