"""Training samples that are generated on the fly, without end; see `synthetic_motion`.

Shape shorthand: t frames, p the LQ patch size (`gt_size / scale`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, Sampler

from basicsr_plugins.data.degradation import degrade_clip, read_degradation, shrink_bicubic
from basicsr_plugins.data.sampling import SeededIndex, SeededSampler
from basicsr_plugins.data.sections import read_patches
from basicsr_plugins.data.synthetic_motion import Material, lr_flow, make_layers, render
from basicsr_plugins.data.synthetic_photos import photograph_files
from basicsr_plugins.data.synthetic_pictures import PICTURES
from basicsr_plugins.errors import InputError, suggest
from basicsr_plugins.option_file import check_dataset_options
from basicsr_plugins.option_schema import Key, Schema, located

TRAINING, FLOW = 0, 3  # begin the seeds of samples; 1 and 2 begin those of `synthetic_clips`


def read_material(where: str, photos: bool | str, kinds: list[str] | None, held_out: bool = False) -> Material:
    """Check the options that say what clips are made from.

    Args:
        where: Name of the section for messages.
        photos: True for those of installed packages, false for none, or a folder.
        kinds: Names of `PICTURES`; none for all, an empty list for photographs alone.
        held_out: Take the photographs for validation.

    Raises:
        InputError: A kind is unknown, photographs are missing, or nothing is left.
    """
    kinds = list(PICTURES) if kinds is None else list(kinds)
    for kind in kinds:
        if kind not in PICTURES:
            raise InputError(f'{where}: kinds: there is no {kind!r}; {suggest(kind, PICTURES)}')
    files = photograph_files(photos if isinstance(photos, str) else None, held_out) if photos else []
    if not files and not kinds:
        raise InputError(f'{where}: with photos: false and no kinds nothing is left to show; name some kinds.')
    return Material(tuple(files), tuple(kinds))


@DATASET_REGISTRY.register()
class SyntheticMotionDataset(Dataset):
    """Generated clips for training recurrent networks: photographs and procedural pictures in known motion.

    A sample depends on the seed of the run, the epoch and its position there alone, whatever the number of workers, and
    no two are alike.

    Args:
        opt: The section `datasets.train`. Keys:
            num_frame (int): Frames in a sample.
            gt_size (int): Side of the GT patch, in pixels, divisible by `scale`.
            length (int, optional): Samples in what counts as an epoch. Default: 10000.
            photos (bool | str, optional): Show photographs of installed packages, or those of a folder. Default: true.
            kinds (list[str], optional): Which procedural pictures to show, of `synthetic_pictures.PICTURES`. Default:
                all.
            degradation (str | list[dict], optional): How LR is made, see `data.degradation`. Default: MATLAB's bicubic.
            degradation_prob (float, optional): Share of the samples that are degraded; the others are MATLAB's
                bicubic, of 8 bits. Default: 1.
            flow (bool, optional): Give the motion, too. Default: false.
            scale (int): Added by the toolbox.

    Raises:
        InputError: If a key is unknown, missing or impossible, or photographs are missing.
    """

    option_keys: ClassVar[Schema] = {  # beside those of every dataset and of the loader; `option_file` checks them
        'num_frame': Key('int', required=True, low=1, high=10000),
        'gt_size': Key('int', required=True, low=16, high=4096),
        'length': Key('int', default=10000, low=1, high=10**7),
        'photos': Key('bool | str', default=True),
        'kinds': Key('list[str] | None', least=0),
        'degradation': Key('str | list[dict] | None'),
        'degradation_prob': Key('float', default=1, low=0, high=1),
        'flow': Key('bool', default=False),
    }

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "train")}'
        check_dataset_options(type(self), opt)
        self.opt = opt
        self.num_frame, self.gt_size = opt['num_frame'], opt['gt_size']
        self.scale, self.make_lq = read_patches(where, opt)
        self.length, self.flow = opt.get('length', 10000), opt.get('flow', False)
        photos = opt.get('photos', True)
        with located('photos' if isinstance(photos, str) else 'kinds'):
            self.material = read_material(where, photos, opt.get('kinds'))
        get_root_logger().info(
            f'{opt["name"]}: generated clips, {self.length} an epoch, of {self.num_frame} frames, from '
            f'{len(self.material.photos)} photographs and {len(self.material.kinds)} kinds of procedural pictures.'
        )

    def make_sampler(self, sampler: Sampler, batch_size: int, seed: int) -> SeededSampler:
        """The sampler that gives each sample a seed of its own, around the toolbox's; `build_dataloader` asks."""
        return SeededSampler(sampler, seed, batch_size, self.opt.get('resume'))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: SeededIndex | int) -> dict:
        """One sample.

        Args:
            item: The seed of the sample; a bare index is a seed of its own.

        Returns:
            `lq`: (t, 3, p, p); `gt`: (t, 3, scale * p, scale * p); both RGB in [0, 1], of 8 bits. `key`: the seed. With
            `flow`, `flow`: (t - 1, 2, 2, p, p) in LR pixels; [i, 0] goes from frame i to i + 1, [i, 1] from i + 1 to i.
        """
        seed = item.seed if isinstance(item, SeededIndex) else (item,)
        rng = np.random.default_rng([TRAINING, *seed])
        size = (self.gt_size, self.gt_size)
        layers = make_layers(rng, self.material, self.num_frame, size)
        frames, opacity = render(layers, size)
        gt = _as_tensor(frames)
        sample = {
            'lq': _as_tensor(shrink_bicubic(frames, self.scale)) if self.make_lq is None else self.make_lq(gt, rng),
            'gt': gt,
            'key': 'synthetic/' + '_'.join(map(str, seed)),
        }
        if self.flow:
            order = [((t, t + 1), (t + 1, t)) for t in range(self.num_frame - 1)]
            flows = [[lr_flow(layers, opacity, *pair, self.scale) for pair in pairs] for pairs in order]
            p = self.gt_size // self.scale
            sample['flow'] = torch.from_numpy(np.array(flows, np.float32).reshape(-1, 2, 2, p, p))
        return sample


