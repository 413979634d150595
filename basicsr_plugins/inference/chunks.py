"""Run any network of sequences over a film, chunk after chunk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from basicsr_plugins.models.restoration import device_of, run_sequence


def restore_chunks(
    net: nn.Module, frames: Sequence[Tensor], length: int, overlap: int, blend: bool = False, skip: int = 0
) -> Iterator[Tensor]:
    """Restore a clip by overlapping chunks, which start at multiples of `length`.

    Args:
        net: (1, t, 3, h, w) -> (1, t, 3, s * h, s * w); call this in eval mode, without gradients.
        frames: LR frames (3, h, w), read by index.
        length: Frames that come out of a chunk.
        overlap: Frames that a chunk has more on each side, as far as the clip goes; their results are discarded.
        blend: Whether they are faded linearly into the neighbouring chunk's instead, over at most half a chunk.
        skip: How many of the first frames are not yielded.

    Yields:
        From frame `skip` on (3, s * h, s * w), on the network's device.
    """
    fade = min(overlap, length // 2) if blend else 0
    first = max(skip - fade, 0) // length * length  # the chunk in which the first wanted frame is faded in
    first = max(first - length, 0) if fade else first
    number = len(frames)
    left_over = []  # the previous chunk's results of the frames around this chunk's start
    for start in range(first, number, length):
        end = start + length
        begin = max(start - fade, first)
        results = _restore_chunk(net, frames, (start - overlap, end + overlap), (begin, end + fade))
        for i, result in enumerate(left_over):
            results[i] = torch.lerp(result, results[i], (i + 0.5) / (2 * fade))
        finished = len(results) if end >= number else end - fade - begin
        left_over = results[finished:]
        yield from itertools.islice(results, max(skip - begin, 0), finished)


def _restore_chunk(net: nn.Module, frames, seen: tuple[int, int], wanted: tuple[int, int]) -> list[Tensor]:
    """Results for the frames `wanted` of a chunk that shows the frames `seen`, both (first, after the last)."""
    first, end = max(seen[0], 0), min(seen[1], len(frames))
    clip = torch.stack([frames[i] for i in range(first, end)]).unsqueeze(0).to(device_of(net))
    output = run_sequence(net, clip)[0, wanted[0] - first : min(wanted[1], end) - first]
    return [frame.clone() for frame in output]  # so that the rest of the chunk is set free
