"""How MSFFN aligns the feature of a supporting frame to that of the centre frame: its own way and those of its Table V.

Every alignment starts as the identity, or near it (see `msffn_arch`): a modulated deformable convolution samples where
it stands, its modulation scalar is 1/2, and its weight is twice the identity.

Shape shorthand: b batch, c channels, h and w height and width of the LR frame, g deformable groups.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import DCNv2Pack, flow_warp
from basicsr.archs.edvr_arch import PCDAlignment
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.vsr_modules import build_spynet
from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.deform_conv import ModulatedDeformConv2d

ALIGNMENTS = ('deformable', 'flow', 'tda', 'pcd', 'none')


def build_alignment(
    alignment: str, num_feat: int, num_mdrb: int, deform_groups: int, spynet_path: str | None
) -> nn.Module | None:
    """The alignment of a name in `ALIGNMENTS`, None for none; the other arguments are `MSFFN`'s.

    Raises:
        InputError: If `deform_groups` does not divide `num_feat`, or `spynet_path` does not hold SpyNet weights.
    """
    if alignment == 'none':
        return None
    if alignment == 'flow':
        return FlowAlignment(spynet_path)
    if deform_groups < 1 or num_feat % deform_groups:
        raise InputError(f'MSFFN: deform_groups ({deform_groups}) must divide num_feat ({num_feat}).')
    if alignment == 'deformable':
        return MDDAlignment(num_feat, num_mdrb, deform_groups)
    return {'tda': TDAlignment, 'pcd': PyramidAlignment}[alignment](num_feat, deform_groups)


@torch.no_grad()
def start_as_identity(deform_conv: nn.Module) -> None:
    """Let a modulated deformable convolution whose offsets start at zero keep its input (modulation starts at 1/2)."""
    nn.init.dirac_(deform_conv.weight)
    deform_conv.weight *= 2
    nn.init.zeros_(deform_conv.bias)


class MDDAlignment(nn.Module):
    """Multi-scale dilated deformable alignment (Section III-B, 2; Figure 4).

    Args:
        num_feat: Channels, in and out.
        num_mdrb: Multi-scale dilated residual blocks.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
    """

    def __init__(self, num_feat: int, num_mdrb: int, deform_groups: int):
        super().__init__()
        self.bottleneck = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1)
        self.mdrbs = nn.Sequential(*(MultiScaleDilatedResidualBlock(num_feat) for _ in range(num_mdrb)))
        self.conv_offset = nn.Conv2d(num_feat, 3 * 9 * deform_groups, 3, 1, 1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        self.deform_conv = ModulatedDeformConv2d(num_feat, num_feat, 3, padding=1, deform_groups=deform_groups)
        start_as_identity(self.deform_conv)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align `support` to `feat`; all (b, c, h, w)."""
        theta = self.mdrbs(self.lrelu(self.bottleneck(torch.cat((support, feat), dim=1))))
        o1, o2, mask = self.conv_offset(theta).chunk(3, dim=1)  # each (b, g * 9, h, w)
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


class FlowAlignment(nn.Module):
    """Warping by optical flow, which SpyNet estimates from the LR frames (Table V, OpFlow).

    Args:
        spynet_path: As in `vsr_modules.build_spynet`.
    """

    def __init__(self, spynet_path: str | None):
        super().__init__()
        self.spynet = build_spynet(spynet_path)

    def forward(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align `support` to `feat`, both (b, c + 3, h, w): a feature and its LR frame behind it -> (b, c, h, w)."""
        with torch.autocast(feat.device.type, enabled=False):  # flow is in pixels: half precision is too coarse for it
            flow = self.spynet(feat[:, -3:].float(), support[:, -3:].float())  # from the centre frame to the other
        return flow_warp(support[:, :-3], flow.permute(0, 2, 3, 1))


class TDAlignment(nn.Module):
    """The alignment of TDAN (Tian et al., CVPR 2020): deformable convolutions one after the other (Table V, TDA).

    Two of them refine what both features have in common; from that come the sampling parameters of the third, which
    aligns; the fourth refines what is aligned. TDAN's have no modulation scalar; these are modulated, as MSFFN's are.

    Args:
        num_feat: Channels, in and out.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.bottleneck = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1)
        packs = [DCNv2Pack(num_feat, num_feat, 3, padding=1, deformable_groups=deform_groups) for _ in range(4)]
        self.common1, self.common2, self.align, self.refine = packs
        for pack in packs:
            start_as_identity(pack)

    def forward(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align `support` to `feat`; all (b, c, h, w)."""
        common = self.bottleneck(torch.cat((support, feat), dim=1))
        common = self.common1(common, common)
        common = self.common2(common, common)
        aligned = self.align(support, common)
        return self.refine(aligned, aligned)


class PyramidAlignment(nn.Module):
    """EDVR's pyramid, cascading and deformable alignment, the toolbox's `PCDAlignment` (Table V, PCD).

    The two coarser levels come of strided convolutions, as in the toolbox's EDVR. Sides that do not divide by 4 are
    padded by their border. It starts as the identity but for its last LeakyReLU, which leaves a tenth of what is
    negative.

    Args:
        num_feat: Channels, in and out.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.conv_l2 = self._halve(num_feat)
        self.conv_l3 = self._halve(num_feat)
        self.pcd = PCDAlignment(num_feat, deform_groups)
        for deform_conv in (self.pcd.dcn_pack['l1'], self.pcd.cas_dcnpack):
            start_as_identity(deform_conv)
        nn.init.dirac_(self.pcd.feat_conv['l1'].weight)  # keeps what the finest level has aligned
        nn.init.zeros_(self.pcd.feat_conv['l1'].bias)

    @staticmethod
    def _halve(num_feat: int) -> nn.Sequential:
        strided, conv = nn.Conv2d(num_feat, num_feat, 3, 2, 1), nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        return nn.Sequential(strided, nn.LeakyReLU(0.1, True), conv, nn.LeakyReLU(0.1, True))

    def forward(self, support: Tensor, feat: Tensor) -> Tensor:
        """Align `support` to `feat`; all (b, c, h, w)."""
        h, w = feat.shape[-2:]
        support, feat = (F.pad(x, (0, -w % 4, 0, -h % 4), mode='replicate') for x in (support, feat))
        return self.pcd(self._pyramid(support), self._pyramid(feat))[..., :h, :w]

    def _pyramid(self, feat: Tensor) -> list[Tensor]:
        half = self.conv_l2(feat)
        return [feat, half, self.conv_l3(half)]
