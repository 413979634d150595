"""Small networks and films for the tests: alignment does something, and flow costs next to nothing."""

import torch
from basicsr.archs import build_network
from torch import nn

from basicsr_plugins.archs.vsr_modules import FlowGuidedAlignment
from basicsr_plugins.inference import UpscaleSettings, upscale_frames


class TinyFlow(nn.Module):
    """Flow of a few pixels that depends on both frames."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 5, padding=2)
        nn.init.normal_(self.conv.weight, std=0.5)

    def forward(self, frame, other):
        return self.conv(torch.cat((frame, other), dim=1))


def small_network(name, spynet=None, **arguments):
    """`EFAR` or `BasicVSR`, whose states reach many frames far."""
    torch.manual_seed(0)
    arguments = {'num_feat': 8, 'num_block': 1, **arguments}
    if name == 'EFAR':
        arguments = {'dilations': (1, 2), **arguments}
    net = build_network({'type': name, **arguments}).eval()
    for module in net.modules():
        if isinstance(module, FlowGuidedAlignment):
            nn.init.normal_(module.conv_offset.weight, std=0.05)
            nn.init.normal_(module.conv_offset.bias, std=0.5)
            module.deform_conv.weight.data *= 2
    for part in net.children():
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data += 0.05 * torch.randn_like(module.weight)
    net.spynet = TinyFlow() if spynet is None else spynet
    return net


class Recurrent(nn.Module):
    """A network of sequences without known steps: each frame gets a share of all others, less from far away."""

    scale = 4

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        t = x.size(1)
        distance = (torch.arange(t)[:, None] - torch.arange(t)[None]).abs()
        mixed = torch.einsum('ij,bjchw->bichw', self.share**distance, x)
        return mixed.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)


def build_msffn():
    torch.manual_seed(0)
    small = {'num_feat': 8, 'num_frame': 5, 'num_extract_block': 1, 'num_mdrb': 1, 'num_block': 1, 'deform_groups': 2}
    return build_network({'type': 'MSFFN', **small}).eval()


def build_edvr():
    torch.manual_seed(0)
    small = {'num_feat': 8, 'num_frame': 5, 'num_extract_block': 1, 'num_reconstruct_block': 1}
    return build_network({'type': 'EDVR', 'deformable_groups': 2, **small}).eval()


def build_srresnet():
    torch.manual_seed(0)
    return build_network({'type': 'MSRResNet', 'num_feat': 8, 'num_block': 1}).eval()


OTHERS = {'IconVSR-like': Recurrent, 'MSFFN': build_msffn, 'EDVR': build_edvr, 'MSRResNet': build_srresnet}


def film(t, h, w, seed=1):
    """(t, 3, h, w): noise that lasts, in part, from frame to frame, of 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.rand(1, 3, h, w, generator=generator)
    moving = torch.rand(t, 3, h, w, generator=generator)
    return (0.85 * still + 0.15 * moving).mul(255).round().div(255)


def upscale(net, frames, skip=0, **settings):
    """All HR frames, (t, 3, 4 * h, 4 * w)."""
    frames = list(upscale_frames(net, iter(frames), UpscaleSettings(**settings), skip=skip))
    return torch.stack(frames) if frames else torch.empty(0)
