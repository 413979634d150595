"""Training samples for recurrent networks: runs of consecutive frames, cropped and flipped alike.

Shape shorthand: t frames, p the LQ patch size (`gt_size / scale`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import get_root_logger, img2tensor
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, Sampler

from basicsr_plugins.data.bd_lr import CONVENTIONS, bd_downsample, check_convention, check_sources
from basicsr_plugins.data.clips import IO_BACKEND, ClipReader, check_scale, paired_clips, val_clip_names
from basicsr_plugins.data.meta_info import ClipInfo
from basicsr_plugins.data.sampling import Draw, DrawSampler, seeded
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_file import check_dataset_options
from basicsr_plugins.option_schema import Key, Schema


@DATASET_REGISTRY.register()
class VSRTrainDataset(Dataset):
    """REDS, or any folder or LMDB of clips, for training recurrent networks.

    Takes the options of the toolbox's `REDSRecurrentDataset`, with clips of any length. Every frame of every clip is an
    item; the run of frames starts there, or at a random place of the clip where it would not fit.

    Args:
        opt: The section `datasets.train`. Keys:
            dataroot_gt, dataroot_lq (str): Folders of clips, or LMDBs.
            degradation (str, optional): Instead of `dataroot_lq`: make the LQ patches of the GT patches, which may then
                lie at any pixel, see `data.bd_lr`; they are not rounded to 8 bits.
            io_backend (dict): `type: disk` or `type: lmdb`.
            meta_info_file (str, optional): Lines `000 100 (720,1280,3)`; without it, the LMDB's own meta_info.txt or
                the folders say which clips there are.
            val_partition (str | list[str], optional): Clips kept out of training: REDS4, official, a list, or none.
            test_mode (bool, optional): Take only those clips instead.
            num_frame (int): Frames in a sample.
            gt_size (int): Side of the GT patch, in pixels, divisible by `scale`.
            interval_list (list[int], optional): Steps between frames, one drawn for each sample. Default: [1].
            random_reverse (bool, optional): Reverse half of the samples in time. Default: false.
            use_hflip, use_rot (bool): Flips; rotation by flips and transposition.
            scale (int): Added by the toolbox.

    Raises:
        InputError: If a key is unknown, missing or impossible, or the data do not fit it.
    """

    option_keys: ClassVar[Schema] = {  # beside those of every dataset and of the loader; `option_file` checks them
        'dataroot_gt': Key('str', required=True),
        'dataroot_lq': Key('str | None'),
        'degradation': Key('str | None', choices=tuple(CONVENTIONS), noun='degradation'),
        'io_backend': IO_BACKEND,
        'meta_info_file': Key('str | None'),
        'val_partition': Key('str | list[str] | None'),
        'test_mode': Key('bool', default=False),
        'num_frame': Key('int', required=True, low=1, high=10000),
        'gt_size': Key('int', required=True, low=1, high=65536),
        'interval_list': Key('list[int]', default=[1], low=1, high=10000),
        'random_reverse': Key('bool', default=False),
        **dict.fromkeys(('use_hflip', 'use_rot'), Key('bool', required=True)),
    }

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "train")}'
        check_dataset_options(type(self), opt)
        check_sources(where, opt)
        self.opt = opt
        self.num_frame = opt['num_frame']
        self.gt_size, self.scale = opt['gt_size'], opt['scale']
        self.interval_list = list(opt.get('interval_list', [1]))
        self.random_reverse = opt.get('random_reverse', False)
        self.use_hflip, self.use_rot = opt['use_hflip'], opt['use_rot']
        if self.gt_size < self.scale or self.gt_size % self.scale:
            raise InputError(f'{where}: gt_size ({self.gt_size}) must be a multiple of scale ({self.scale}).')

        self.gt = ClipReader(opt['dataroot_gt'], opt['io_backend'], f'{where}: dataroot_gt')
        self.degradation = opt.get('degradation')
        if self.degradation is not None:
            check_convention(self.degradation, self.scale)
            self.lq, self.lq_scale = self.gt, 1
        else:
            self.lq = ClipReader(opt['dataroot_lq'], opt['io_backend'], f'{where}: dataroot_lq')
            self.lq_scale = self.scale
        self.clips = self._long_enough(self._partition(where), where)
        self._read_sample(*self.clips[0], [0])  # sizes that do not fit stop here, not in the loader
        self.items = [
            (number, frame) for number, (clip, _) in enumerate(self.clips) for frame in range(len(clip.frames))
        ]
        get_root_logger().info(
            f'{opt["name"]}: {len(self.clips)} clips, {len(self.items)} frames; {self.num_frame} frames in a sample, '
            f'intervals {self.interval_list}, random reverse is {self.random_reverse}.'
        )

    def _partition(self, where: str) -> list[tuple[ClipInfo, ClipInfo]]:
        pairs = paired_clips(self.lq, self.gt, self.opt.get('meta_info_file'))
        val_names = val_clip_names(where, self.opt.get('val_partition'), [lq.name for lq, _ in pairs])
        wants_val = bool(self.opt.get('test_mode', False))
        pairs = [pair for pair in pairs if (pair[0].name in val_names) == wants_val]
        if not pairs:
            raise InputError(f'{where}: val_partition leaves no clips of {self.lq.root}.')
        return pairs

    def _long_enough(self, pairs: list[tuple[ClipInfo, ClipInfo]], where: str) -> list[tuple[ClipInfo, ClipInfo]]:
        """Leave out clips that are shorter than a sample, and say so."""
        span = self._span(min(self.interval_list))
        short = [lq.name for lq, _ in pairs if len(lq.frames) < span]
        pairs = [pair for pair in pairs if len(pair[0].frames) >= span]
        if not pairs:
            raise InputError(
                f'{where}: num_frame is {self.num_frame} at interval {min(self.interval_list)}, but no clip of '
                f'{self.lq.root} has {span} frames.'
            )
        if short:
            shown = ', '.join(short[:5]) + (', ...' if len(short) > 5 else '')
            get_root_logger().warning(f'{where}: {len(short)} clips have fewer than {span} frames, left out: {shown}')
        return pairs

    def _span(self, interval: int) -> int:
        """Frames from the first to the last of a sample, both counted."""
        return (self.num_frame - 1) * interval + 1

    def make_sampler(self, sampler: Sampler, batch_size: int, seed: int) -> DrawSampler:
        """The sampler that gives each sample a seed of its own, around the toolbox's; `build_dataloader` asks."""
        return DrawSampler(sampler, seed, batch_size, self.opt.get('resume'))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw | int) -> dict:
        """One sample.

        Args:
            draw: An item and the seed of its random choices; a bare index has a seed of its own.

        Returns:
            `lq`: (t, 3, p, p); `gt`: (t, 3, scale * p, scale * p); both RGB in [0, 1]. `key`: `clip/number` of the
            item, as the toolbox has it.
        """
        if not isinstance(draw, Draw):
            draw = Draw(draw, (draw,))
        number, first = self.items[draw.index]
        lq_clip, gt_clip = self.clips[number]
        with seeded(draw.seed):
            frames = self._choose_frames(first, len(lq_clip.frames))
            lqs, gts = self._crop(*self._read_sample(lq_clip, gt_clip, frames))
            images = augment([_as_float(image) for image in (*lqs, *gts)], self.use_hflip, self.use_rot)
        tensors = img2tensor(images)
        lq = torch.stack(tensors[: self.num_frame])
        if self.degradation is not None:  # after the flips, which would move the place of its pixels
            lq = bd_downsample(lq, self.degradation, self.scale)
        return {
            'lq': lq,
            'gt': torch.stack(tensors[self.num_frame :]),
            'key': f'{lq_clip.name}/{first:08d}',
        }

    def _choose_frames(self, first: int, length: int) -> list[int]:
        interval = random.choice([step for step in self.interval_list if self._span(step) <= length])
        latest = length - self._span(interval)
        if first > latest:
            first = random.randint(0, latest)
        frames = list(range(first, first + self._span(interval), interval))
        if self.random_reverse and random.random() < 0.5:
            frames.reverse()
        return frames

    def _read_sample(self, lq_clip: ClipInfo, gt_clip: ClipInfo, frames: list[int]) -> tuple[list, list]:
        gts = [self.gt.read(gt_clip.name, gt_clip.frames[i]) for i in frames]
        lqs = gts if self.lq is self.gt else [self.lq.read(lq_clip.name, lq_clip.frames[i]) for i in frames]
        for lq, gt, i in zip(lqs, gts, frames):
            lq_name, gt_name = (f'{clip.name}/{clip.frames[i]}' for clip in (lq_clip, gt_clip))
            check_scale(lq, gt, self.lq_scale, f'{lq_name} of {self.lq.root}', f'{gt_name} of {self.gt.root}')
            if lq.shape != lqs[0].shape:
                raise InputError(f'{lq_name} of {self.lq.root} has another size than the frames before it.')
        h, w = gts[0].shape[:2]
        if min(h, w) < self.gt_size:
            raise InputError(f'gt_size is {self.gt_size}, but the frames of clip {lq_clip.name} are {w}x{h}.')
        return lqs, gts

    def _crop(self, lqs: list, gts: list) -> tuple[list, list]:
        """The same random patch of all frames, while they are still uint8: converting whole frames costs more."""
        gts, lqs = paired_random_crop(gts, lqs, self.gt_size, self.lq_scale)
        # of a single frame the toolbox gives the bare image
        return (lqs, gts) if isinstance(lqs, list) else ([lqs], [gts])


def _as_float(image: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1], contiguous."""
    return image.astype(np.float32) / 255.0
