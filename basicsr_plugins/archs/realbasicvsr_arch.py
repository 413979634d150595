"""RealBasicVSR: real-world video super-resolution.

Paper: "Investigating Tradeoffs in Real-World Video Super-Resolution", Chan, Zhou, Xu, Loy, CVPR 2022. A cleaning module
takes noise and artefacts from each LR frame before a BasicVSR, the toolbox's, upscales what is left. At the defaults it
has 6,294,834 parameters (1,480,643 of them the cleaning), and the names of the released weights.

Dynamic refinement: a frame is cleaned up to three times, and once more only while the last pass changed it by
`refine_threshold` / 255 or more on average. The released configurations clean once; the paper has 1.5 for the network
of the first stage and 5 for that of the second.

Choices:

- The average is that of each frame, in the release that of the whole clip: a frame is then cleaned alike whatever clip
  it stands in, and in streaming. Training cleans once, as theirs.
- In training the forward pass gives the cleaned frames too; their loss compares them with GT, averaged over the pixels
  that an LR pixel covers.

Shape shorthand: b batch, t frames, h and w height and width of the LR frame.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from basicsr.archs.basicvsr_arch import BasicVSR, ConvResidualBlocks
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.basicvsr_steps import BasicVSRSteps
from basicsr_plugins.archs.recurrent import RecurrentNetwork

SCALE = 4
MAX_PASSES = 3
ONE_PASS = 255.0  # a threshold that no change reaches


@ARCH_REGISTRY.register()
class RealBasicVSR(RecurrentNetwork):
    """RealBasicVSR, x4.

    Args:
        num_feat: Channels.
        num_block: Residual blocks of BasicVSR in each direction.
        num_clean_block: Residual blocks of the cleaning module.
        refine_threshold: Mean change of a frame, in 1/255, below which it is cleaned no further; 255: one pass.
        spynet_path: SpyNet weights.
    """

    scale = SCALE
    scales = (SCALE,)
    auxiliary_weights: ClassVar = {'clean': 1.0}
    argument_ranges: ClassVar = {'refine_threshold': (0.0, ONE_PASS), 'num_clean_block': (0, 1000)}

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 20,
        num_clean_block: int = 20,
        refine_threshold: float = ONE_PASS,
        spynet_path: str | None = None,
    ):
        super().__init__()
        self.refine_threshold = refine_threshold
        self.image_cleaning = nn.Sequential(
            ConvResidualBlocks(3, num_feat, num_clean_block), nn.Conv2d(num_feat, 3, 3, 1, 1)
        )
        self.basicvsr = BasicVSR(num_feat, num_block, spynet_path)
        self._steps = BasicVSRSteps(self.basicvsr)

    def clean(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> the same without noise and artefacts, float32."""
        residue = self.image_cleaning(frame)
        frame = frame + residue
        if self.training or self.refine_threshold >= ONE_PASS:
            return frame
        goes_on = torch.ones_like(residue[:, :1, :1, :1], dtype=torch.bool)
        for _ in range(MAX_PASSES - 1):
            goes_on = goes_on & (residue.float().abs().mean((1, 2, 3), keepdim=True) >= self.refine_threshold / 255)
            if not torch.jit.is_tracing() and not goes_on.any():  # a graph has all passes
                break
            residue = self.image_cleaning(frame)
            frame = torch.where(goes_on, frame + residue, frame)
        return frame

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        """(b, 3, h, w) each -> (b, 2, h, w), from `frame` to `other`, in LR pixels, channel 0 = x."""
        return self._steps.flow(frame, other)

    def backward_step(self, frame: Tensor, state: Tensor | None, flow_to_next: Tensor | None) -> Tensor:
        """The state, (b, num_feat, h, w), from the next frame's, None at the last."""
        return self._steps.backward_step(frame, state, flow_to_next)

    def forward_step(self, frame: Tensor, state: Tensor | None, flow_to_previous: Tensor | None) -> Tensor:
        """The state, (b, num_feat, h, w), from the previous frame's, None at the first."""
        return self._steps.forward_step(frame, state, flow_to_previous)

    def upsample(self, frame: Tensor, backward_state: Tensor, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(b, 3, 4 * h, 4 * w); in training with the cleaned frame, (b, 3, h, w)."""
        output = self._steps.upsample(frame, backward_state, state)
        return (output, frame) if self.training else output

    def auxiliary_losses(
        self, output: tuple[Tensor, Tensor], lq: Tensor, gt: Tensor, criterion: nn.Module
    ) -> dict[str, Tensor]:
        """The cleaning loss: the cleaned frames against GT, shrunk by averaging.

        Args:
            output: What the forward pass gave in training: (b, t, 3, 4 * h, 4 * w) and (b, t, 3, h, w).
            lq: (b, t, 3, h, w).
            gt: (b, t, 3, 4 * h, 4 * w).
            criterion: The pixel loss.

        Returns:
            `clean`, unweighted.
        """
        _, cleaned = output
        return {'clean': criterion(cleaned, F.avg_pool2d(gt.flatten(0, 1), SCALE).view_as(cleaned))}
