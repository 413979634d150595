"""Whole clips for validation and test.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from basicsr_plugins.data.clips import ClipReader, check_io_backend, check_scale, paired_clips, val_clip_names
from basicsr_plugins.data.meta_info import ClipInfo
from basicsr_plugins.errors import InputError, check_keys

REQUIRED_KEYS = ['name', 'type', 'phase', 'scale', 'dataroot_lq', 'io_backend']  # phase, scale: added by the toolbox
# `num_frame` and `padding` stand in the toolbox's option files: whole clips need neither
OPTIONAL_KEYS = (
    'dataroot_gt',
    'meta_info_file',
    'val_partition',
    'cache_data',
    'num_frame',
    'padding',
    'pin_memory',
    'persistent_workers',
    'prefetch_mode',
    'num_prefetch_queue',
)


@DATASET_REGISTRY.register()
class VSRTestDataset(Dataset):
    """Any folder or LMDB of clips, under any name, with or without GT. One item is a whole clip.

    Args:
        opt: A section `datasets.val` or `datasets.test`. Keys:
            dataroot_lq (str), dataroot_gt (str, optional): Folders of clips, or LMDBs.
            io_backend (dict): `type: disk` or `type: lmdb`.
            meta_info_file (str, optional): The clips to take; default: all.
            val_partition (str | list[str], optional): Only these of them: REDS4, official, a list, or none for all.
            cache_data (bool, optional): Decode all clips once, at start, and keep them in memory (uint8); otherwise a
                clip is read when it is its turn. Default: false.
            scale (int): Added by the toolbox.

    Raises:
        InputError: If a key is unknown, missing or impossible, or the data do not fit it.
    """

    def __init__(self, opt: Mapping):
        where = f'datasets: {opt.get("name", "test")}'
        check_keys(where, opt, REQUIRED_KEYS, OPTIONAL_KEYS)
        check_io_backend(where, opt['io_backend'])
        self.opt = opt
        self.scale = opt['scale']
        gt_root = opt.get('dataroot_gt')
        self.lq = ClipReader(opt['dataroot_lq'], opt['io_backend'], f'{where}: dataroot_lq')
        self.gt = ClipReader(gt_root, opt['io_backend'], f'{where}: dataroot_gt') if gt_root is not None else None

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
                self.cache[index] = self._read(index)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        """One clip.

        Returns:
            `lq`: (t, 3, h, w); `gt`, where there is GT: (t, 3, s * h, s * w); both RGB in [0, 1]. `folder`: the clip's
            name. `frames`: the stems of its frames' names.
        """
        lq_clip, _ = self.clips[index]
        lqs, gts = self.cache[index] if index in self.cache else self._read(index)
        item = {
            'lq': _to_tensor(lqs),
            'folder': lq_clip.name,
            'frames': [PurePath(frame).stem for frame in lq_clip.frames],
        }
        if gts is not None:
            item['gt'] = _to_tensor(gts)
        return item

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """LQ and GT frames of a clip, each (t, h, w, 3), BGR, uint8."""
        lq_clip, gt_clip = self.clips[index]
        return _read_clip(self.lq, lq_clip), None if self.gt is None else _read_clip(self.gt, gt_clip)

    def _check_first_frame(self, index: int) -> None:
        if self.gt is None:
            return
        lq_clip, gt_clip = self.clips[index]
        check_scale(
            self.lq.read(lq_clip.name, lq_clip.frames[0]),
            self.gt.read(gt_clip.name, gt_clip.frames[0]),
            self.scale,
            f'{lq_clip.name}/{lq_clip.frames[0]} of {self.lq.root}',
            f'{gt_clip.name}/{gt_clip.frames[0]} of {self.gt.root}',
        )


def _read_clip(reader: ClipReader, clip: ClipInfo) -> np.ndarray:
    """(t, h, w, 3), BGR, uint8; the frames must have one size."""
    frames = []
    for frame in clip.frames:
        image = reader.read(clip.name, frame)
        if frames and image.shape != frames[0].shape:
            raise InputError(f'{clip.name}/{frame} of {reader.root} has another size than the frames before it.')
        frames.append(image)
    return np.stack(frames)


def _to_tensor(frames: np.ndarray) -> Tensor:
    """(t, h, w, 3), BGR, uint8 -> (t, 3, h, w), RGB in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames[..., ::-1])).permute(0, 3, 1, 2).float() / 255.0
