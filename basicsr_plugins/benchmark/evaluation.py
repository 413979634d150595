"""Evaluate one method on one clip: metrics, and the pictures that a report shows.

Pictures are (h, w, 3), BGR, uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import Tensor

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.benchmark.clips import BenchmarkClip
from basicsr_plugins.benchmark.results import LPIPS, METRICS
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically
from basicsr_plugins.models.vsr_model import BORDER_FRAMES, frame_metric
from basicsr_plugins.scales import Scale

MAX_CROP = 160
SSIM_WINDOW = 11
LPIPS_WINDOW = 32


@dataclass(frozen=True)
class Protocol:
    """What counts.

    Args:
        y_channel: PSNR and SSIM of the luma channel; otherwise of RGB.
        crop_border: Pixels that do not count at each side.
        inner_frames: Whether the first and the last two frames do not count.
        max_frames: How many frames of each clip are restored; None for all.
        padding: As in `restoration.restore_frames`.
        scale: Upscaling factor, or two, vertical and horizontal.
        degradation: How LQ is made of GT, of `any_scale.BICUBIC`; None where LQ clips are given.
        lpips: Whether LPIPS is measured, of RGB, beside PSNR, SSIM and tOF.
    """

    y_channel: bool = True
    crop_border: int = 0
    inner_frames: bool = False
    max_frames: int | None = None
    padding: str = 'reflection_circle'
    scale: Scale = 4
    degradation: str | None = None
    lpips: bool = False

    @property
    def metrics(self) -> dict[str, dict]:
        """What is measured, as `results.METRICS`."""
        return {**METRICS, **(LPIPS if self.lpips else {})}

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
        least, metric = (LPIPS_WINDOW, 'LPIPS') if self.lpips else (SSIM_WINDOW, 'SSIM')
        if min(h, w) - 2 * self.crop_border < least:
            raise InputError(
                f'clip {clip.name}: GT is {w}x{h}, of which a border of {self.crop_border} px leaves less than the '
                f'{least}x{least} that {metric} needs.'
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


@torch.no_grad()
def evaluate_clip(
    restored: Iterable[Tensor],
    clip: BenchmarkClip,
    protocol: Protocol,
    view: View,
    pictures: Mapping[str, Path],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float | None]:
    """Measure a restored clip and write its pictures; each frame is measured before the next is taken.

    Args:
        restored: Its restored frames, (3, s * h, s * w), RGB in [0, 1], on any device.
        clip: The clip.
        protocol: What counts.
        view: What the pictures show.
        pictures: Their paths: `frame`, `crop` and `profile`.
        progress: Called after each frame.

    Returns:
        psnr (dB), ssim, tof (pixels; None where only one frame counts), where asked for lpips: means over the frames
        that count.

    Raises:
        InputError: If the frames have another number or shape than those of GT, or values that are not finite.
    """
    counted = protocol.counted(clip)
    options = {'crop_border': protocol.crop_border, 'test_y_channel': protocol.y_channel}
    values = {name: [] for name in protocol.metrics}
    lines = []
    previous = None
    num_frame = protocol.num_frame(clip)
    for i, output in enumerate(restored):
        if i == num_frame:
            raise InputError(f'the output has more than the {num_frame} frames of the clip.')
        true = clip.gt[i]
        if output.shape != true.shape:
            raise InputError(f'a frame of the output is {tuple(output.shape)}, but one of GT is {tuple(true.shape)}.')
        if not output.isfinite().all():
            raise InputError(f'frame {clip.frames[i]} of the output has values that are NaN or infinite.')
        image, gt = tensor2img(output), tensor2img(true)
        lines.append(image[view.line])
        if i == view.index:
            write_view(image, view, pictures)
        if i in counted:
            for name in values:
                values[name].append(frame_metric((image, gt), previous, {'type': f'calculate_{name}', **options}))
            previous = image, gt
        progress()
    if len(lines) < num_frame:
        raise InputError(f'the output has {len(lines)} frames, but the clip has {num_frame}.')
    write_picture(pictures['profile'], np.stack(lines))
    return {name: _mean(column) for name, column in values.items()}


def _mean(values: list[float]) -> float | None:
    values = np.array(values)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def write_gt_pictures(clip: BenchmarkClip, protocol: Protocol, pictures: Mapping[str, Path]) -> None:
    """The pictures of GT, as `evaluate_clip` writes those of a method."""
    view = choose_view(clip, protocol)
    write_view(tensor2img(clip.gt[view.index]), view, pictures)
    lines = [tensor2img(clip.gt[i][:, view.line : view.line + 1])[0] for i in range(protocol.num_frame(clip))]
    write_picture(pictures['profile'], np.stack(lines))


def write_view(image: np.ndarray, view: View, pictures: Mapping[str, Path]) -> None:
    top, left, height, width = view.window
    write_picture(pictures['frame'], image)
    write_picture(pictures['crop'], image[top : top + height, left : left + width])


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, cv2.imencode('.png', image)[1].tobytes())


def most_different(first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the window of `size` in which two pictures differ the most, by mean absolute difference."""
    height, width = size
    difference = np.abs(first.astype(np.float32) - second).mean(2)
    summed = cv2.integral(difference, sdepth=cv2.CV_64F)
    window = summed[height:, width:] - summed[:-height, width:] - summed[height:, :-width] + summed[:-height, :-width]
    return tuple(int(i) for i in np.unravel_index(window.argmax(), window.shape))
