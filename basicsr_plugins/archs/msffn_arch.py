"""MSFFN: video super-resolution by a multi-stage feature fusion network.

Paper: H. Song, W. Xu, D. Liu, B. Liu, Q. Liu, D. N. Metaxas, "Multi-Stage Feature Fusion Network for Video
Super-Resolution", IEEE TIP 2021. A sliding-window network: the features of the supporting frames are aligned to those
of the centre frame by deformable convolution (Section III-B, 2), weighted by how similar they are (equation 8), and
then modulate the centre frame's features after every convolution of a deep residual network (Section III-C).

Where the paper leaves a choice:

- Multi-scale dilated residual blocks (Figure 4): the 3x3 and the 5x5 convolution, side by side, keep the channels; each
  of the two dilated ones sees both results; a 1x1 convolution brings theirs together, and the input is added. One such
  block has 0.30 M parameters at 64 channels, but Table V has the alignment cost 1.48 M: with four of them
  (`num_mdrb`) the whole network has 5.65 M (paper: 5.69 M), and 8.79 M at 80 channels (paper: 8.5 M).
- Sampling parameters come from a 3x3 convolution after these blocks, which starts at zero; eight deformable groups, as
  in EDVR; the modulation scalar is a sigmoid.
- The L1 distance of equation 8 is the sum over the channels, as it is written; so the mask is at most 1/2, and it dies
  where aligned features are far from the centre frame's. The deformable convolution therefore starts as the identity
  (twice its weight, for the modulation scalar starts at 1/2): with random weights the mask starts at 5e-7 at 80
  channels, the gradients behind it under 1e-10, and what is learnt is a single-image network; so it starts near 0.1.
- Otherwise weights start as PyTorch's and, in residual blocks, as the toolbox's (He's times 0.1); the paper: He's.
- The reference frame's branch starts from F_t, the feature that the extraction module gives (equations 5 and 9 use the
  same symbol), not from a convolution of its own.
- Conditions (equation 9): a 1x1 convolution brings the supporting features (equation 3) to `num_feat` channels, once
  for all layers; in each SFT layer one 3x3 convolution makes gamma of it and another beta. Without alignment the
  network then has 4.24 M parameters at 64 channels (Table V: 4.21 M). The bias of gamma starts at one, so that
  modulation starts near the identity.
- Feedback: the modulated residual blocks run twice with the same weights; the second time their input is F_t plus the
  last block's output of the first time. The paper says "without extra parameters".
- Direct fusion (Table VI): a 3x3 convolution of all features at once, then residual blocks without SFT.
- With a window of one frame there is nothing to align and nothing to condition on: what remains is a single-image
  network, and its feedback.
- Reconstruction as in SRResNet: the input is added to the last block's output, two pixel shuffles, LeakyReLU (0.1)
  after each, and a convolution; the bilinear x4 of the frame is added, as the toolbox's networks do.

Shape shorthand: b batch, n frames of the window, c channels, h and w height and width of the LR frame.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, default_init_weights, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.deform_conv import ModulatedDeformConv2d


@ARCH_REGISTRY.register()
class MSFFN(nn.Module):
    """MSFFN, x4.

    Args:
        num_feat: Channels of the features: 80 in the paper, 64 for its small network and ablations.
        num_frame: Frames of the window, 2N + 1; the centre one is restored. 1 makes a single-image network.
        num_extract_block: Residual blocks of the extraction module.
        num_mdrb: Multi-scale dilated residual blocks of the alignment module.
        num_block: Modulative residual fusion blocks.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
        alignment: `deformable`, or `none` (Table V).
        attention: Whether supporting features are weighted by their similarity (Table VII).
        feedback: Whether the last fusion block's output is fed back to the first (Table VII).
        fusion: `sft`, or `direct` (Table VI).

    Raises:
        InputError: If an argument is out of its range.
    """

    input_type = 'window'
    scale = 4

    def __init__(
        self,
        num_feat: int = 80,
        num_frame: int = 7,
        num_extract_block: int = 5,
        num_mdrb: int = 4,
        num_block: int = 16,
        deform_groups: int = 8,
        alignment: str = 'deformable',
        attention: bool = True,
        feedback: bool = True,
        fusion: str = 'sft',
    ):
        super().__init__()
        if num_frame < 1 or num_frame % 2 == 0:
            raise InputError(f'MSFFN: num_frame must be odd, but is {num_frame}.')
        if alignment not in ('deformable', 'none'):
            raise InputError(f"MSFFN: alignment must be 'deformable' or 'none', but is {alignment!r}.")
        if fusion not in ('sft', 'direct'):
            raise InputError(f"MSFFN: fusion must be 'sft' or 'direct', but is {fusion!r}.")
        self.num_frame = num_frame
        self.attention = attention
        self.feedback = feedback

        self.extractor = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, 1, 1),
            make_layer(ResidualBlockNoBN, num_extract_block, num_feat=num_feat),
        )
        num_support = num_frame - 1
        self.alignment = None
        if alignment == 'deformable' and num_support:
            self.alignment = MDDAlignment(num_feat, num_mdrb, deform_groups)
        self.condition = self.direct_fusion = None
        if fusion == 'sft' and num_support:
            self.condition = nn.Sequential(nn.Conv2d(num_support * num_feat, num_feat, 1), nn.LeakyReLU(0.1, True))
        elif num_support:
            self.direct_fusion = nn.Conv2d(num_frame * num_feat, num_feat, 3, 1, 1)
        if self.condition is not None:
            self.blocks = nn.ModuleList(ModulativeResidualFusionBlock(num_feat) for _ in range(num_block))
        else:
            self.blocks = nn.ModuleList(ResidualBlockNoBN(num_feat) for _ in range(num_block))

        self.upconv1 = nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1)
        self.upconv2 = nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Restore the centre frame of a window.

        Args:
            x: (b, n, 3, h, w), RGB in [0, 1], n = `num_frame`; any h and w.

        Returns:
            (b, 3, 4 * h, 4 * w).
        """
        if x.dim() != 5 or x.size(1) != self.num_frame or x.size(2) != 3:
            raise InputError(f'MSFFN takes windows of shape (b, {self.num_frame}, 3, h, w), but got {tuple(x.shape)}.')
        feats = self.extract_features(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.restore(x[:, self.num_frame // 2], feats.unbind(1))

    def extract_features(self, frame: Tensor) -> Tensor:
        """The feature of a frame, in whatever window it stands: (b, 3, h, w) -> (b, c, h, w)."""
        return self.extractor(frame)

    def restore(self, frame: Tensor, feats: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Restore a frame from the features of its window.

        Args:
            frame: (b, 3, h, w), the centre frame.
            feats: n features (b, c, h, w), in the order of the frames.

        Returns:
            (b, 3, 4 * h, 4 * w).
        """
        center = self.num_frame // 2
        feat = feats[center]
        supports = [self.align(feats[i], feat) for i in range(self.num_frame) if i != center]
        return self.reconstruct(self.fuse(feat, supports), frame)

    def align(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align a supporting frame's feature to the centre frame's (equations 5 to 8); both (b, c, h, w)."""
        aligned = support if self.alignment is None else self.alignment(support, feat)
        return aligned * similarity_mask(feat, aligned) if self.attention else aligned

    def fuse(self, feat: Tensor, supports: list[Tensor]) -> Tensor:
        """Fuse the aligned supporting features (equation 3) with the centre frame's; all (b, c, h, w)."""
        condition = None
        if self.condition is not None:
            condition = self.condition(torch.cat(supports, dim=1))
        elif self.direct_fusion is not None:
            feat = self.direct_fusion(torch.cat([feat, *supports], dim=1))
        high = self.run_blocks(feat, condition)
        if self.feedback:
            high = self.run_blocks(feat + high, condition)
        return high + feat

    def run_blocks(self, feat: Tensor, condition: Tensor | None) -> Tensor:
        for block in self.blocks:
            feat = block(feat) if condition is None else block(feat, condition)
        return feat

    def reconstruct(self, feat: Tensor, frame: Tensor) -> Tensor:
        """(b, c, h, w) and (b, 3, h, w) -> (b, 3, 4 * h, 4 * w)."""
        feat = self.lrelu(self.pixel_shuffle(self.upconv1(feat)))  # (b, c, 2h, 2w)
        feat = self.lrelu(self.pixel_shuffle(self.upconv2(feat)))  # (b, c, 4h, 4w)
        return self.conv_last(feat) + F.interpolate(frame, scale_factor=4, mode='bilinear', align_corners=False)


def similarity_mask(feat: Tensor, aligned: Tensor) -> Tensor:
    """How similar two features are at each pixel (equation 8): (b, c, h, w) twice -> (b, 1, h, w), in [0, 1/2]."""
    distance = (feat - aligned).abs().sum(dim=1, keepdim=True)
    return torch.sigmoid(-distance)


class MDDAlignment(nn.Module):
    """Multi-scale dilated deformable alignment (Section III-B, 2; Figure 4).

    Args:
        num_feat: Channels, in and out.
        num_mdrb: Multi-scale dilated residual blocks.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
    """

    def __init__(self, num_feat: int, num_mdrb: int, deform_groups: int):
        super().__init__()
        if deform_groups < 1 or num_feat % deform_groups:
            raise InputError(f'MSFFN: deform_groups ({deform_groups}) must divide num_feat ({num_feat}).')
        self.bottleneck = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1)
        self.mdrbs = nn.Sequential(*(MultiScaleDilatedResidualBlock(num_feat) for _ in range(num_mdrb)))
        self.conv_offset = nn.Conv2d(num_feat, 3 * 9 * deform_groups, 3, 1, 1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        self.deform_conv = ModulatedDeformConv2d(num_feat, num_feat, 3, padding=1, deform_groups=deform_groups)
        nn.init.dirac_(self.deform_conv.weight)
        self.deform_conv.weight.data *= 2  # the modulation scalar starts at 1/2
        nn.init.zeros_(self.deform_conv.bias)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align `support` to `feat`; all (b, c, h, w)."""
        theta = self.mdrbs(self.lrelu(self.bottleneck(torch.cat((support, feat), dim=1))))
        o1, o2, mask = self.conv_offset(theta).chunk(3, dim=1)  # each (b, deform_groups * 9, h, w)
        return self.deform_conv(support, torch.cat((o1, o2), dim=1), torch.sigmoid(mask))


class MultiScaleDilatedResidualBlock(nn.Module):
    """3x3 and 5x5 side by side, then dilation rates 2 and 3 side by side, and a shortcut (Figure 4)."""

    def __init__(self, num_feat: int):
        super().__init__()
        self.conv3 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv5 = nn.Conv2d(num_feat, num_feat, 5, 1, 2)
        self.conv_dilated2 = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 2, dilation=2)
        self.conv_dilated3 = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 3, dilation=3)
        self.fuse = nn.Conv2d(2 * num_feat, num_feat, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, feat: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        multi_scale = self.lrelu(torch.cat((self.conv3(feat), self.conv5(feat)), dim=1))
        dilated = self.lrelu(torch.cat((self.conv_dilated2(multi_scale), self.conv_dilated3(multi_scale)), dim=1))
        return feat + self.fuse(dilated)


class SpatialFeatureTransform(nn.Module):
    """Scale and shift a feature, conditioned on another (equation 9)."""

    def __init__(self, num_feat: int):
        super().__init__()
        self.conv_gamma = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_beta = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        default_init_weights([self.conv_gamma, self.conv_beta], 0.1)
        nn.init.ones_(self.conv_gamma.bias)

    def forward(self, feat: Tensor, condition: Tensor) -> Tensor:
        """All (b, c, h, w)."""
        return self.conv_gamma(condition) * feat + self.conv_beta(condition)


class ModulativeResidualFusionBlock(nn.Module):
    """A residual block with a spatial feature transform after each convolution (Section III-C)."""

    def __init__(self, num_feat: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.sft1 = SpatialFeatureTransform(num_feat)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.sft2 = SpatialFeatureTransform(num_feat)
        self.relu = nn.ReLU(inplace=True)
        default_init_weights([self.conv1, self.conv2], 0.1)

    def forward(self, feat: Tensor, condition: Tensor) -> Tensor:
        """All (b, c, h, w)."""
        residue = self.relu(self.sft1(self.conv1(feat), condition))
        return feat + self.sft2(self.conv2(residue), condition)
