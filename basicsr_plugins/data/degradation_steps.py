"""The steps that make low resolution out of ground truth, as the sections of an option file name them.

A step takes a clip, its own options, a random number generator and the LR size, and gives a clip of as many frames. A
kind (of blur, of noise...) is chosen once per clip; a parameter starts anywhere in its range and walks from frame to
frame (`walk`). Frames are (h, w, 3) RGB float32 in [0, 1], and may differ in size between `resize` and `video`.

The toolbox's noise functions sample from NumPy's global generator, which `degradation.degrade_clip` seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from basicsr.data.degradations import (
    add_gaussian_noise,
    add_jpg_compression,
    add_poisson_noise,
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    circular_lowpass_kernel,
)
from basicsr.utils.img_process_util import usm_sharp

from basicsr_plugins.data.degradation_video import SPEEDS, Encoding, compress_clip

Frames = list[np.ndarray]
Size = tuple[int, int]
FILTERS = {
    'bilinear': cv2.INTER_LINEAR,
    'area': cv2.INTER_AREA,
    'bicubic': cv2.INTER_CUBIC,
    'lanczos': cv2.INTER_LANCZOS4,
}
SMALLEST = 32  # pixels a side, after a resize: what every encoder takes
KERNELS = {  # kind -> function of (size, sigma x, sigma y, angle, beta generalised, beta plateau, omega)
    'iso': lambda n, x, y, a, g, p, o: bivariate_Gaussian(n, x, x, 0, isotropic=True),
    'aniso': lambda n, x, y, a, g, p, o: bivariate_Gaussian(n, x, y, a, isotropic=False),
    'generalized_iso': lambda n, x, y, a, g, p, o: bivariate_generalized_Gaussian(n, x, x, 0, g, isotropic=True),
    'generalized_aniso': lambda n, x, y, a, g, p, o: bivariate_generalized_Gaussian(n, x, y, a, g, isotropic=False),
    'plateau_iso': lambda n, x, y, a, g, p, o: bivariate_plateau(n, x, x, 0, p, isotropic=True),
    'plateau_aniso': lambda n, x, y, a, g, p, o: bivariate_plateau(n, x, y, a, p, isotropic=False),
    'sinc': lambda n, x, y, a, g, p, o: circular_lowpass_kernel(o, n),
}


def walk(
    rng: np.random.Generator, low: float, high: float, step: float, number: int, start: float | None = None
) -> np.ndarray:
    """A bounded random walk: each value is the one before plus a uniform number in [-step, step], clipped to the range.

    Args:
        rng: Random number generator.
        low, high: The range.
        step: Largest change from one frame to the next.
        number: How many values.
        start: The first value. Default: uniform in the range.

    Returns:
        (number,) in [low, high].
    """
    values = np.empty(number)
    values[0] = rng.uniform(low, high) if start is None else start
    for i in range(1, number):
        values[i] = np.clip(values[i - 1] + rng.uniform(-step, step), low, high)
    return values


def choose(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One of the names, as often as the weights say."""
    share = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(share), p=share / share.sum())]


