"""Train the toolbox's SpyNet on the known motion of the demo clips, for those who have no trained weights.

SpyNet adds up flow over six levels, from frames shrunk by 32 to the frames themselves, and each level does the same:
it sees a frame, the other frame warped by the flow so far, and that flow, and gives what the flow still lacks. So one
level is trained first, on patches warped by a flow that is wrong by a known shift, which needs no other level and
little time; the six begin as copies of it and are then trained together.

Shapes: (h, w) is the size of the LR frames, flow (2, h, w) is in LR pixels, channel 0 = x; `known` (1, h, w) is 1
where all GT pixels of an LR pixel follow the same layer and 0 at the outline of the cut-out. Where the other frame does
not show a point, its flow is that of its layer all the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils import img2tensor
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from basicsr_plugins.data.demo_data import HELD_OUT, SCALE, load_motion, motion_flow
from basicsr_plugins.data.preparation import read_image
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.networks import save_checkpoint

MAX_STEP = 3  # frames between the two of a pair
PATCH, PATCH_BATCH, PATCH_LR = 24, 16, 4e-4
SHIFT = (0.1, 0.9)  # standard deviation of what is wrong with the patches' flow, pixels
CROP, CROP_BATCH, CROP_LR = 64, 2, 2e-4
WARM_UP = 30
REF, SUPP, FLOW, KNOWN = slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 9)  # channels of a pair

FlowNet = Callable[[Tensor, Tensor], Tensor]


@dataclass
class FlowClip:
    """LR frames (t, 3, h, w), RGB in [0, 1], and the motion that made them."""

    frames: Tensor
    motion: dict
    targets: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def pair(self, t: int, s: int) -> Tensor:
        """Frame t, frame s, the flow from t to s and where it is known, (9, h, w): `REF`, `SUPP`, `FLOW`, `KNOWN`."""
        if (t, s) not in self.targets:
            self.targets[t, s] = torch.cat(lr_flow(self.motion, t, s))
        return torch.cat([self.frames[t], self.frames[s], self.targets[t, s]])


def train_spynet(data: Path, path: Path, iterations: int = 2000, seed: int = 0) -> float:
    """Train a SpyNet on the demo clips that are not held out and save it; a file that is there already is kept.

    The file is what BasicSR's `SpyNet(load_path)` reads. On a CPU, the same seed and number of threads give the same
    weights. Only a finished training leaves a file.

    With the defaults, four minutes of one CPU core, the end-point error on the held-out clips is 0.146 px; of the
    published weights, trained on Sintel, it is 0.107 px, and of zero flow 0.449 px.

    Args:
        data: A demo dataset, see `make_demo_data`.
        path: The file to write.
        iterations: Of the training of one level; that of all six takes another fifth as many, each of which takes 1.5
            times as long.
        seed: Of the weights at the start and of the patches.

    Returns:
        End-point error on the held-out clips, see `end_point_error`.

    Raises:
        InputError: If the dataset is not whole, or `path` is no file of SpyNet weights.
        OSError: If the file cannot be written.
    """
    names = clip_names(data)
    if not path.is_file():
        net = trained([load_clip(data, name) for name in names if name not in HELD_OUT], iterations, seed)
        weights = {f'basic_module.{key}': value for key, value in net.basic_module.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint({'params': weights}, path)
    return end_point_error(SpyNet(str(path)), [load_clip(data, name) for name in names if name in HELD_OUT])


@torch.no_grad()
def end_point_error(net: FlowNet, clips: list[FlowClip]) -> float:
    """How far the flow ends from where it should, LR pixels.

    The mean over the pixels with known flow of all pairs of adjacent frames, in both directions.

    Args:
        net: Gives the flow (b, 2, h, w) from frames (b, 3, h, w) to others.
        clips: Clips of two frames or more.
    """
    total = count = 0.0
    for clip in clips:
        order = range(len(clip.frames) - 1)
        for pairs in ([clip.pair(t, t + 1) for t in order], [clip.pair(t + 1, t) for t in order]):
            pair = torch.stack(pairs)
            distance = torch.linalg.vector_norm(net(pair[:, REF], pair[:, SUPP]) - pair[:, FLOW], dim=1, keepdim=True)
            total += float((distance * pair[:, KNOWN]).sum())
            count += float(pair[:, KNOWN].sum())
    return total / count


def clip_names(data: Path) -> list[str]:
    """The names of a demo dataset's clips."""
    manifest = data / 'demo_data.json'
    if not manifest.is_file():
        raise InputError(f'{manifest} is missing; make the dataset with scripts/data_preparation/make_demo_data.py')
    return list(json.loads(manifest.read_text(encoding='utf-8'))['clips'])


