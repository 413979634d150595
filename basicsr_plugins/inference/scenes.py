"""Find the cuts of a film, so that nothing is propagated from one scene into the next.

Two frames in a row belong to different scenes when no small shift makes one look like the other. Both are shrunk to
32 x 32 luma images; their likeness is the highest correlation coefficient over shifts of up to 4 pixels, an eighth of
the frame, each way. A correlation does not see brightness and contrast, so fades and flashes are no cuts, and the
shifts make a fast pan none.

The thresholds: within 16 real clips of 15 to 41 frames (Vid4 calendar and city, CDVL ntia_Aspen, and 13 clips of the
demo data, crops of 64 to 96 pixels in which everything moves) the likeness is 0.846 or more; from the end of one to the
start of another it is 0.813 or less in all 240 pairs, and under 0.7 in 238. A cut is a likeness under 0.8, and twice as
far from 1 as it has been in the scene lately, for scenes that are all commotion.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 32  # of the luma images
SHIFT = 4
UNLIKENESS = 0.2  # 1 - correlation
RATIO = 2.0  # to the scene's running level
DECAY = 0.8  # of that level, per frame
FLAT = 0.01  # standard deviation, in [0, 1]: an image without structure has no correlation
BRIGHTNESS_STEP = 0.1  # mean difference that makes a cut from or to a flat image
LUMA = (0.299, 0.587, 0.114)  # BT.601


class SceneDetector:
    """Says frame after frame whether a new scene starts; it looks at the frame before only, so it adds no latency."""

    def __init__(self):
        self._previous = None
        self._level = 0.0

    def starts_scene(self, frame: Tensor) -> bool:
        """Whether `frame`, (3, h, w), RGB in [0, 1], is the first of a scene; False for the film's first."""
        image = shrink(frame)
        previous, self._previous = self._previous, image
        if previous is None:
            return False
        if min(previous.std(), image.std()) < FLAT:
            return bool((image - previous).abs().mean() > BRIGHTNESS_STEP)
        unlikeness = 1 - likeness(previous, image)
        if unlikeness > max(UNLIKENESS, RATIO * self._level):
            self._level = 0.0
            return True
        self._level = DECAY * self._level + (1 - DECAY) * unlikeness
        return False


def shrink(frame: Tensor) -> Tensor:
    """(3, h, w), RGB in [0, 1] -> (32, 32), luma, on the CPU."""
    luma = (frame.float() * frame.new_tensor(LUMA, dtype=torch.float32).view(3, 1, 1)).sum(0)
    return F.adaptive_avg_pool2d(luma[None, None], SIZE)[0, 0].cpu()


def likeness(image: Tensor, other: Tensor) -> float:
    """The highest correlation, -1 to 1, of the middle of `other` with `image` over all shifts; both (32, 32)."""
    side = SIZE - 2 * SHIFT
    shifted = image.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)  # (number of shifts, side * side)
    middle = other[SHIFT:-SHIFT, SHIFT:-SHIFT].flatten()
    shifted = shifted - shifted.mean(1, keepdim=True)
    middle = middle - middle.mean()
    norms = shifted.norm(dim=1) * middle.norm()
    return float((shifted @ middle / norms.clamp(min=1e-6)).max())