def unsharp(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Sharpen by the toolbox's unsharp masking (radius 51, threshold 10 of 255), as RealBasicVSR does its GT."""
    return [usm_sharp(frame, options['weight'], 50, 10).astype(np.float32) for frame in frames]


def blur(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Convolve with the toolbox's kernels: Gaussian, generalised Gaussian, plateau, sinc."""
    number = len(frames)
    length = int(rng.choice(np.arange(options['size'][0], options['size'][1] + 1, 2)))
    kernel = KERNELS[choose(rng, options['kinds'])]
    lowest = np.pi / 3 if length < 13 else np.pi / 5
    omega = options['omega'] or (lowest, np.pi)
    walks = [
        walk(rng, *options['sigma'], options['sigma_step'], number),
        walk(rng, *options['sigma'], options['sigma_step'], number),
        walk(rng, -np.pi, np.pi, options['angle_step'], number),
        walk(rng, *options['beta_generalized'], options['beta_generalized_step'], number),
        walk(rng, *options['beta_plateau'], options['beta_plateau_step'], number),
        walk(rng, *omega, options['omega_step'], number),
    ]
    return [
        cv2.filter2D(frame, -1, kernel(length, *values).astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
        for frame, values in zip(frames, np.stack(walks, axis=1))
    ]


def resize(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Enlarge, shrink or keep by a factor that walks; sizes are even."""
    low, high = options['scale']
    direction = choose(rng, options['directions'])
    kind = FILTERS[options['filters'][rng.integers(len(options['filters']))]]
    start = {'up': rng.uniform(1, high), 'down': rng.uniform(low, 1), 'keep': 1.0}[direction]
    resized = []
    for frame, factor in zip(frames, walk(rng, low, high, options['scale_step'], len(frames), start)):
        h, w = (max(SMALLEST, int(side * factor) // 2 * 2) for side in frame.shape[:2])
        resized.append(cv2.resize(frame, (w, h), interpolation=kind))
    return resized


def shrink(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Resize to the LR size by a filter chosen for the clip; `imresize` is the toolbox's antialiased bicubic."""
    from basicsr_plugins.data.degradation import shrink_bicubic

    name = options['filters'][rng.integers(len(options['filters']))]
    scale = frames[0].shape[0] // size[0]
    if name == 'imresize' and all(frame.shape[:2] == (scale * size[0], scale * size[1]) for frame in frames):
        return list(shrink_bicubic(np.stack(frames), scale))
    kind = FILTERS['area' if name == 'imresize' else name]
    return [cv2.resize(frame, size[::-1], interpolation=kind) for frame in frames]


def noise(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Gaussian (deviation in 255ths) or Poisson noise, coloured or grey."""
    gaussian = rng.random() < options['gaussian_prob']
    grey = bool(rng.random() < options['grey_prob'])
    add, key = (add_gaussian_noise, 'gaussian') if gaussian else (add_poisson_noise, 'poisson')
    amounts = walk(rng, *options[key], options[f'{key}_step'], len(frames))
    # the toolbox's order of channels is BGR
    bgr = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
    noisy = [add(frame, amount, gray_noise=grey) for frame, amount in zip(bgr, amounts)]
    return [np.ascontiguousarray(frame[..., ::-1], np.float32) for frame in noisy]


def jpeg(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Compress each frame as JPEG."""
    qualities = walk(rng, *options['quality'], options['quality_step'], len(frames))
    # the toolbox's order of channels is BGR; floats of 8-bit values, or OpenCV says that it rounds them
    coded = [add_jpg_compression(frame[..., ::-1], round(quality)) for frame, quality in zip(frames, qualities)]
    return [np.ascontiguousarray(frame[..., ::-1]) for frame in coded]


def video(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Compress the clip as a video.

    With `lead_in`, the clip's own beginning runs backwards before it, so that not every clip begins with a frame that
    is coded alone; with `shift`, the grid of blocks begins up to 14 pixels outside of the frame. Both are cut off.
    """
    low, high = options['gop']
    crf, bit_rate = options['crf'], options['bit_rate']
    encoding = Encoding(
        codec=choose(rng, options['codecs']),
        crf=None if crf is None else rng.uniform(*crf),
        bit_rate=None if crf is not None else int(rng.integers(int(bit_rate[0]), int(bit_rate[1]) + 1)),
        frame_rate=options['frame_rate'],
        gop=round(low * (high / low) ** rng.random()),
        speed=SPEEDS[rng.integers(SPEEDS.index(options['speed'][0]), SPEEDS.index(options['speed'][1]) + 1)],
    )
    before = int(rng.integers(0, len(frames))) if options['lead_in'] else 0
    top, left = 2 * rng.integers(0, 8, 2) if options['shift'] else (0, 0)
    clip = frames[before:0:-1] + frames
    if top or left:
        clip = [cv2.copyMakeBorder(frame, top, 0, left, 0, cv2.BORDER_REFLECT_101) for frame in clip]
    return [frame[top:, left:] for frame in compress_clip(clip, encoding)[before:]]


def shuffle(frames: Frames, options: Mapping, rng: np.random.Generator, size: Size) -> Frames:
    """Take groups of steps in random order."""
    for number in rng.permutation(len(options['groups'])):
        frames = apply_steps(frames, options['groups'][number], rng, size)
    return frames


def apply_steps(frames: Frames, steps: list[dict], rng: np.random.Generator, size: Size) -> Frames:
    """Take the steps in turn, each with its own probability; see `degradation.read_degradation` for what they are."""
    for options in steps:
        if rng.random() < options['prob']:
            frames = STEPS[options['type']](frames, options, rng, size)
    return frames


STEPS: dict[str, Callable[[Frames, Mapping, np.random.Generator, Size], Frames]] = {
    'unsharp': unsharp,
    'blur': blur,
    'resize': resize,
    'shrink': shrink,
    'noise': noise,
    'jpeg': jpeg,
    'video': video,
    'shuffle': shuffle,
}
