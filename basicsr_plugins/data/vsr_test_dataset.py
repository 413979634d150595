"""Whole clips for validation and test.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import ClassVar

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from basicsr_plugins.data.any_scale import BICUBIC, CroppedReader
from basicsr_plugins.data.bd_lr import CONVENTIONS, DegradedReader
from basicsr_plugins.data.clips import IO_BACKEND, ClipReader, check_sizes, paired_clips, val_clip_names
from basicsr_plugins.data.meta_info import ClipInfo
from basicsr_plugins.data.sections import open_sources
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_file import check_dataset_options
from basicsr_plugins.option_schema import Key, Schema, located


@DATASET_REGISTRY.register()
class VSRTestDataset(Dataset):
    """Any folder or LMDB of clips, under any name, with or without GT. One item is a whole clip.

    Args:
        opt: A section `datasets.val` or `datasets.test`. Keys:
            dataroot_lq (str), dataroot_gt (str, optional): Folders of clips, or LMDBs.
            degradation (str, optional): Instead of `dataroot_lq`: make the LQ frames of the GT, by bicubic of any scale
                (`data.any_scale`) or a convention of `data.bd_lr`. GT is cropped to the scaled size of LQ.
            io_backend (dict): `type: disk` or `type: lmdb`; the layout of an LMDB is found out.
            meta_info_file (str, optional): The clips to take; default: all.
            val_partition (str | list[str], optional): Only these of them: REDS4, official, a list, or none for all.
            lq_interval (int, optional): LQ has every n-th frame, for networks that make the frames between; GT
                ends with the last of LQ. Default: 1.
            cache_data (bool, optional): Decode all clips once, at start, and keep them in memory (uint8); otherwise a
                frame is read when it is its turn. Default: false.
            padding (str, optional): How sliding-window networks go on beyond the ends of a clip: `replicate`,
                `reflection`, `reflection_circle` (the default) or `circle`.
            scale (float | list[float]): Added by the toolbox; a factor, or two, vertical and horizontal. GT has the
                scaled size of LQ (`scales.scaled_size`).

    Raises:
        InputError: If a key is unknown, missing or impossible, or the data do not fit it.
    """

    option_keys: ClassVar[Schema] = {  # beside those of every dataset and of the loader; `option_file` checks them
        **dict.fromkeys(('dataroot_lq', 'dataroot_gt'), Key('str | None')),
        'degradation': Key('str | None', choices=(*BICUBIC, *CONVENTIONS), noun='degradation'),
        'io_backend': IO_BACKEND,
        'meta_info_file': Key('str | None'),
        'val_partition': Key('str | list[str] | None'),
        'lq_interval': Key('int', default=1, low=1, high=10000),
        'cache_data': Key('bool', default=False),
        'padding': Key('str | None', choices=('replicate', 'reflection', 'reflection_circle', 'circle')),
    }

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "test")}'
        if 'num_frame' in opt:  # it stands in the toolbox's option files
            raise InputError(f'{where}: num_frame has no meaning here, clips are tested whole; leave it out.')
        check_dataset_options(type(self), opt)
        self.opt = opt
        self.scale, self.lq_interval = opt['scale'], opt.get('lq_interval', 1)
        self.lq, self.gt = open_sources(where, opt)
        if self.lq is None:
            self.gt = CroppedReader(self.gt, self.scale)
            with located('degradation'):
                self.lq = DegradedReader(self.gt, opt['degradation'], self.scale)
        self.clips = paired_clips(self.lq, self.gt, opt.get('meta_info_file'))
        wanted = val_clip_names(where, opt.get('val_partition'), [lq.name for lq, _ in self.clips])
        if wanted:
            self.clips = [pair for pair in self.clips if pair[0].name in wanted]
            missing = sorted(set(wanted) - {lq.name for lq, _ in self.clips})
            if missing:
                raise InputError(f'{where}: {self.lq.root} lacks clip {missing[0]} of val_partition.')
        for index in range(len(self.clips)):  # not at the first validation, hours later
            self._check_first_frame(index)
        # one entry for each frame, as the toolbox's video models read it
        self.data_info = {'folder': [lq.name for lq, _ in self.clips for _ in lq.frames]}

        self.cache = {}
        if opt.get('cache_data', False):
            get_root_logger().info(f'{opt["name"]}: keeping {len(self.clips)} clips in memory.')
            for index in tqdm(range(len(self.clips)), unit='clip', desc=f'Read {opt["name"]}'):
                lqs, gts = self._frames(index)
                self.cache[index] = lqs.keep(), None if gts is None else gts.keep()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        """One whole clip.

        Returns:
            As `clip`, with `lq` and `gt` as tensors (t, 3, h, w) and (t, 3, s * h, s * w).
        """
        item = self.clip(index)
        return {key: torch.stack(list(value)) if key in ('lq', 'gt') else value for key, value in item.items()}

    def clip(self, index: int) -> dict:
        """One clip, whose frames are read when they are asked for.

        Returns:
            `lq`: t frames (3, h, w); `gt`, where there is GT: t frames (3, s * h, s * w), with `lq_interval` those
            between too; both `ClipFrames`, RGB in [0, 1]. `folder`: the clip's name. `frames`: the stems of its frames'
            names.
        """
        lqs, gts = self.cache[index] if index in self.cache else self._frames(index)
        lq_clip, _ = self.clips[index]
        names = [PurePath(frame).stem for frame in self._made(lq_clip).frames]
        item = {'lq': lqs, 'folder': lq_clip.name, 'frames': names}
        if gts is not None:
            item['gt'] = gts
        return item

    def _frames(self, index: int) -> tuple[ClipFrames, ClipFrames | None]:
        lq_clip, gt_clip = self.clips[index]
        lqs = ClipFrames(self.lq, lq_clip._replace(frames=lq_clip.frames[:: self.lq_interval]))
        return lqs, None if self.gt is None else ClipFrames(self.gt, self._made(gt_clip))

    def _made(self, clip: ClipInfo) -> ClipInfo:
        """The frames up to the last that LQ has."""
        return clip._replace(frames=clip.frames[: (len(clip.frames) - 1) // self.lq_interval * self.lq_interval + 1])

    def _check_first_frame(self, index: int) -> None:
        if self.gt is None:
            return
        lq_clip, gt_clip = self.clips[index]
        check_sizes(
            self.lq.open(lq_clip.name, lq_clip.frames[0]),
            self.gt.open(gt_clip.name, gt_clip.frames[0]),
            self.scale,
            f'{lq_clip.name}/{lq_clip.frames[0]} of {self.lq.root}',
            f'{gt_clip.name}/{gt_clip.frames[0]} of {self.gt.root}',
        )


class ClipFrames(Sequence):
    """The frames of a clip, (3, h, w) each, RGB in [0, 1]; read when they are asked for, or kept in memory (uint8).

    Args:
        reader: Reads them.
        clip: The clip.

    Raises:
        InputError: By reading a frame that is missing or damaged, or has another size than the first one read.
    """

    def __init__(self, reader: ClipReader, clip: ClipInfo):
        self.reader = reader
        self.info = clip
        self.shape = None
        self.images = None

    def __len__(self) -> int:
        return len(self.info.frames)

    def __getitem__(self, i: int) -> Tensor:
        image = self._read(i) if self.images is None else self.images[i]
        return torch.from_numpy(image).float() / 255.0

    def keep(self) -> ClipFrames:
        """Read all frames and keep them."""
        self.images = [self._read(i) for i in range(len(self))]
        return self

    def _read(self, i: int) -> np.ndarray:
        """(3, h, w), RGB, uint8."""
        frame = self.info.frames[i]
        image = self.reader.open(self.info.name, frame).whole()
        self.shape = self.shape or image.shape
        if image.shape != self.shape:
            raise InputError(
                f'{self.info.name}/{frame} of {self.reader.root} has another size than the frames before it.'
            )
        return image
