"""Pieces of a video, each a file with a key frame first and the times of its packets beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import av

from basicsr_plugins.files import write_atomically

MAX_REORDER = 16  # frames that x264 and x265 can hold back


class Segment:
    """A closed piece of the video, as Matroska; beside it the times of its packets, which Matroska rounds to 1 ms.

    A checksum of both is with the times.
    """

    def __init__(self, file: Path, add_encoder: Callable):
        self.file = file
        self.num_frame = 0
        self._part = file.with_name(file.name + '.part')
        self._shown: list[int] = []  # times of the frames, as they came
        self._times: list[int] = []  # and of the packets
        self._output = av.open(str(self._part), 'w', format='matroska')
        self._stream = add_encoder(self._output)

    def write(self, frame: av.VideoFrame) -> None:
        self.num_frame += 1
        self._shown.append(frame.pts)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets) -> None:
        for packet in packets:
            packet.dts = self._decoding_time(len(self._times))
            self._times.append(packet.pts)
            self._output.mux_one(packet)

    def _decoding_time(self, index: int) -> int:
        """x265 leaves these times uninitialized in a sequence shorter than its delay; Matroska does not store them."""
        if index >= MAX_REORDER:
            return self._shown[index - MAX_REORDER]
        return self._shown[0] - (MAX_REORDER - index)

    def close(self) -> None:
        self._mux(self._stream.encode(None))
        self._output.close()
        sync(self._part)
        os.replace(self._part, self.file)
        record = {'times': self._times, 'checksum': _checksum(self.file, self._times)}
        write_atomically(self.file.with_suffix('.json'), json.dumps(record))

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._output.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


def is_whole(file: Path) -> bool:
    """Whether a segment and its times are as they were written."""
    try:
        record = json.loads(file.with_suffix('.json').read_text(encoding='utf-8'))
        return record['checksum'] == _checksum(file, record['times'])
    except (ValueError, TypeError, KeyError, FileNotFoundError):  # no JSON, JSON of something else, no segment
        return False


def read_times(file: Path) -> list[int]:
    """When the packets of a segment are shown, in the order in which they are decoded."""
    return json.loads(file.with_suffix('.json').read_text(encoding='utf-8'))['times']


def _checksum(file: Path, times: list[int]) -> str:
    content = hashlib.blake2b(json.dumps(times).encode(), digest_size=16)
    with open(file, 'rb') as opened:
        while block := opened.read(2**20):
            content.update(block)
    return content.hexdigest()


def sync(file: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
