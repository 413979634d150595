"""Evaluate one network on one clip: metrics, and the pictures that a report shows.

Pictures are (h, w, 3), BGR, uint8.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import nn

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.benchmark.clips import BenchmarkClip
from basicsr_plugins.benchmark.comparison import most_different
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.models.vsr_model import frame_metric

METRICS = {  # how the report shows them; the functions are `calculate_<name>` of the registry
    'psnr': {'label': 'PSNR', 'unit': 'dB', 'better': 'higher', 'digits': 2},
    'ssim': {'label': 'SSIM', 'unit': '', 'better': 'higher', 'digits': 4},
    'tof': {'label': 'tOF', 'unit': 'px', 'better': 'lower', 'digits': 3},
}
BORDER_FRAMES = 2  # that papers leave out at each end
MAX_CROP = 160
SSIM_WINDOW = 11


@dataclass(frozen=True)
class Protocol:
    """What counts.

    Args:
        y_channel: PSNR and SSIM of the luma channel; otherwise of RGB.
        crop_border: Pixels that do not count at each side.
        inner_frames: Whether the first and the last two frames do not count.
        max_frames: How many frames of each clip are restored; None for all.
        padding: As in `restoration.restore_frames`.
        scale: Upscaling factor.
    """

    y_channel: bool = True
    crop_border: int = 0
    inner_frames: bool = False
    max_frames: int | None = None
    padding: str = 'reflection_circle'
    scale: int = 4

    def num_frame(self, clip: BenchmarkClip) -> int:
        """How many frames of a clip are restored."""
        return min(len(clip.frames), self.max_frames or len(clip.frames))

    def counted(self, clip: BenchmarkClip) -> range:
        """The frames that count.

        Raises:
            InputError: If none is left.
        """
        num_frame = self.num_frame(clip)
        counted = range(BORDER_FRAMES, num_frame - BORDER_FRAMES) if self.inner_frames else range(num_frame)
        if not counted:
            raise InputError(f'clip {clip.name} has {num_frame} frames: none is left without the first and last two.')
        return counted

    def check_border(self, clip: BenchmarkClip) -> None:
        """Check that `crop_border` leaves enough of a clip's frames.

        Raises:
            InputError: If they are too small.
        """
        h, w = clip.gt[0].shape[1:]
        if min(h, w) - 2 * self.crop_border < SSIM_WINDOW:
            raise InputError(
                f'clip {clip.name}: GT is {w}x{h}, of which a border of {self.crop_border} px leaves less than the '
                f'{SSIM_WINDOW}x{SSIM_WINDOW} that SSIM needs.'
            )


@dataclass(frozen=True)
class View:
    """What the report shows of a clip.

    Args:
        index: The frame.
        window: Top, left, height and width of the crop, in pixels of GT.
        line: The row whose course over time is shown.
    """

    index: int
    window: tuple[int, int, int, int]
    line: int


def choose_view(clip: BenchmarkClip, protocol: Protocol) -> View:
    """The middle frame, where bicubic differs the most from GT; the same whatever networks are compared."""
    counted = protocol.counted(clip)
    index = counted[len(counted) // 2]
    bicubic = tensor2img(Bicubic(protocol.scale)(clip.lq[index][None, None])[0, 0])
    gt = tensor2img(clip.gt[index])
    size = tuple(min(max(side // 6, 1), MAX_CROP) for side in gt.shape[:2])
    top, left = most_different(bicubic, gt, size)
    return View(index, (top, left, *size), top + size[0] // 2)


class LimitedFrames:
    """The first frames of a clip, as a sequence."""

    def __init__(self, frames, num_frame: int):
        self.frames = frames
        self.num_frame = num_frame

    def __len__(self) -> int:
        return self.num_frame

    def __getitem__(self, i: int):
        return self.frames[i]


@torch.no_grad()
def evaluate_clip(
    net: nn.Module,
    clip: BenchmarkClip,
    protocol: Protocol,
    view: View,
    picture_prefix: Path,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float | None]:
    """Restore a clip, measure it, and write its pictures; each frame is measured before the next is made.

    Args:
        net: The network, in eval mode, on its device.
        clip: The clip.
        protocol: What counts.
        view: What the pictures show.
        picture_prefix: Their path without `_frame.png`, `_crop.png`, `_profile.png`.
        progress: Called after each frame.

    Returns:
        psnr (dB), ssim, tof (pixels; None where only one frame counts): means over the frames that count.

    Raises:
        InputError: If the network's output has another shape than GT.
    """
    counted = protocol.counted(clip)
    options = {'crop_border': protocol.crop_border, 'test_y_channel': protocol.y_channel}
    values = {name: [] for name in METRICS}
    lines = []
    previous = None
    frames = LimitedFrames(clip.lq, protocol.num_frame(clip))
    for i, output in enumerate(restore_frames(net, frames, protocol.padding)):
        if i == len(frames):
            raise InputError(f'the output has more than the {len(frames)} frames of the clip.')
        true = clip.gt[i]
        if output.shape != true.shape:
            raise InputError(f'a frame of the output is {tuple(output.shape)}, but one of GT is {tuple(true.shape)}.')
        image, gt = tensor2img(output), tensor2img(true)
        lines.append(image[view.line])
        if i == view.index:
            write_view(image, view, picture_prefix)
        if i in counted:
            for name in METRICS:
                values[name].append(frame_metric((image, gt), previous, {'type': f'calculate_{name}', **options}))
            previous = image, gt
        progress()
    if len(lines) < len(frames):
        raise InputError(f'the output has {len(lines)} frames, but the clip has {len(frames)}.')
    write_picture(f'{picture_prefix}_profile.png', np.stack(lines))
    return {name: _mean(column) for name, column in values.items()}


def _mean(values: list[float]) -> float | None:
    values = np.array(values)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def write_gt_pictures(clip: BenchmarkClip, protocol: Protocol, view: View, picture_prefix: Path) -> None:
    """The pictures of GT, as `evaluate_clip` writes those of a network."""
    write_view(tensor2img(clip.gt[view.index]), view, picture_prefix)
    lines = [tensor2img(clip.gt[i][:, view.line : view.line + 1])[0] for i in range(protocol.num_frame(clip))]
    write_picture(f'{picture_prefix}_profile.png', np.stack(lines))


def write_view(image: np.ndarray, view: View, picture_prefix: Path) -> None:
    top, left, height, width = view.window
    write_picture(f'{picture_prefix}_frame.png', image)
    write_picture(f'{picture_prefix}_crop.png', image[top : top + height, left : left + width])


def write_picture(path: str, image: np.ndarray) -> None:
    """Write a PNG, whole or not at all."""
    temporary = f'{path}.{os.getpid()}.tmp.png'
    if not cv2.imwrite(temporary, image):
        raise InputError(f'{path} cannot be written.')
    os.replace(temporary, path)
