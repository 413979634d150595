"""Training samples for recurrent networks: runs of consecutive frames, cropped and flipped alike.

Shape shorthand: t frames, p the LQ patch size (`gt_size / scale`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Union

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, Sampler

from basicsr_plugins.data.any_scale import BICUBIC, SCALE_RANGE_KEYS, ScaleRange
from basicsr_plugins.data.augmentation import FRAMES, choose_flips, to_floats
from basicsr_plugins.data.clips import IO_BACKEND, check_sizes, paired_clips, val_clip_names
from basicsr_plugins.data.frame_formats import DecodedFrame, StoredFrame
from basicsr_plugins.data.meta_info import ClipInfo
from basicsr_plugins.data.sampling import SeededIndex, SeededSampler, seeded
from basicsr_plugins.data.sections import open_sources, read_patches
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_file import check_dataset_options
from basicsr_plugins.option_schema import Key, OptionError, Schema, located
from basicsr_plugins.scales import Size

Frame = Union[StoredFrame, DecodedFrame]
DEGRADATION = 4  # begins the seed of a sample's degradation


@DATASET_REGISTRY.register()
class VSRTrainDataset(Dataset):
    """REDS, or any folder or LMDB of clips, for training recurrent networks.

    Takes the options of the toolbox's `REDSRecurrentDataset`, with clips of any length. Every frame of every clip is an
    item; the run of frames starts there, or at a random place of the clip where it would not fit.

    Args:
        opt: The section `datasets.train`. Keys:
            dataroot_gt, dataroot_lq (str): Folders of clips, or LMDBs.
            degradation (str | list[dict], optional): Instead of `dataroot_lq`: make the LQ patches of the GT patches,
                which may then lie at any pixel: a convention of `data.bd_lr` (not rounded to 8 bits), a preset or a
                list of steps of `data.degradation`, or bicubic.
            degradation_prob (float, optional): Share of the samples that are degraded; the others are MATLAB's
                bicubic, of 8 bits. Default: 1.
            io_backend (dict): `type: disk` or `type: lmdb`; the layout of an LMDB is found out.
            meta_info_file (str, optional): Lines `000 100 (720,1280,3)`; without it, the LMDB's own meta_info.txt or
                the folders say which clips there are.
            val_partition (str | list[str], optional): Clips kept out of training: REDS4, official, a list, or none.
            test_mode (bool, optional): Take only those clips instead.
            num_frame (int): Frames in a sample.
            gt_size (int): Side of the GT patch, in pixels, divisible by `scale`; with `scale_range` of the crop of it.
            scale_range (list[float], optional): The least and the greatest factor, of which each sample has its own;
                for networks of any scale. LQ patches are made of GT, by the `degradation` `bicubic` (the default: it is
                what LR files and films are like) or `bicubic_aliased`; see `data.any_scale`.
            same_scale (bool, optional): Whether that is one for height and width. Default: false.
            lq_size (int, optional): Side of the LQ patch with `scale_range`. Default: `gt_size`.
            interval_list (list[int], optional): Steps between frames, one chosen for each sample. Default: [1].
            random_reverse (bool, optional): Reverse half of the samples in time. Default: false.
            mirror (bool, optional): Let the clip run back after its end, x and reversed x: twice as many frames, of
                which `degradation` makes each anew. Default: false.
            lq_interval (int, optional): LQ has every n-th frame of the sample, from the first to the last; for
                networks that make the frames between. Default: 1.
            use_hflip, use_rot (bool): Flips; rotation by flips and transposition.
            uint8 (bool, optional): Leave flips and scaling to the model, which `to_device_samples` does on its device;
                the values are the same. Default: false, which any model of the toolbox takes.
            scale (int): Added by the toolbox.

    Raises:
        InputError: If a key is unknown, missing or impossible, or the data do not fit it.
    """

    option_keys: ClassVar[Schema] = {  # beside those of every dataset and of the loader; `option_file` checks them
        'dataroot_gt': Key('str', required=True),
        'dataroot_lq': Key('str | None'),
        'degradation': Key('str | list[dict] | None'),
        'degradation_prob': Key('float', default=1, low=0, high=1),
        'io_backend': IO_BACKEND,
        'meta_info_file': Key('str | None'),
        'val_partition': Key('str | list[str] | None'),
        'test_mode': Key('bool', default=False),
        'num_frame': Key('int', required=True, low=1, high=10000),
        'gt_size': Key('int', required=True, low=1, high=65536),
        'interval_list': Key('list[int]', default=[1], low=1, high=10000),
        'random_reverse': Key('bool', default=False),
        'mirror': Key('bool', default=False),
        'lq_interval': Key('int', default=1, low=1, high=10000),
        'uint8': Key('bool', default=False),
        **dict.fromkeys(('use_hflip', 'use_rot'), Key('bool', required=True)),
        **SCALE_RANGE_KEYS,
    }

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "train")}'
        check_dataset_options(type(self), opt)
        _check_agreement(where, opt)
        self.num_frame, self.gt_size = opt['num_frame'], opt['gt_size']
        self.scale_range, self.make_lq = None, None
        if opt.get('scale_range') is None:
            self.largest = self.gt_size
            self.scale, self.make_lq = read_patches(where, opt)
        else:
            opt = {**opt, 'degradation': opt.get('degradation') or BICUBIC[0]}
            with located('scale_range'):
                self.scale_range = ScaleRange(where, opt)
            self.largest, self.scale = self.scale_range.largest, opt['scale']
        self.opt = opt
        self.interval_list = list(opt.get('interval_list', [1]))
        self.random_reverse = opt.get('random_reverse', False)
        self.use_hflip, self.use_rot = opt['use_hflip'], opt['use_rot']
        self.mirror = opt.get('mirror', False)
        self.lq_interval = opt.get('lq_interval', 1)
        self.uint8 = opt.get('uint8', False)

        self.lq, self.gt = open_sources(where, opt)
        self.lq_scale = self.scale
        if self.lq is None:  # LQ is made of GT
            self.lq, self.lq_scale = self.gt, 1
        self.clips = self._long_enough(self._partition(where), where)
        self._open_pair(*self.clips[0], 0)  # sizes that do not fit stop here, not in the loader
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

    def make_sampler(self, sampler: Sampler, batch_size: int, seed: int) -> SeededSampler:
        """Give every sample a seed of its own; `build_dataloader` asks for it."""
        return SeededSampler(sampler, seed, batch_size, self.opt.get('resume'))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: SeededIndex | int) -> dict:
        """One sample.

        Args:
            item: An item and the seed of its random choices; a bare index has a seed of its own.

        Returns:
            `lq`: (t, 3, p, p); `gt`: (t, 3, scale * p, scale * p); both RGB, float32 in [0, 1]. `key`: `clip/number` of
            the item, as the toolbox has it. With `scale_range` as `ScaleRange.make_sample` says. With `uint8: true`,
            `lq` and `gt` are uint8 and not yet flipped, and `flips` says what `to_device_samples` has to do. With
            `mirror: true`, 2 * t frames.
        """
        if not isinstance(item, SeededIndex):
            item = SeededIndex(item, (item,))
        number, first = self.items[item.index]
        lq_clip, gt_clip = self.clips[number]
        with seeded(item.seed):
            frames = self._choose_frames(first, len(lq_clip.frames))
            size, at = self.scale_range.choose() if self.scale_range else ((self.gt_size, self.gt_size), None)
            sample = self._read_patches(lq_clip, gt_clip, frames, size)
            flips = choose_flips(self.use_hflip, self.use_rot)
        if self.mirror:
            sample = {key: torch.cat((value, value.flip(0))) for key, value in sample.items()}
        if 'lq' in sample:
            sample['lq'] = sample['lq'][:: self.lq_interval]
        sample['key'] = f'{lq_clip.name}/{first:08d}'
        if self.uint8:
            return {**sample, 'flips': flips}
        sample = {key: to_floats(value, flips) if key in FRAMES else value for key, value in sample.items()}
        if self.scale_range is not None:
            return {**sample, **self.scale_range.make_sample(sample['gt'], self.opt['degradation'], at)}
        if self.make_lq is not None:  # after the flips, which would move the place of its pixels
            lq = self.make_lq(sample['gt'], np.random.default_rng([DEGRADATION, *item.seed]))
            sample['lq'] = lq[:: self.lq_interval]
        return sample

    def _choose_frames(self, first: int, length: int) -> list[int]:
        interval = random.choice([step for step in self.interval_list if self._span(step) <= length])
        latest = length - self._span(interval)
        if first > latest:
            first = random.randint(0, latest)
        frames = list(range(first, first + self._span(interval), interval))
        if self.random_reverse and random.random() < 0.5:
            frames.reverse()
        return frames

    def _read_patches(self, lq_clip: ClipInfo, gt_clip: ClipInfo, frames: list[int], size: Size) -> dict:
        """`lq` and `gt` of a sample, uint8: the same random patch of all frames; with `degradation` GT alone.

        `size` is that of the GT patch.
        """
        height, width = (side // self.lq_scale for side in size)
        lqs = np.empty((len(frames), 3, height, width), np.uint8)
        gts = np.empty((len(frames), 3, *size), np.uint8)
        shape = None
        for i, lq_patch, gt_patch in zip(frames, lqs, gts):
            lq, gt = self._open_pair(lq_clip, gt_clip, i)
            if shape is None:
                shape = h, w = lq.shape[:2]
                top, left = random.randint(0, h - height), random.randint(0, w - width)
            elif lq.shape[:2] != shape:
                raise InputError(f'{self._names(lq_clip, gt_clip, i)[0]} has another size than the frames before it.')
            gt.copy_patch(top * self.lq_scale, left * self.lq_scale, gt_patch)
            if lq is not gt:
                lq.copy_patch(top, left, lq_patch)
        sample = {'gt': torch.from_numpy(gts)}
        return sample if self.lq is self.gt else {'lq': torch.from_numpy(lqs), **sample}

    def _open_pair(self, lq_clip: ClipInfo, gt_clip: ClipInfo, i: int) -> tuple[Frame, Frame]:
        gt = self.gt.open(gt_clip.name, gt_clip.frames[i])
        lq = gt if self.lq is self.gt else self.lq.open(lq_clip.name, lq_clip.frames[i])
        check_sizes(lq, gt, self.lq_scale, *self._names(lq_clip, gt_clip, i))
        h, w = gt.shape[:2]
        if min(h, w) < self.largest:
            largest = 'gt_size is' if self.scale_range is None else 'scale_range gives patches of up to'
            raise InputError(f'{largest} {self.largest}, but the frames of clip {lq_clip.name} are {w}x{h}.')
        return lq, gt

    def _names(self, lq_clip: ClipInfo, gt_clip: ClipInfo, i: int) -> tuple[str, str]:
        return (
            f'{lq_clip.name}/{lq_clip.frames[i]} of {self.lq.root}',
            f'{gt_clip.name}/{gt_clip.frames[i]} of {self.gt.root}',
        )


def _check_agreement(where: str, opt: Mapping) -> None:
    """Refuse keys that are possible, each, but not together."""
    any_scale, degradation = opt.get('scale_range') is not None, opt.get('degradation')
    interval = opt.get('lq_interval', 1)
    reasons = {}
    if any_scale:
        if interval > 1:
            reasons['lq_interval'] = 'lq_interval is not for scale_range.'
        if opt.get('dataroot_lq') is not None:
            reasons['dataroot_lq'] = 'scale_range makes the LQ frames of the GT; leave dataroot_lq out.'
        if degradation not in (None, *BICUBIC):
            known = ' or '.join(BICUBIC)
            reasons['degradation'] = f'with scale_range degradation may be {known}, but is {degradation!r}.'
        if opt.get('degradation_prob', 1) < 1:
            reasons['degradation_prob'] = 'degradation_prob is not for scale_range.'
    else:
        for key in ('lq_size', 'same_scale'):
            if opt.get(key) is not None:
                reasons[key] = f'{key} is for scale_range, which is not there.'
    if 'lq_interval' not in reasons and (opt['num_frame'] * (2 if opt.get('mirror', False) else 1) - 1) % interval:
        reasons['lq_interval'] = f'a sample that has LQ of every {interval}. frame must end with one.'
    if opt.get('uint8', False) and (any_scale or degradation is not None):
        reasons['uint8'] = 'degradation gives LQ patches that are not rounded; leave uint8 out.'
    for key, reason in reasons.items():
        raise OptionError(f'{where}: {reason}', (key,))
