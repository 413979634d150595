"""MSFFN: video super-resolution by a multi-stage feature fusion network.

Paper: H. Song, W. Xu, D. Liu, B. Liu, Q. Liu, D. N. Metaxas, "Multi-Stage Feature Fusion Network for Video
Super-Resolution", IEEE TIP 30, 2021, doi:10.1109/TIP.2021.3056868. A sliding-window network: the features of the
supporting frames are aligned to those of the centre frame by deformable convolution (Section III-B, 2), weighted by how
similar they are (equation 8), and then modulate the centre frame's features after every convolution of a deep residual
network (Section III-C).

Parameters in millions, ours and the paper's (Tables I and V; Table VI has none):

    80 channels                          8.79    8.5
    64 channels                          5.65    5.69
    64, alignment: none                  4.24    4.21
    64, alignment: flow (OpFlow)         5.68    5.43   5.44 if the toolbox's SpyNet had five levels, not six
    64, alignment: tda                   4.96    4.90   4.79 if its deformable convolutions were not modulated
    64, alignment: pcd                   5.77    5.73
    64, fusion: direct (DF)              3.52
    64, fusion: 3d (3DF)                 3.60
    80 channels, x2                      8.56         one pixel shuffle, of 2x2 sub-pixels; the paper has x4 alone
    80 channels, x3                      8.85         of 3x3

Where the paper leaves a choice:

- Multi-scale dilated residual blocks (Figure 4): the 3x3 and the 5x5 convolution, side by side, keep the channels; each
  of the two dilated ones sees both results; a 1x1 convolution brings theirs together, and the input is added. One such
  block has 0.30 M parameters at 64 channels, but Table V has the alignment cost 1.48 M: with four of them (`num_mdrb`)
  ours costs 1.42 M.
- Sampling parameters come from a 3x3 convolution after these blocks, which starts at zero; eight deformable groups, as
  in EDVR; the modulation scalar is a sigmoid.
- The mask (equation 8), as it is written: the L1 distance is the sum over the channels, so that the mask is 1/2 where
  an aligned feature equals the centre frame's, nowhere above it, and falls like exp(-distance): it dies where features
  are far apart. The deformable convolution therefore starts as the identity (twice its weight, for the
  modulation scalar starts at 1/2): on Vid4's calendar and city the mask is then 0.15 to 0.34 on average, one to three
  frames away; with random weights 4e-8 to 5e-6 at 80 channels, the gradients behind it vanish, and what is learnt is a
  single-image network. PCD, which ends in a LeakyReLU, starts with 1e-4 to 4e-3.
- Otherwise weights start as PyTorch's and, in residual blocks, as the toolbox's (He's times 0.1); the paper: He's.
- The reference frame's branch starts from F_t, the feature that the extraction module gives (equations 5 and 9 use the
  same symbol), not from a convolution of its own.
- Conditions (equation 9): a 1x1 convolution brings the supporting features (equation 3) to `num_feat` channels, once
  for all layers; in each SFT layer one 3x3 convolution makes gamma of it and another beta. The bias of gamma starts at
  one, so that modulation starts near the identity.
- Feedback: the modulated residual blocks run twice with the same weights; the second time their input is F_t plus the
  last block's output of the first time. The paper says "without extra parameters".
- Reconstruction as in SRResNet: the input is added to the last block's output, two pixel shuffles, LeakyReLU (0.1)
  after each, and a convolution; the bilinear x4 of the frame is added, as the toolbox's networks do. The convolution
  that SRResNet has between its last block and the sum is left out, as in the toolbox's `MSRResNet`: the paper names
  none, and with it the network without alignment would have 4.27 M parameters.
- Table V: the flow is SpyNet's, between LR frames, and warps features; TDA and PCD take the features. Attention and
  fusion stay. Table VI: direct fusion is a 3x3 convolution of all aligned features at once; 3D fusion is 3x3x3
  convolutions over the window in its order, LeakyReLU (0.1) between them, each of which shortens it by a frame at both
  ends until one is left. Residual blocks without SFT follow both.
- With a window of one frame there is nothing to align and nothing to condition on: what remains is a single-image
  network, and its feedback.
- Training (`options/train_MSFFN_Vimeo90K.yml`): samples are flipped and turned by 90 degrees (Section IV-A), by the
  toolbox's augmentation, which flips vertically too; that reversing time is not named, and not done.

Shape shorthand: b batch, n frames of the window, c channels, h and w height and width of the LR frame, s
the scale.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, default_init_weights, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs import sub_pixel
from basicsr_plugins.archs.msffn_alignment import ALIGNMENTS, build_alignment
from basicsr_plugins.errors import InputError

FUSIONS = ('sft', 'direct', '3d')


@ARCH_REGISTRY.register()
class MSFFN(nn.Module):
    """MSFFN.

    Args:
        num_feat: Channels of the features: 80 in the paper, 64 for its small network and ablations.
        num_frame: Frames of the window, 2N + 1; the centre one is restored. 1 makes a single-image network.
        num_extract_block: Residual blocks of the extraction module.
        num_mdrb: Multi-scale dilated residual blocks of the alignment module.
        num_block: Modulative residual fusion blocks.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
        alignment: `deformable`, the paper's own; of its Table V `flow`, `tda`, `pcd`, `none`.
        attention: Whether supporting features are weighted by their similarity (Table VII).
        feedback: Whether the last fusion block's output is fed back to the first (Table VII).
        fusion: `sft`, the paper's own; of its Table VI `direct`, `3d`.
        spynet_path: For alignment by flow: SpyNet weights in the format of BasicSR's `SpyNet(load_path)`; without,
            flow starts untrained.
        scale: Upscaling factor: 4, the paper's, by two pixel shuffles, or 2 or 3, by one.

    Raises:
        InputError: If an argument is out of its range, or `spynet_path` does not hold SpyNet weights.
    """

    input_type = 'window'
    scales = (2, 3, 4)

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
        spynet_path: str | None = None,
        scale: int = 4,
    ):
        super().__init__()
        if scale not in self.scales:
            raise InputError(f'MSFFN: scale must be one of {self.scales}, but is {scale}.')
        if num_frame < 1 or num_frame % 2 == 0:
            raise InputError(f'MSFFN: num_frame must be odd, but is {num_frame}.')
        for name, value, known in (('alignment', alignment, ALIGNMENTS), ('fusion', fusion, FUSIONS)):
            if value not in known:
                raise InputError(f'MSFFN: {name} must be one of {", ".join(known)}, but is {value!r}.')
        self.scale = scale
        self.num_feat = num_feat
        self.num_frame = num_frame
        self.estimates_flow = alignment == 'flow' and num_frame > 1
        self.attention = attention
        self.feedback = feedback

        self.extractor = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, 1, 1),
            make_layer(ResidualBlockNoBN, num_extract_block, num_feat=num_feat),
        )
        self.alignment = self.condition = self.one_stage_fusion = None
        if num_frame > 1:
            self.alignment = build_alignment(alignment, num_feat, num_mdrb, deform_groups, spynet_path)
            if fusion == 'sft':
                to_condition = nn.Conv2d((num_frame - 1) * num_feat, num_feat, 1)
                self.condition = nn.Sequential(to_condition, nn.LeakyReLU(0.1, True))
            else:
                self.one_stage_fusion = (DirectFusion if fusion == 'direct' else Fusion3d)(num_feat, num_frame)
        if self.condition is not None:
            self.blocks = nn.ModuleList(ModulativeResidualFusionBlock(num_feat) for _ in range(num_block))
        else:
            self.blocks = nn.ModuleList(ResidualBlockNoBN(num_feat) for _ in range(num_block))

        self.first_scale = 2 if scale == 4 else scale
        self.upconv1 = nn.Conv2d(num_feat, self.first_scale**2 * num_feat, 3, 1, 1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Restore the centre frame of a window.

        Args:
            x: (b, n, 3, h, w), RGB in [0, 1], n = `num_frame`; any h and w.

        Returns:
            (b, 3, s * h, s * w).
        """
        if x.dim() != 5 or x.size(1) != self.num_frame or x.size(2) != 3:
            raise InputError(f'MSFFN takes windows of shape (b, {self.num_frame}, 3, h, w), but got {tuple(x.shape)}.')
        feats = self.extract_features(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.restore(x[:, self.num_frame // 2], feats.unbind(1))

    def extract_features(self, frame: Tensor) -> Tensor:
        """What a window needs of a frame, in whatever window it stands.

        Args:
            frame: (b, 3, h, w).

        Returns:
            Its feature, (b, c, h, w); with alignment by flow the frame is behind it, (b, c + 3, h, w).
        """
        feat = self.extractor(frame)
        return torch.cat((feat, frame), dim=1) if self.estimates_flow else feat

    def restore(self, frame: Tensor, feats: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Restore a frame from the features of its window.

        Args:
            frame: (b, 3, h, w), the centre frame.
            feats: n times what `extract_features` gives, in the order of the frames.

        Returns:
            (b, 3, s * h, s * w).
        """
        center = self.num_frame // 2
        supports = [self.align(feats[i], feats[center]) for i in range(self.num_frame) if i != center]
        return self.reconstruct(self.fuse(feats[center][:, : self.num_feat], supports), frame)

    def align(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align a supporting frame to the centre frame (equations 5 to 8): as of `extract_features` -> (b, c, h, w)."""
        aligned = support if self.alignment is None else self.alignment(support, feat)
        return aligned * similarity_mask(feat[:, : self.num_feat], aligned) if self.attention else aligned

    def fuse(self, feat: Tensor, supports: list[Tensor]) -> Tensor:
        """Fuse the aligned supporting features (equation 3) with the centre frame's; all (b, c, h, w)."""
        condition = None
        if self.condition is not None:
            condition = self.condition(torch.cat(supports, dim=1))
        elif self.one_stage_fusion is not None:
            feat = self.one_stage_fusion(feat, supports)
        high = self.run_blocks(feat, condition)
        if self.feedback:
            high = self.run_blocks(feat + high, condition)
        return high + feat

    def run_blocks(self, feat: Tensor, condition: Tensor | None) -> Tensor:
        for block in self.blocks:
            feat = block(feat) if condition is None else block(feat, condition)
        return feat

    def reconstruct(self, feat: Tensor, frame: Tensor) -> Tensor:
        """(b, c, h, w) and (b, 3, h, w) -> (b, 3, s * h, s * w)."""
        feat = self.lrelu(self.upconv1(feat))
        if self.scale == 4:
            feat = self.lrelu(self.upconv2(F.pixel_shuffle(feat, 2)))
        enlarged = F.interpolate(frame, scale_factor=self.scale, mode='bilinear', align_corners=False)
        return sub_pixel.conv_of_shuffled(self.conv_last, feat, self.first_scale) + enlarged


def similarity_mask(feat: Tensor, aligned: Tensor) -> Tensor:
    """How similar two features are at each pixel (equation 8): (b, c, h, w) twice -> (b, 1, h, w), in [0, 1/2]."""
    distance = (feat - aligned).abs().sum(dim=1, keepdim=True)
    return torch.sigmoid(-distance)


class DirectFusion(nn.Module):
    """One convolution of all features of a window at once (Table VI, DF)."""

    def __init__(self, num_feat: int, num_frame: int):
        super().__init__()
        self.conv = nn.Conv2d(num_frame * num_feat, num_feat, 3, 1, 1)

    def forward(self, feat: Tensor, supports: list[Tensor]) -> Tensor:
        """The centre frame's feature and the n - 1 aligned ones, all (b, c, h, w) -> (b, c, h, w)."""
        return self.conv(torch.cat([feat, *supports], dim=1))


class Fusion3d(nn.Module):
    """3D convolutions over the window, until one frame is left (Table VI, 3DF)."""

    def __init__(self, num_feat: int, num_frame: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv3d(num_feat, num_feat, 3, padding=(0, 1, 1)) for _ in range((num_frame - 1) // 2)
        )

    def forward(self, feat: Tensor, supports: list[Tensor]) -> Tensor:
        """As `DirectFusion.forward`; `supports` in the order of the frames."""
        half = len(supports) // 2
        window = torch.stack([*supports[:half], feat, *supports[half:]], dim=2)  # (b, c, n, h, w)
        for i, conv in enumerate(self.convs):
            window = conv(window if i == 0 else F.leaky_relu(window, 0.1))
        return window.squeeze(2)


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
