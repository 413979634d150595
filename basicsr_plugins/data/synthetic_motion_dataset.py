"""Training samples that are generated on the fly, without end; see `synthetic_motion`.

Shape shorthand: t frames, p the LQ patch size (`gt_size / scale`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from basicsr_plugins.data.degradation import shrink_bicubic
from basicsr_plugins.data.sampling import Draw
from basicsr_plugins.data.synthetic_motion import Material, lr_flow, make_layers, render
from basicsr_plugins.data.synthetic_photos import photograph_files
from basicsr_plugins.data.synthetic_pictures import PICTURES
from basicsr_plugins.errors import InputError, check_keys, suggest

REQUIRED_KEYS = ('name', 'type', 'phase', 'scale', 'num_frame', 'gt_size')
# from `num_worker_per_gpu` on for the toolbox's trainer and loader; `resume` is added when training resumes
OPTIONAL_KEYS = (
    'length',
    'photos',
    'kinds',
    'flow',
    'num_worker_per_gpu',
    'batch_size_per_gpu',
    'dataset_enlarge_ratio',
    'use_shuffle',
    'prefetch_mode',
    'num_prefetch_queue',
    'pin_memory',
    'persistent_workers',
    'resume',
)
TRAINING = 0  # begins the seed of every sample; validation clips have another number there


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
            flow (bool, optional): Give the motion, too. Default: false.
            scale (int): Added by the toolbox.

    Raises:
        InputError: If a key is unknown, missing or impossible, or photographs are missing.
    """

    takes_draws = True

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "train")}'
        check_keys(where, opt, REQUIRED_KEYS, OPTIONAL_KEYS)
        self.num_frame, self.gt_size, self.scale = opt['num_frame'], opt['gt_size'], opt['scale']
        self.length, self.flow = opt.get('length', 10000), opt.get('flow', False)
        for key, value in (('num_frame', self.num_frame), ('length', self.length)):
            if value < 1:
                raise InputError(f'{where}: {key} must be 1 or more, but is {value}.')
        if self.gt_size < self.scale or self.gt_size % self.scale:
            raise InputError(f'{where}: gt_size ({self.gt_size}) must be a multiple of scale ({self.scale}).')
        self.material = read_material(where, opt.get('photos', True), opt.get('kinds'))
        get_root_logger().info(
            f'{opt["name"]}: generated clips, {self.length} an epoch, of {self.num_frame} frames, from '
            f'{len(self.material.photos)} photographs and {len(self.material.kinds)} kinds of procedural pictures.'
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw | int) -> dict:
        """One sample.

        Args:
            draw: The seed of the sample; a bare index is a seed of its own.

        Returns:
            `lq`: (t, 3, p, p); `gt`: (t, 3, scale * p, scale * p); both RGB in [0, 1], of 8 bits. `key`: the seed. With
            `flow`, `flow`: (t - 1, 2, 2, p, p) in LR pixels; [i, 0] goes from frame i to i + 1, [i, 1] from i + 1 to i.
        """
        seed = draw.seed if isinstance(draw, Draw) else (draw,)
        rng = np.random.default_rng([TRAINING, *seed])
        size = (self.gt_size, self.gt_size)
        layers = make_layers(rng, self.material, self.num_frame, size)
        frames, opacity = render(layers, size)
        sample = {
            'lq': _as_tensor(shrink_bicubic(frames, self.scale)),
            'gt': _as_tensor(frames),
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
