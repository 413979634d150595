"""From ground truth to low resolution, whole clips at a time: MATLAB's bicubic, and what happens to real films.

Shapes: t frames, (h, w) GT size, s the scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def shrink_bicubic(frames: np.ndarray, scale: int) -> np.ndarray:
    """Shrink with MATLAB's antialiased bicubic, as the toolbox's `imresize` does, in two products of matrices.

    Args:
        frames: (t, h, w, 3) uint8; h and w divisible by `scale`.
        scale: Factor by which they shrink.

    Returns:
        (t, h / s, w / s, 3) uint8. Where `imresize` gives a value half-way between two, it may be either.
    """
    h, w = frames.shape[1:3]
    channels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32)
    small = _bicubic_matrix(h, scale) @ (channels @ _bicubic_matrix(w, scale).T)
    return np.rint(small).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@lru_cache(maxsize=16)
def _bicubic_matrix(length: int, scale: int) -> np.ndarray:
    """What `imresize` does along one side: (length / scale, length) float32."""
    from basicsr.utils.matlab_functions import imresize

    # of a picture that is constant across, only what happens along counts
    columns = [imresize(np.repeat(row[:, None], 4 * scale, axis=1), 1 / scale)[:, 0] for row in np.eye(length)]
    return np.stack(columns, axis=1).astype(np.float32)
