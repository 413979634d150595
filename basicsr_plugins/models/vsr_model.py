"""The model class for recurrent, sliding-window and single-image networks inside the toolbox's trainer.

It builds on the toolbox's `VideoRecurrentModel` and keeps its options. What is its own: validation on any device and
over any number of processes, EMA weights in it, images during training, metrics per clip on file, files written whole
or not at all, and a frozen flow network that stays frozen through a resume and under DDP.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr_plugins.errors import InputError, RunError, one_line
from basicsr_plugins.models.entries import flow_brought_by
from basicsr_plugins.models.network_spec import require_scale, spec_of, untrained_note
from basicsr_plugins.models.option_checks import check_files, check_network
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.models.training import MAX_SKIPPED, TrainingModel
from basicsr_plugins.option_agreement import CSV_COLUMNS
from basicsr_plugins.option_file import OWN_OPTIMIZER, TOOLBOX_TRAIN, check_model_options
from basicsr_plugins.option_schema import Key, Schema
from basicsr_plugins.refusals import refusing

BORDER_FRAMES = 2  # at each end, that do not count with `inner_frames`


@MODEL_REGISTRY.register()
class VSRModel(TrainingModel):
    """Trains, validates and tests networks of any kind: of sequences, of windows, of single images.

    See `network_spec.NetworkSpec` for the kinds. A network of windows trains on samples of its window length, and its
    output is compared with the GT of the centre frame; a network of single images trains on every frame of a sample.

    Args:
        opt: All options. Beside the toolbox's: `train: fix_flow` (iterations during which the flow network, and
            IconVSR's EDVR, stay as they are), `train: flow_lr_mul` (factor on their learning rate), `train:
            auxiliary_weights` (of the network's own losses, by name), `train: amp` (precision of the network), `train:
            checkpointing` (recompute steps instead of keeping what they compute), `train: compile`, `train: accumulate`
            (parts that a batch is computed in), `train: grad_clip` (bound of the gradients' norm), `train: max_skipped`
            (steps in a row without a finite loss and gradient that end training), `train: sharpen_gt` (compare with GT
            after unsharp masking, as RealBasicVSR does), `path: pretrain_network_vgg` (the file of `perceptual_opt`),
            `val: save_img` (also in training), `val: flip_seq`, `val: center_frame_only`, `val: inner_frames` (metrics
            without the first and the last two frames of a clip).

    Raises:
        InputError: If a key of `train`, `val`, `path` or `network_g` is unknown, a file does not load, `scale` is
            not the network's, or a metric cannot be computed on this machine.
    """

    more_networks: ClassVar[tuple[str, ...]] = ()
    takes_uint8 = True  # samples are flipped and scaled where the network is
    option_keys: ClassVar[Mapping[str, Schema]] = {  # all that it takes of these sections; `option_file` checks them
        'train': {
            **TOOLBOX_TRAIN,
            'optim_g': OWN_OPTIMIZER,
            'fix_flow': Key('count | None', low=0),
            'flow_lr_mul': Key('float', default=1, low=0),
            'auxiliary_weights': Key('dict | None', keys={'*': Key('float', low=0)}),
            'amp': Key('str | None', default='none', choices=('none', 'bfloat16', 'float16')),
            'accumulate': Key('int', default=1, low=1, high=65536),
            'checkpointing': Key('bool', default=False),
            'compile': Key('bool', default=False),
            'max_skipped': Key('int', default=MAX_SKIPPED, low=1),
            'grad_clip': Key('float | None', above=0),
            'sharpen_gt': Key('bool', default=False),
        },
        'val': {
            'val_freq': Key('count', low=1),
            'suffix': Key('name | None'),
            **dict.fromkeys(('pbar', 'flip_seq', 'center_frame_only', 'inner_frames'), Key('bool', default=False)),
        },
        'path': {
            'param_key_g': Key('str'),
            'strict_load_g': Key('bool', default=True),
            'pretrain_network_vgg': Key('str | None'),
            'ignore_resume_networks': Key('list[str] | None'),
        },
    }

    def __init__(self, opt: Mapping):
        check_model_options(type(self), opt)
        with flow_brought_by(opt['path'].get('pretrain_network_g')):
            super().__init__(opt)
        net = self.get_bare_model(self.net_g)
        check_network(opt, net)
        if hasattr(self, 'net_g_ema'):
            require_scale(self.net_g_ema, opt['scale'])  # it is set in each
        for note in untrained_note(net, opt['scale']):
            get_root_logger().warning(note)
        if not self.is_train and opt['path'].get('pretrain_network_g') is None and any(True for _ in net.parameters()):
            get_root_logger().warning('path: pretrain_network_g is not set: this tests a network with random weights.')

    @classmethod
    def check_options(cls, opt: Mapping, net: torch.nn.Module) -> None:
        """Refuse what the options ask of the network that they name and it cannot do (`option_file.check_parts`).

        Raises:
            OptionError: Naming the key.
        """
        check_files(opt['path'], 'network_g', *cls.more_networks)
        check_network(opt, net)

    # ---------------------------------------------------------------- validation and test

    def test(self) -> None:
        """Restore the clip in `self.lq`, (1, t, 3, h, w), into `self.output`, with the EMA weights if there are any."""
        frames = list(self.restore(self.lq[0]))
        if self.opt['val'].get('center_frame_only', False):
            frames = frames[len(frames) // 2 : len(frames) // 2 + 1]
        self.output = torch.stack(frames).unsqueeze(0)

    @torch.no_grad()
    def restore(self, frames: Sequence[Tensor], padding: str = 'reflection_circle') -> Iterator[Tensor]:
        """As `restoration.restore_frames`, with the EMA weights if there are any."""
        # the bare network: DDP's forward talks to the other processes, and those may have fewer clips
        net = self.get_bare_model(getattr(self, 'net_g_ema', self.net_g))
        net.eval()
        try:
            with refusing(f'{type(net).__name__} does not restore a clip of {len(frames)} frames', type(net)):
                yield from restore_frames(net, frames, padding, self.opt['val'].get('flip_seq', False))
        finally:
            self.net_g.train(self.is_train)

    def nondist_validation(
        self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """The same as over several processes, which this is with one."""
        self.dist_validation(dataloader, current_iter, tb_logger, save_img)

    def dist_validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Restore every clip, each on one process; log metrics of each clip and their average; save images if asked.

        Args:
            dataloader: Its `dataset` gives whole clips: `lq`, optionally `gt`, `folder`, optionally `frames`.
            current_iter: For the log and file names; in a test the experiment's name.
            tb_logger: TensorBoard writer, or None.
            save_img: Whether to write the restored frames as PNG.
        """
        dataset = dataloader.dataset
        rank, world_size = get_dist_info()
        if self.is_train:  # the trainer counts on past its last iteration before it validates a last time
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        self.metric_results = {}  # clip -> (t, number of metrics)
        numbers = tqdm(range(rank, len(dataset), world_size), unit='clip', desc=dataset.opt['name'], disable=rank != 0)
        for number in numbers:
            clip = dataset.clip(number) if hasattr(dataset, 'clip') else dataset[number]
            self._validate_clip(clip, dataset.opt, current_iter, save_img)
        if world_size > 1:
            gathered = [None] * world_size
            dist.all_gather_object(gathered, self.metric_results)
            self.metric_results = {clip: values for results in gathered for clip, values in results.items()}
        if rank == 0 and not self.metric_results and (self.opt['val'].get('metrics') or {}):
            get_root_logger().warning(f'{dataset.opt["name"]} has no GT: no metrics are computed.')
        if rank == 0 and self.metric_results:
            self.metric_results = dict(sorted(self.metric_results.items()))
            self._log_metrics(current_iter, dataset.opt['name'], tb_logger)

    def _validate_clip(self, clip: Mapping, dataset_opt: Mapping, current_iter: int | str, save_img: bool) -> None:
        """Restore a clip frame after frame; each is measured and written before the next one is made."""
        lqs, gts = clip['lq'], clip.get('gt')
        if isinstance(gts, Tensor) and gts.dim() == 3:
            raise InputError(
                f'datasets: {dataset_opt["name"]}: clips with GT of the centre frame only cannot be measured here; '
                'VSRTestDataset reads whole clips.'
            )
        num_frame = self._check_length(clip, dataset_opt)
        names = clip.get('frames') or ()
        if len(names) != num_frame:
            names = [f'{i:08d}' for i in range(num_frame)]
        metrics = self.opt['val'].get('metrics') or {}
        center_only = self.opt['val'].get('center_frame_only', False)
        counted = range(num_frame)
        if self.opt['val'].get('inner_frames', False):
            counted = counted[BORDER_FRAMES:-BORDER_FRAMES]
            if not counted:
                raise InputError(
                    f'val: inner_frames: none of the {num_frame} frames of {clip["folder"]} is left without the first '
                    'and the last two.'
                )
        values = []  # for each frame its metrics
        previous = None
        for i, output in enumerate(self.restore(lqs, dataset_opt.get('padding') or 'reflection_circle')):
            if center_only and i != num_frame // 2:
                continue
            image = tensor2img(output)  # (s * h, s * w, 3), BGR, uint8
            if save_img:
                path = self._image_path(dataset_opt['name'], clip['folder'], names[i], current_iter)
                try:
                    imwrite(image, str(path))
                except OSError as error:
                    raise RunError(
                        f'val: save_img: {path} cannot be written ({one_line(error)}); is the disk full?'
                    ) from error
            if gts is not None and metrics and i in counted:
                pair = image, tensor2img(gts[i])
                values.append([frame_metric(pair, previous, metric_opt) for metric_opt in metrics.values()])
                previous = pair
        if values:
            self.metric_results[clip['folder']] = torch.tensor(values, dtype=torch.float64)
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _check_length(self, clip: Mapping, dataset_opt: Mapping) -> int:
        """How many frames are made of a clip; GT, where it is there, must have as many."""
        spec = spec_of(self.get_bare_model(self.net_g))
        num_frame, gts = spec.num_output(len(clip['lq'])), clip.get('gt')
        if gts is not None and len(gts) != num_frame:
            raise InputError(
                f'datasets: {dataset_opt["name"]}: {spec.name} makes {num_frame} frames of the {len(clip["lq"])} of '
                f'{clip["folder"]}, but there are {len(gts)} of GT; set lq_interval to {spec.time_scale}.'
            )
        return num_frame

    def _image_path(self, dataset_name: str, clip: str, frame: str, current_iter: int | str) -> Path:
        suffix = current_iter if self.is_train else self.opt['val'].get('suffix') or self.opt['name']
        return Path(self.opt['path']['visualization']) / dataset_name / clip / f'{frame}_{suffix}.png'

    def _log_metrics(self, current_iter: int | str, dataset_name: str, tb_logger) -> None:
        """Log, and write to `metrics.csv` beside the log, the mean over each clip's frames and the mean of those."""
        names = list(self.opt['val']['metrics'])
        rows = {clip: values.nanmean(dim=0).tolist() for clip, values in self.metric_results.items()}
        rows['average'] = torch.tensor(list(rows.values()), dtype=torch.float64).mean(dim=0).tolist()

        self._initialize_best_metric_results(dataset_name)
        text = f'Validation {dataset_name}\n'
        for column, name in enumerate(names):
            self._update_best_metric_result(dataset_name, name, rows['average'][column], current_iter)
            best = self.best_metric_results[dataset_name][name]
            text += f'\t # {name}: {rows["average"][column]:.4f}\tBest: {best["val"]:.4f} @ {best["iter"]} iter\n'
            text += ''.join(f'\t\t # {clip}: {row[column]:.4f}\n' for clip, row in rows.items() if clip != 'average')
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset_name}/{name}', rows['average'][column], current_iter)
                for clip, row in rows.items():
                    if clip != 'average':
                        tb_logger.add_scalar(f'metrics/{dataset_name}/{name}/{clip}', row[column], current_iter)
        get_root_logger().info(text)

        path = Path(self.opt['path']['log']) / 'metrics.csv'
        header = [*CSV_COLUMNS, *names]
        if path.exists() and _first_row(path) != header:
            path.replace(path.with_name(f'metrics_before_{current_iter}.csv'))  # resumed with other metrics
        is_new = not path.exists()
        with open(path, 'a', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(header)
            writer.writerows(
                [dataset_name, current_iter, clip, *(f'{value:.6f}' for value in row)] for clip, row in rows.items()
            )


def _first_row(path: Path) -> list[str] | None:
    with open(path, newline='', encoding='utf-8') as file:
        return next(csv.reader(file), None)


def frame_metric(pair: tuple, previous: tuple | None, metric_opt: Mapping) -> float:
    """A metric of a restored frame and its GT.

    Args:
        pair: The restored frame and its GT, (s * h, s * w, 3), BGR, uint8.
        previous: The same of the frame before; None at the first one, where metrics of motion are NaN.
        metric_opt: `type` and arguments, as in an option file.

    Raises:
        InputError: If it is no number, or a metric of the toolbox or of this package does not take these frames.
    """
    image, gt = pair
    name = metric_opt['type']
    if getattr(METRIC_REGISTRY.get(name), 'needs_frame_pairs', False):
        if previous is None:
            return math.nan
        image, gt = np.stack([previous[0], image]), np.stack([previous[1], gt])
    h, w = gt.shape[-3:-1]
    with refusing(f'val: metrics: {name} is not computed of a frame of {w}x{h}', METRIC_REGISTRY.get(name)):
        value = float(calculate_metric({'img': image, 'img2': gt}, metric_opt))
    if math.isnan(value):
        raise InputError(f'val: metrics: {name} of a frame of {w}x{h} is no number; is crop_border too large for it?')
    return value
