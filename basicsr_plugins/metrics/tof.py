"""tOF: does a restored video move as the real one does?

Paper: Chu et al., "Learning temporal coherence via self-supervision for GAN-based video generation" (TecoGAN), ACM
Transactions on Graphics 2020, https://arxiv.org/abs/1811.09393. The optical flow between consecutive restored frames is
compared with the flow between the same frames of the ground truth: flicker and jitter give motion that is not there.

What differs from the authors' evaluation, so that numbers are comparable within this package only:

- Flow is OpenCV's DIS (Kroeger et al. 2016, preset medium), theirs OpenCV's Farneback. It gives the same numbers at any
  number of threads; versions 4.10 and 5.0 of OpenCV differ by 2 % (bicubic upsampling, Vid4).
- All pixels inside `crop_border` count; they cut the frame to a multiple of 32 with a border of 8 pixels or more.

The distance of two flows is, as in their code, the length of the difference vector (the end-point error).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from basicsr_plugins.errors import InputError

MIN_SIZE = 16  # DIS matches patches of 8 px at half the size; where a side has fewer, OpenCV reads outside the image


@METRIC_REGISTRY.register()
def calculate_tof(
    img: np.ndarray | Sequence[np.ndarray],
    img2: np.ndarray | Sequence[np.ndarray],
    crop_border: int,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs,
) -> float:
    """tOF of a clip: mean over frame pairs and pixels of the end-point error between restored and true motion.

    The mean over the pairs (img[i : i + 2], img2[i : i + 2]) of a clip is the result for the whole clip.

    Args:
        img: Restored frames, (t, h, w, 3) or a list of (h, w, 3), BGR, uint8; t from 2 on.
        img2: Ground-truth frames, the same.
        crop_border: Pixels at each edge that do not count; they are removed after the flow is computed.
        input_order: 'HWC', or 'CHW' for frames (3, h, w).
        test_y_channel: Makes no difference: flow is always computed on the luma. Other metrics take it.

    Returns:
        Pixels of the frames given, from 0 (the same motion); lower is better.

    Raises:
        InputError: Fewer than two frames, frames that are not uint8 with three channels, shapes that differ, frames
            under 16 px, or a border that leaves nothing.
    """
    if input_order not in ('HWC', 'CHW'):
        raise InputError(f"calculate_tof: input_order must be 'HWC' or 'CHW', but is {input_order!r}.")
    restored, true = ([_luma(frame, input_order) for frame in frames] for frames in (img, img2))
    _check(restored, true, crop_border)
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors = []
    for i in range(len(true) - 1):
        flow, true_flow = (estimator.calc(frames[i], frames[i + 1], None) for frames in (restored, true))  # (h, w, 2)
        error = np.linalg.norm(flow - true_flow, axis=2)
        h, w = error.shape
        inside = error[crop_border : h - crop_border, crop_border : w - crop_border]
        errors.append(inside.mean(dtype=np.float64))
    return float(np.mean(errors))


calculate_tof.needs_frame_pairs = True  # for those who walk through a clip: this metric takes two frames at a time


def _luma(frame, input_order):
    """A frame as its luma, (h, w), uint8."""
    frame = np.asarray(frame)
    if frame.ndim == 3 and input_order == 'CHW':
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(
            f'calculate_tof: frames must be uint8 with three channels, but one is {frame.dtype} of shape {frame.shape}.'
        )
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGR2GRAY)


def _check(restored, true, crop_border):
    """Refuse clips that cannot be compared."""
    if len(restored) != len(true):
        raise InputError(
            f'calculate_tof: there are {len(restored)} restored frames, but {len(true)} of the ground truth.'
        )
    if len(true) < 2:
        raise InputError(f'calculate_tof: motion needs at least 2 frames, but there are {len(true)}.')
    h, w = true[0].shape
    for frame in (*restored, *true):
        if frame.shape != (h, w):
            raise InputError(
                f'calculate_tof: all frames must have the size of the first of the ground truth, {h}x{w}, '
                f'but one is {frame.shape[0]}x{frame.shape[1]}.'
            )
    if min(h, w) < MIN_SIZE:
        raise InputError(f'calculate_tof: frames must be at least {MIN_SIZE} px high and wide, but are {h}x{w}.')
    if not 0 <= 2 * crop_border < min(h, w):
        raise InputError(f'calculate_tof: crop_border {crop_border} leaves nothing of frames of {h}x{w}.')
