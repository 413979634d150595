"""The model class for recurrent, sliding-window and single-image networks inside the toolbox's trainer.

It builds on the toolbox's `VideoRecurrentModel` and keeps its options. What is its own: validation on any device and
over any number of processes, EMA weights in it, images during training, metrics per clip on file, files written whole
or not at all, and a frozen flow network that stays frozen through a resume and under DDP.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

import csv
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info, master_only
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from basicsr_plugins.errors import InputError, check_keys, one_line
from basicsr_plugins.models.networks import check_network_options, save_checkpoint
from basicsr_plugins.models.network_spec import fit_scale, spec_of
from basicsr_plugins.models.restoration import prepare_sample, restore_frames

TRAIN_KEYS = (
    'ema_decay',
    'optim_g',
    'scheduler',
    'total_iter',
    'warmup_iter',
    'fix_flow',
    'flow_lr_mul',
    'pixel_opt',
    'perceptual_opt',
)
PATH_KEYS = (
    'pretrain_network_g',
    'param_key_g',
    'strict_load_g',
    'resume_state',
    'ignore_resume_networks',
    # added by the toolbox
    'experiments_root',
    'results_root',
    'models',
    'training_states',
    'log',
    'visualization',
)
VAL_KEYS = ['val_freq', 'save_img', 'metrics', 'pbar', 'suffix', 'flip_seq', 'center_frame_only', 'inner_frames']
BORDER_FRAMES = 2  # at each end, that do not count with `inner_frames`


@MODEL_REGISTRY.register()
class VSRModel(VideoRecurrentModel):
    """Trains, validates and tests networks of any kind: of sequences, of windows, of single images.

    See `network_spec.NetworkSpec` for the kinds. A network of windows trains on samples of its window length, and its
    output is compared with the GT of the centre frame; a network of single images trains on every frame of a sample.

    Args:
        opt: All options. Beside the toolbox's: `train: fix_flow` (iterations during which the flow network, and
            IconVSR's EDVR, stay as they are), `train: flow_lr_mul` (factor on their learning rate), `val: save_img`
            (also in training), `val: flip_seq`, `val: center_frame_only`, `val: inner_frames` (metrics without the first
            and the last two frames of a clip).

    Raises:
        InputError: If a key of `train`, `val`, `path` or `network_g` is unknown, a file does not load, or `scale` is
            not the network's.
    """

    def __init__(self, opt: Mapping):
        check_network_options('network_g', opt.get('network_g') or {})
        if opt['is_train']:
            check_keys('train', opt['train'], ['optim_g', 'scheduler', 'total_iter'], TRAIN_KEYS)
        if opt.get('val') is not None:
            check_keys('val', opt['val'], ['val_freq', 'save_img'] if opt['is_train'] else ['save_img'], VAL_KEYS)
        check_keys('path', opt['path'], [], PATH_KEYS)
        super().__init__(opt)
        for name in ('net_g', 'net_g_ema'):
            if hasattr(self, name):
                fit_scale(self.get_bare_model(getattr(self, name)), opt.get('scale'))
        net = self.get_bare_model(self.net_g)
        spec = spec_of(net)
        if spec.scale not in (None, opt.get('scale')):
            raise InputError(f'scale is {opt.get("scale")}, but {spec.name} upscales by {spec.scale}.')
        if not self.is_train and opt['path'].get('pretrain_network_g') is None and any(True for _ in net.parameters()):
            get_root_logger().warning('path: pretrain_network_g is not set: this tests a network with random weights.')

    # ---------------------------------------------------------------- networks and their files

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As the toolbox's; a network without parameters, like `Bicubic`, has nothing to distribute."""
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net.to(self.device)
        return super().model_to_device(net)

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """As the toolbox's; a file that is missing, damaged or another network's stops with one sentence."""
        if not Path(load_path).is_file():
            raise InputError(f'path: pretrain_network_g: there is no file {load_path}.')
        try:
            super().load_network(net, load_path, strict, param_key)
        except Exception as error:
            name = type(self.get_bare_model(net)).__name__
            raise InputError(f'{load_path} does not load into {name} ({one_line(error)[:300]}).') from error

    @master_only
    def save_network(self, net, net_label, current_iter, param_key='params'):
        """Write `models/{net_label}_{current_iter}.pth`, whole or not at all; a failure stops the run."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        label = 'latest' if current_iter == -1 else current_iter
        weights = {
            key: OrderedDict((name, value.cpu()) for name, value in self.get_bare_model(one).state_dict().items())
            for key, one in zip(keys, nets)
        }
        save_checkpoint(weights, Path(self.opt['path']['models']) / f'{net_label}_{label}.pth')

    @master_only
    def save_training_state(self, epoch, current_iter):
        """Write `training_states/{current_iter}.state`, whole or not at all; a failure stops the run."""
        if current_iter == -1:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
        }
        save_checkpoint(state, Path(self.opt['path']['training_states']) / f'{current_iter}.state')

    def resume_training(self, resume_state):
        """As the toolbox's; the best metrics so far are known again too, from `metrics.csv`."""
        super().resume_training(resume_state)
        path = Path(self.opt['path']['log']) / 'metrics.csv'
        if self.opt.get('val') is None or not path.is_file():
            return
        with open(path, newline='', encoding='utf-8') as file:
            averages = [row for row in csv.DictReader(file) if row['clip'] == 'average']
        for row in averages:
            if int(row['iter']) <= resume_state['iter']:
                self._initialize_best_metric_results(row['dataset'])
                for name in self.opt['val'].get('metrics') or {}:
                    if row.get(name):
                        self._update_best_metric_result(row['dataset'], name, float(row[name]), int(row['iter']))

    # ---------------------------------------------------------------- training

    def feed_data(self, data):
        """Take `lq`, (b, t, 3, h, w), and `gt`, a sequence or one frame, as the network takes them in training."""
        super().feed_data(data)
        if self.is_train and 'gt' in data:
            self.lq, self.gt = prepare_sample(self.get_bare_model(self.net_g), self.lq, self.gt)

    def optimize_parameters(self, current_iter):
        """One iteration, with the flow network frozen while `current_iter < fix_flow`."""
        if self.fix_flow_iter:
            self._freeze_flow(current_iter < self.fix_flow_iter)
        super(VideoRecurrentModel, self).optimize_parameters(current_iter)

    def _freeze_flow(self, freeze: bool) -> None:
        """Freeze or train the parameters of `spynet` and `edvr`.

        The toolbox does this at iteration 1 only, so that a resumed run trains them at once. DistributedDataParallel
        waits for the gradients that were wanted when it was made, so it is made anew when these change.
        """
        bare = self.get_bare_model(self.net_g)
        flow = [parameter for name, parameter in bare.named_parameters() if 'spynet' in name or 'edvr' in name]
        if all(parameter.requires_grad is not freeze for parameter in flow):
            return
        what = f'Fix flow network and feature extractor until iteration {self.fix_flow_iter}.'
        get_root_logger().info(what if freeze else 'Train all the parameters.')
        for parameter in flow:
            parameter.requires_grad_(not freeze)
        if self.opt['dist']:
            self.net_g = self.model_to_device(bare)

    # ---------------------------------------------------------------- validation and test

    def test(self):
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
            yield from restore_frames(net, frames, padding, self.opt['val'].get('flip_seq', False))
        finally:
            self.net_g.train(self.is_train)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """The same as over several processes, which this is with one."""
        self.dist_validation(dataloader, current_iter, tb_logger, save_img)

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
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
        names = clip.get('frames') or [f'{i:08d}' for i in range(len(lqs))]
        metrics = self.opt['val'].get('metrics') or {}
        center_only = self.opt['val'].get('center_frame_only', False)
        counted = range(len(lqs))
        if self.opt['val'].get('inner_frames', False):
            counted = counted[BORDER_FRAMES:-BORDER_FRAMES]
            if not counted:
                raise InputError(
                    f'val: inner_frames: none of the {len(lqs)} frames of {clip["folder"]} is left without the first '
                    'and the last two.'
                )
        values = []  # for each frame its metrics
        previous = None
        for i, output in enumerate(self.restore(lqs, dataset_opt.get('padding') or 'reflection_circle')):
            if center_only and i != len(lqs) // 2:
                continue
            image = tensor2img(output)  # (s * h, s * w, 3), BGR, uint8
            if save_img:
                imwrite(image, str(self._image_path(dataset_opt['name'], clip['folder'], names[i], current_iter)))
            if gts is not None and metrics and i in counted:
                pair = image, tensor2img(gts[i])
                values.append([frame_metric(pair, previous, metric_opt) for metric_opt in metrics.values()])
                previous = pair
        if values:
            self.metric_results[clip['folder']] = torch.tensor(values, dtype=torch.float64)
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

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
        header = ['dataset', 'iter', 'clip', *names]
        if path.exists() and path.read_text(encoding='utf-8').split('\n')[0].strip() != ','.join(header):
            path.replace(path.with_name(f'metrics_before_{current_iter}.csv'))  # resumed with other metrics
        is_new = not path.exists()
        with open(path, 'a', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(header)
            writer.writerows(
                [dataset_name, current_iter, clip, *(f'{value:.6f}' for value in row)] for clip, row in rows.items()
            )


def frame_metric(pair: tuple, previous: tuple | None, metric_opt: Mapping) -> float:
    """A metric of a restored frame and its GT.

    Args:
        pair: The restored frame and its GT, (s * h, s * w, 3), BGR, uint8.
        previous: The same of the frame before; None at the first one, where metrics of motion are NaN.
        metric_opt: `type` and arguments, as in an option file.
    """
    image, gt = pair
    if getattr(METRIC_REGISTRY.get(metric_opt['type']), 'needs_frame_pairs', False):
        if previous is None:
            return math.nan
        image, gt = np.stack([previous[0], image]), np.stack([previous[1], gt])
    return float(calculate_metric({'img': image, 'img2': gt}, metric_opt))
