"""Networks of the toolbox on inputs that they trip over."""

from __future__ import annotations

import warnings

from basicsr.archs.spynet_arch import SpyNet
from torch.nn import functional as F

from basicsr_plugins.compat.rebind import wrap

SPYNET_MIN_SIZE = 64  # six levels: the coarsest of a 64 px frame is 2 px, of a smaller one too small to enlarge


def spynet_small_frames() -> None:
    """Let SpyNet, and so every network with it, take frames under 64 px.

    At 32 px and less BasicSR's SpyNet fails in every version: the coarsest level is one pixel, and its flow none. Such
    frames are padded by their border pixels to 64 px, and the flow is cropped.
    """

    def make(original):
        def forward(self, ref, supp):
            h, w = ref.shape[-2:]
            if min(h, w) > SPYNET_MIN_SIZE // 2:
                return original(self, ref, supp)
            pad = (0, max(SPYNET_MIN_SIZE - w, 0), 0, max(SPYNET_MIN_SIZE - h, 0))
            flow = original(self, F.pad(ref, pad, mode='replicate'), F.pad(supp, pad, mode='replicate'))
            return flow[..., :h, :w]

        return forward

    wrap(SpyNet, 'forward', make)


def meshgrid_warning() -> None:
    """Silence the warning that `flow_warp` brings at its first call.

    BasicSR calls `torch.meshgrid` without `indexing`, which PyTorch warns about from 1.10 on; the order that it gets is
    the one that it wants.
    """
    warnings.filterwarnings('ignore', message='torch.meshgrid: in an upcoming release')


PATCHES = (spynet_small_frames, meshgrid_warning)