def _as_tensor(frames: np.ndarray) -> torch.Tensor:
    """(t, h, w, 3) uint8 to (t, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float().div_(255)


def flow_batches(
    batch_size: int,
    gt_size: int,
    seed: int = 0,
    scale: int = 4,
    photos: bool | str = True,
    degradation: str | list[dict] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of LR frames with known motion, without end, for training a flow network.

    A clip of three frames gives three of its six pairs, neighbours and others, in either order.

    Args:
        batch_size: b.
        gt_size: Side of the GT that the LR frames come from; p is `gt_size / scale`.
        seed: Decides everything; its samples are none of those that a training with `manual_seed` sees.
        scale: s.
        photos, degradation: As in `SyntheticMotionDataset`.

    Yields:
        `frame`, `other`: (b, 3, p, p) RGB in [0, 1]. `flow`: (b, 2, p, p) from `frame` to `other` in LR pixels,
        channel 0 = x; where `other` does not show a point, its flow is that of its layer all the same.

    Raises:
        InputError: As `SyntheticMotionDataset`.
    """
    material = read_material('flow_batches', photos, None)
    steps = read_degradation('flow_batches', degradation) if degradation else None
    pairs, number, size = [], 0, (gt_size, gt_size)
    orders = [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]
    while True:
        rng = np.random.default_rng([FLOW, seed, number])
        layers = make_layers(rng, material, 3, size)
        frames, opacity = render(layers, size)
        lqs = _as_tensor(shrink_bicubic(frames, scale) if steps is None else degrade_clip(frames, steps, rng, scale))
        for t, s in (orders[i] for i in rng.permutation(len(orders))[:3]):
            pairs.append((lqs[t], lqs[s], torch.from_numpy(lr_flow(layers, opacity, t, s, scale))))
        number += 1
        while len(pairs) >= batch_size:
            yield tuple(torch.stack(tensors) for tensors in zip(*pairs[:batch_size]))
            del pairs[:batch_size]
