"""A recurrent network as a newcomer adds it: one file, and everything knows it."""

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from basicsr_plugins.archs.recurrent import RecurrentNetwork


@ARCH_REGISTRY.register()
class ToyRecurrent(RecurrentNetwork):
    """Both passes see a neighbour on the other side; nothing is aligned."""

    scale = 4

    def __init__(self, num_feat: int = 4):
        super().__init__()
        self.extractor = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.backward_conv = nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1)
        self.forward_conv = nn.Conv2d(2 * num_feat + 3, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(2 * num_feat, 3 * 16, 3, 1, 1)

    def extract(self, frame):
        return self.extractor(frame).relu()

    def backward_step(self, feat, state):
        state = torch.zeros_like(feat) if state is None else state
        return self.backward_conv(torch.cat([feat, state], dim=1)).tanh()

    def forward_step(self, frame, feat, next_frame, state):
        state = torch.zeros_like(feat) if state is None else state
        next_frame = frame if next_frame is None else next_frame
        return self.forward_conv(torch.cat([feat, state, next_frame], dim=1)).tanh()

    def upsample(self, frame, backward_state, state):
        residue = F.pixel_shuffle(self.conv_last(torch.cat([backward_state, state], dim=1)), 4)
        return residue + F.interpolate(frame, scale_factor=4, mode='bilinear')
