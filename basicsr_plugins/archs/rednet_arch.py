"""RED-Net: convolutions, their mirrored transposed convolutions, and skips between them.

Paper: Mao, Shen, Yang, "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with Symmetric Skip
Connections", NIPS 2016, arXiv:1603.09056. RED30 on bicubically enlarged luma; at the defaults 1,035,201 parameters.

Choices: every second convolution's output is added to that of its mirror, before the ReLU; the last transposed
convolution's mirror is the input, and no ReLU follows.

Shape shorthand: b batch, c colours (1 or 3), H and W height and width of the HR image.
"""

from __future__ import annotations

from typing import ClassVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import EnlargedImageNetwork, he_init


@ARCH_REGISTRY.register()
class REDNet(EnlargedImageNetwork):
    """RED-Net.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_conv: Convolutions, and transposed convolutions as many.
        scale: Upscaling factor of the images that it gets.
    """

    argument_ranges: ClassVar = {'num_conv': (1, 1000)}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 64, num_conv: int = 15, scale: float = 4):
        super().__init__(num_in_ch, scale)
        channels = [num_in_ch] + [num_feat] * num_conv
        pairs = list(zip(channels, channels[1:]))
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1) for before, after in pairs)
        self.upconvs = nn.ModuleList(nn.ConvTranspose2d(after, before, 3, 1, 1) for before, after in reversed(pairs))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, H, W), enlarged -> (b, c, H, W)."""
        feats = [x]
        for conv in self.convs:
            feats.append(F.relu(conv(feats[-1])))
        feat = feats.pop()
        for i, upconv in enumerate(self.upconvs[:-1]):
            feat, mirrored = upconv(feat), feats.pop()
            feat = F.relu(feat + mirrored if i % 2 == 0 else feat)
        return x + self.upconvs[-1](feat)
