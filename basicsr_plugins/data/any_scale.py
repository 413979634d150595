"""LR frames and training samples of any scale, made of GT: bicubic, antialiased or not.

`bicubic` is MATLAB's, as all LR files here are made, and what LR footage looks like to a network: antialiased.
`bicubic_aliased` is PyTorch's `interpolate` without antialiasing (a = -0.75), as ST-AVSR, the ancestor of BasicAVSR,
trains and tests with; its published tables are for LR of that kind.

Shape shorthand: t frames, h and w height and width of the LR frame, H and W of the GT frame.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr_plugins.data.bicubic_lr import bicubic_downsample, crop_to_scale
from basicsr_plugins.data.clips import ClipReader, DerivedReader
from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.bicubic import resize_bicubic
from basicsr_plugins.option_schema import Key, Schema
from basicsr_plugins.scales import (
    Scale,
    Size,
    check_scale_range,
    describe_scale,
    lr_size,
    scaled_size,
    whole_factor,
    whole_place,
)

BICUBIC = ('bicubic', 'bicubic_aliased')


def shrink_frames(frames: Tensor, name: str, size: Size) -> Tensor:
    """(t, c, H, W), in [0, 1] -> (t, c, h, w), not rounded and perhaps a little beyond [0, 1].

    Args:
        frames: GT.
        name: One of `BICUBIC`.
        size: h and w.
    """
    if name == 'bicubic':
        return resize_bicubic(frames, size)
    return F.interpolate(frames, size=size, mode='bicubic', align_corners=False)


def shrink_image(image: np.ndarray, name: str, scale: Scale) -> np.ndarray:
    """As `shrink_frames`, for an image as it is read: (H, W, 3), uint8 -> (h, w, 3), rounded.

    What is left beyond the largest size that is an LR frame's, scaled, is cut off first (`bicubic_lr.crop_to_scale`).
    `bicubic` gives what `bicubic_lr` writes.
    """
    if name == 'bicubic':
        return bicubic_downsample(image, scale)
    image = crop_to_scale(image, scale)
    frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)[None]
    lq = shrink_frames(frame, name, lr_size(image.shape[:2], scale))[0].permute(1, 2, 0)
    return lq.clamp(0, 1).mul(255).round().byte().numpy()


class CroppedReader(DerivedReader):
    """The frames of a GT reader, cropped to the scaled size of LR frames made of them.

    Args:
        gt: Reads the GT.
        scale: The factor, or two.
    """

    def __init__(self, gt: ClipReader, scale: Scale):
        super().__init__(gt)
        self.scale = scale

    def read(self, clip: str, frame: str) -> np.ndarray:
        return crop_to_scale(self.source.read(clip, frame), self.scale)


# ---------------------------------------------------------------------------- training


def patch_scale(where: str, scale: Scale) -> int:
    """The factor at which patches of LQ and of GT can be cut alike: a whole one.

    Raises:
        InputError: If it is none; `where` begins the message.
    """
    factor = whole_factor(scale)
    if factor is None:
        raise InputError(
            f'{where}: scale is {describe_scale(scale)}, at which patches of LQ and GT cannot be cut alike; take a '
            'whole one, or scale_range of VSRTrainDataset, which makes LQ of GT.'
        )
    return factor


SCALE_RANGE_KEYS: Schema = {
    'scale_range': Key('list[float] | None', low=1, high=16, least=2, most=2),
    'same_scale': Key('bool', default=False),
    'lq_size': Key('int', low=8, high=1024),
}


class ScaleRange:
    """Training samples whose scale is chosen for each (as ST-AVSR's).

    A patch of round(p * scale) GT pixels, p the side of the LR patch, is shrunk to the LR patch, so that pixels
    correspond exactly; the loss sees a crop of it of a fixed size, so that samples make a batch. Called inside
    `sampling.seeded`, the choices are the sample's own.

    Args:
        where: Name of the section, for messages.
        opt: The section's keys `scale_range`, `same_scale`, `gt_size` (the crop), `lq_size` (p; `gt_size` by default).

    Raises:
        InputError: If the range is none, or a crop would not fit into the smallest patch.
    """

    def __init__(self, where: str, opt: Mapping):
        check_scale_range(opt['scale_range'], f'{where}: scale_range')
        self.low, self.high = opt['scale_range']
        self.same = opt.get('same_scale', False)
        self.crop = opt['gt_size']
        self.lq_size = opt.get('lq_size', self.crop)
        least, self.largest = (scaled_size((self.lq_size, 0), scale)[0] for scale in (self.low, self.high))
        if self.crop > least:
            raise InputError(
                f'{where}: gt_size is {self.crop}, but LQ patches of {self.lq_size} make GT patches of {least} at '
                f'scale {self.low:g}; set a larger lq_size.'
            )

    def choose(self) -> tuple[Size, tuple[float, float]]:
        """The size of the GT patch; and how far down and right in it the crop lies, from 0 to 1."""
        vertical = random.uniform(self.low, self.high)
        horizontal = vertical if self.same else random.uniform(self.low, self.high)
        return scaled_size((self.lq_size, self.lq_size), (vertical, horizontal)), (random.random(), random.random())

    def make_sample(self, gt: Tensor, name: str, at: tuple[float, float]) -> dict:
        """A sample.

        Args:
            gt: (t, 3, H, W), RGB in [0, 1].
            name: One of `BICUBIC`.
            at: As from `choose`.

        Returns:
            `lq`: (t, 3, p, p); `gt`: (t, 3, gt_size, gt_size); `place`: (2, 5), whole numbers, the `scales.Span` of the
            crop's rows and of its columns.
        """
        size = (self.lq_size, self.lq_size)
        spans = whole_place(size, gt.shape[-2:])
        starts = [int(share * (span.target - self.crop + 1)) for share, span in zip(at, spans)]
        place = [span._replace(start=start, stop=start + self.crop) for start, span in zip(starts, spans)]
        crop = gt[..., place[0].start : place[0].stop, place[1].start : place[1].stop].contiguous()
        return {'lq': shrink_frames(gt, name, size), 'gt': crop, 'place': torch.tensor(place)}
