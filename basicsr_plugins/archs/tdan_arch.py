"""TDAN: temporally-deformable alignment network for video super-resolution.

Paper: Tian, Zhang, Fu, Xu, CVPR 2020. A sliding-window network without flow: the features of the supporting frames are
aligned to those of the centre frame by a cascade of deformable convolutions without modulation, made into images again,
and upscaled together with the centre frame. The aligned images are compared with the centre frame in training. At the
defaults it has 1,970,819 parameters (published: 1.9 M, 1.97 M).

Choices, where the official code and mmagic's differ:

- The alignment loss's default weight is mmagic's, 0.01, which reproduces the published results; the official code has
  0.25.
- Weights start as mmagic's: residual blocks as the toolbox's (He's times 0.1), the convolutions that predict offsets at
  zero, so that alignment starts as plain convolution; the others as PyTorch's.
- The centre frame is its own aligned image.

Shape shorthand: b batch, n frames of the window, c channels (`num_feat`), h and w height and width of the LR frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.deform_conv import ModulatedDeformConv2d


@ARCH_REGISTRY.register()
class TDAN(nn.Module):
    """TDAN, x4.

    In training, the forward pass gives the aligned images too.

    Args:
        num_feat: Channels of the features.
        num_frame: Frames of the window, odd; the centre one is restored.
        num_extract_block: Residual blocks of the feature extraction.
        num_block: Residual blocks of the reconstruction.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.

    Raises:
        InputError: If `num_frame` is even, or `deform_groups` does not divide `num_feat`.
    """

    input_type = 'window'
    scale = 4
    scales = (4,)
    auxiliary_weights: ClassVar = {'aligned': 0.01}

    def __init__(
        self,
        num_feat: int = 64,
        num_frame: int = 5,
        num_extract_block: int = 5,
        num_block: int = 10,
        deform_groups: int = 8,
    ):
        super().__init__()
        if num_frame < 1 or num_frame % 2 == 0:
            raise InputError(f'TDAN: num_frame must be odd, but is {num_frame}.')
        if deform_groups < 1 or num_feat % deform_groups:
            raise InputError(f'TDAN: deform_groups ({deform_groups}) must divide num_feat ({num_feat}).')
        self.num_frame = num_frame
        self.extractor = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, 1, 1),
            nn.ReLU(inplace=True),
            make_layer(ResidualBlockNoBN, num_extract_block, num_feat=num_feat),
        )
        self.alignment = DeformableAlignment(num_feat, deform_groups)
        self.conv_aligned = nn.Conv2d(num_feat, 3, 3, 1, 1)
        self.reconstruction = nn.Sequential(
            nn.Conv2d(3 * num_frame, num_feat, 3, 1, 1),
            nn.ReLU(inplace=True),
            make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat),
            nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1),
            nn.PixelShuffle(2),
        )
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Restore the centre frame.

        Args:
            x: (b, n, 3, h, w), RGB in [0, 1].

        Returns:
            (b, 3, 4 * h, 4 * w); in training also the aligned images, (b, n, 3, h, w).
        """
        if x.dim() != 5 or x.shape[1:3] != (self.num_frame, 3):
            raise InputError(f'TDAN takes windows of shape (b, {self.num_frame}, 3, h, w), but got {tuple(x.shape)}.')
        feats = [self.extract_features(frame) for frame in x.unbind(1)]
        aligned = self._align(x[:, self.num_frame // 2], feats)
        output = self._reconstruct(aligned)
        return (output, aligned) if self.training else output

    def extract_features(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, c, h, w); of each frame by itself, so that it serves all windows that show it."""
        return self.extractor(frame - 0.5)

    def restore(self, frame: Tensor, feats: Sequence[Tensor]) -> Tensor:
        """The centre frame, (b, 3, 4 * h, 4 * w), from itself, (b, 3, h, w), and the features of the window's n."""
        return self._reconstruct(self._align(frame, feats))

    def _align(self, frame: Tensor, feats: Sequence[Tensor]) -> Tensor:
        """The window's images aligned to the centre frame, (b, n, 3, h, w)."""
        centre = self.num_frame // 2
        images = [
            frame if i == centre else self.conv_aligned(self.alignment(feats[centre], feat)) + 0.5
            for i, feat in enumerate(feats)
        ]
        return torch.stack(images, dim=1)

    def _reconstruct(self, aligned: Tensor) -> Tensor:
        return self.conv_last(self.reconstruction(aligned.flatten(1, 2) - 0.5)) + 0.5

    def auxiliary_losses(
        self, output: tuple[Tensor, Tensor], lq: Tensor, gt: Tensor, criterion: nn.Module
    ) -> dict[str, Tensor]:
        """The alignment loss: each aligned image against the centre LR frame.

        Args:
            output: What the forward pass gave in training.
            lq: (b, n, 3, h, w).
            gt: (b, 3, 4 * h, 4 * w).
            criterion: The pixel loss.

        Returns:
            `aligned`, unweighted.
        """
        _, aligned = output
        centre = lq[:, self.num_frame // 2].unsqueeze(1)
        return {'aligned': criterion(aligned, centre.expand_as(aligned))}


class DeformableAlignment(nn.Module):
    """Align a supporting frame's feature to the centre frame's by four deformable convolutions.

    The first two work on both features together and take their offsets from themselves. Their result gives the offsets
    by which the third reads the supporting feature; the last refines that by offsets from itself.
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.fusion = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1)
        self.aggregate1 = DeformConv(num_feat, deform_groups)
        self.aggregate2 = DeformConv(num_feat, deform_groups)
        self.align = DeformConv(num_feat, deform_groups)
        self.refine = DeformConv(num_feat, deform_groups)

    def forward(self, centre: Tensor, supporting: Tensor) -> Tensor:
        """Twice (b, c, h, w) -> (b, c, h, w)."""
        feat = self.fusion(torch.cat((centre, supporting), dim=1))
        feat = self.aggregate1(feat, feat)
        feat = self.aggregate2(feat, feat)
        aligned = self.align(supporting, feat)
        return self.refine(aligned, aligned)


class DeformConv(nn.Module):
    """3x3 deformable convolution without modulation or bias, its offsets predicted from a feature."""

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.num_tap = 9 * deform_groups
        self.conv_offset = nn.Conv2d(num_feat, 2 * self.num_tap, 3, 1, 1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        self.deform_conv = ModulatedDeformConv2d(
            num_feat, num_feat, 3, padding=1, deform_groups=deform_groups, bias=False
        )

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        """`x` and the feature that the offsets come from, (b, c, h, w) each -> (b, c, h, w)."""
        offset = self.conv_offset(feat)
        b, _, h, w = offset.shape
        return self.deform_conv(x, offset, offset.new_ones(b, self.num_tap, h, w))