def load_clip(data: Path, name: str) -> FlowClip:
    """Read a clip's LR frames and its motion."""
    motion = load_motion(data, name)
    folder = data / f'BIx{SCALE}' / name
    images = [read_image(folder / f'{t:08d}.png') for t in range(motion['num_frame'])]
    return FlowClip(torch.stack(img2tensor(images)) / 255, motion)


def lr_flow(motion: dict, t: int, s: int) -> tuple[Tensor, Tensor]:
    """Flow from LR frame t to LR frame s, and where it is known.

    An LR pixel lies in the middle of SCALE x SCALE GT pixels, which an affine moves: their mean flow is its own.
    """
    flow, layer = motion_flow(motion, t, s)
    h, w = (side // SCALE for side in layer.shape)
    flow = flow.reshape(2, h, SCALE, w, SCALE).mean((2, 4)) / SCALE
    layer = layer.reshape(h, SCALE, w, SCALE)
    known = layer.min((1, 3)) == layer.max((1, 3))
    return torch.from_numpy(flow), torch.from_numpy(known[None].astype(np.float32))


def trained(clips: list[FlowClip], iterations: int, seed: int) -> SpyNet:
    """Train a SpyNet on these clips: one level on patches, then all."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SpyNet()
        level = net.basic_module[0]
        init_level(level)
    fit(level, level_losses(net, clips, rng), iterations, PATCH_LR, 'SpyNet, one level')
    for other in net.basic_module[1:]:
        other.load_state_dict(level.state_dict())
    fit(net, net_losses(net, clips, rng), iterations // 5, CROP_LR, 'SpyNet, all levels')
    return net


def init_level(level: nn.Module) -> None:
    """Draw the weights of a level, the first layer such that it sees motion from the start.

    Half of its filters take the difference of the two frames, the others what they have in common, none the brightness,
    and colour is left to be learnt: it shortens the start, in which the flow stays near zero.
    """
    convs = [module for module in level.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
        nn.init.zeros_(conv.bias)
    with torch.no_grad():
        convs[-1].weight.mul_(0.1)  # the flow begins near zero
        weight = convs[0].weight  # (n, 8, k, k): frame, other frame, flow
        kernel = torch.randn_like(weight[:, :1])
        kernel = (kernel - kernel.mean((2, 3), keepdim=True)).expand(-1, 3, -1, -1)
        half = len(weight) // 2
        weight[:half, REF], weight[:half, SUPP] = 0.2 * kernel[:half], -0.2 * kernel[:half]
        weight[half:, REF], weight[half:, SUPP] = 0.03 * kernel[half:], 0.03 * kernel[half:]
        weight[:, FLOW] *= 0.1


def fit(net: nn.Module, losses: Iterator[Tensor], iterations: int, lr: float, label: str) -> None:
    """Adam with a short warm-up and cosine annealing; the bar shows the running mean of the end-point error."""
    optimizer = torch.optim.Adam(net.parameters(), lr, betas=(0.9, 0.99))
    running = 0.0
    with tqdm(total=iterations, unit='iter', desc=label) as progress:
        for i in range(iterations):
            annealed = 0.5 + 0.5 * math.cos(math.pi * i / iterations)
            optimizer.param_groups[0]['lr'] = lr * annealed * min(1, (i + 1) / WARM_UP)
            loss = next(losses)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            running += (loss.item() - running) * max(1 / (i + 1), 0.02)
            progress.set_postfix_str(f'end-point error {running:.3f} px', refresh=False)
            progress.update()


def level_losses(net: SpyNet, clips: list[FlowClip], rng: np.random.Generator) -> Iterator[Tensor]:
    """The first level's error in mending flow that is wrong by a shift.

    Half of the patches are from frames, half from frames shrunk by 2, as the level below the last sees them.
    """
    n = PATCH_BATCH // 2
    while True:
        pair = torch.cat([draw_crops(clips, rng, n, PATCH), shrink(draw_crops(clips, rng, n, 2 * PATCH))])
        shift = rng.uniform(*SHIFT, (2 * n, 1, 1, 1)) * rng.standard_normal((2 * n, 2, 1, 1))
        shift = torch.from_numpy(shift.astype(np.float32)).expand_as(pair[:, FLOW])
        flow = pair[:, FLOW] + shift
        ref, supp = net.preprocess(pair[:, REF]), net.preprocess(pair[:, SUPP])
        warped = flow_warp(supp, flow.permute(0, 2, 3, 1), padding_mode='border')
        yield masked_error(net.basic_module[0](torch.cat([ref, warped, flow], 1)), -shift, pair[:, KNOWN])


def net_losses(net: SpyNet, clips: list[FlowClip], rng: np.random.Generator) -> Iterator[Tensor]:
    """The end-point error of the whole network on crops of frames."""
    while True:
        pair = draw_crops(clips, rng, CROP_BATCH, CROP)
        yield masked_error(net(pair[:, REF], pair[:, SUPP]), pair[:, FLOW], pair[:, KNOWN])


def masked_error(flow: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean end-point error where `known`; smooth at zero."""
    distance = ((flow - target).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (distance * known).sum() / known.sum().clamp(min=1)


def draw_crops(clips: list[FlowClip], rng: np.random.Generator, number: int, size: int) -> Tensor:
    """Random crops of random pairs, (number, 9, size, size), flipped and transposed; long clips come more often."""
    lengths = np.array([len(clip.frames) for clip in clips])
    crops = []
    for index in rng.choice(len(clips), number, p=lengths / lengths.sum()):
        step = int(rng.integers(1, min(MAX_STEP, lengths[index] - 1) + 1))
        t = int(rng.integers(lengths[index] - step))
        pair = clips[index].pair(*rng.permutation([t, t + step]).tolist())
        top, left = (int(rng.integers(side - size + 1)) for side in pair.shape[1:])
        crops.append(flip(pair[:, top : top + size, left : left + size], *(rng.random(3) < 0.5)))
    return torch.stack(crops)


def flip(pair: Tensor, horizontal: bool, vertical: bool, transpose: bool) -> Tensor:
    """Mirror a pair (9, h, w), its flow too."""
    ref, supp, flow, known = pair[REF], pair[SUPP], pair[FLOW], pair[KNOWN]
    flow = flow * torch.tensor([-1.0 if horizontal else 1.0, -1.0 if vertical else 1.0])[:, None, None]
    axes = [axis for axis, wanted in ((2, horizontal), (1, vertical)) if wanted]
    pair = torch.cat([ref, supp, flow.flip(0) if transpose else flow, known]).flip(axes)
    return pair.transpose(1, 2) if transpose else pair


def shrink(pair: Tensor) -> Tensor:
    """Pairs (b, 9, h, w) at half the size, as SpyNet's coarser level sees them: flow in its own pixels."""
    half = F.avg_pool2d(pair, 2)
    return torch.cat([half[:, REF], half[:, SUPP], half[:, FLOW] / 2, (half[:, KNOWN] == 1).float()], 1)
