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
from typing import Any, ClassVar

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import get_dist_info, master_only
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr_plugins.data.augmentation import to_device_samples
from basicsr_plugins.errors import InputError, check_keys, one_line
from basicsr_plugins.models.network_spec import fit_scale, spec_of
from basicsr_plugins.models.networks import save_checkpoint
from basicsr_plugins.models.restoration import prepare_sample, restore_frames
from basicsr_plugins.option_file import TOOLBOX_TRAIN, check_model_options
from basicsr_plugins.option_schema import Key, Schema

BORDER_FRAMES = 2  # at each end, that do not count with `inner_frames`


@MODEL_REGISTRY.register()
class VSRModel(VideoRecurrentModel):
    """Trains, validates and tests networks of any kind: of sequences, of windows, of single images.

    See `network_spec.NetworkSpec` for the kinds. A network of windows trains on samples of its window length, and its
    output is compared with the GT of the centre frame; a network of single images trains on every frame of a sample.

    Args:
        opt: All options. Beside the toolbox's: `train: fix_flow` (iterations during which the flow network, and
            IconVSR's EDVR, stay as they are), `train: flow_lr_mul` (factor on their learning rate), `train:
            auxiliary_weights` (of the network's own losses, by name), `val: save_img` (also in training), `val:
            flip_seq`, `val: center_frame_only`, `val: inner_frames` (metrics without the first and the last two frames
            of a clip).

    Raises:
        InputError: If a key of `train`, `val`, `path` or `network_g` is unknown, a file does not load, or `scale` is
            not the network's.
    """

    option_keys: ClassVar[Mapping[str, Schema]] = {  # all that it takes of these sections; `option_file` checks them
        'train': {
            **TOOLBOX_TRAIN,
            'fix_flow': Key('count | None', low=0),
            'flow_lr_mul': Key('float', default=1, low=0),
            'auxiliary_weights': Key('dict | None'),
            'amp': Key('str | None', default='none', choices=('none', 'bfloat16', 'float16')),
            'accumulate': Key('int', default=1, low=1, high=65536),
            'checkpointing': Key('bool', default=False),
            'compile': Key('bool', default=False),
            'max_skipped': Key('int', low=1),
            'grad_clip': Key('float | None', above=0),
        },
        'val': {
            'val_freq': Key('count', low=1),
            'suffix': Key('name | None'),
            **dict.fromkeys(('pbar', 'flip_seq', 'center_frame_only', 'inner_frames'), Key('bool', default=False)),
        },
        'path': {
            'param_key_g': Key('str'),
            'strict_load_g': Key('bool', default=True),
            'ignore_resume_networks': Key('list[str] | None'),
            # added by the toolbox
            **dict.fromkeys(('experiments_root', 'results_root', 'models'), Key('str')),
            **dict.fromkeys(('training_states', 'log', 'visualization'), Key('str')),
        },
    }

    def __init__(self, opt: Mapping):
        check_model_options(type(self), opt)
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

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        """As the toolbox's; a file that is missing, damaged or another network's stops with one sentence."""
        if not Path(load_path).is_file():
            raise InputError(f'path: pretrain_network_g: there is no file {load_path}.')
        try:
            super().load_network(net, load_path, strict, param_key)
        except Exception as error:
            name = type(self.get_bare_model(net)).__name__
            raise InputError(f'{load_path} does not load into {name} ({one_line(error)[:300]}).') from error

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int,
        param_key: str | list[str] = 'params',
    ) -> None:
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
    def save_training_state(self, epoch: int, current_iter: int) -> None:
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

    def resume_training(self, resume_state: dict) -> None:
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

    def init_training_settings(self) -> None:
        """As the toolbox's; the weights of the network's own losses are checked too."""
        super().init_training_settings()
        net = self.get_bare_model(self.net_g)
        weights = getattr(net, 'auxiliary_weights', {})
        asked = self.opt['train'].get('auxiliary_weights') or {}
        check_keys('train: auxiliary_weights', asked, [], list(weights))
        self.auxiliary_weights = {**weights, **asked}
        if weights and self.cri_pix is None:
            raise InputError(f'train: pixel_opt is missing: {type(net).__name__} takes it for its own losses too.')

    def feed_data(self, data: Mapping) -> None:
        """Take `lq`, (b, t, 3, h, w), and `gt`, a sequence or one frame, as the network takes them in training."""
        super().feed_data(to_device_samples(data, self.device))
        if self.is_train and 'gt' in data:
            self.lq, self.gt = prepare_sample(self.get_bare_model(self.net_g), self.lq, self.gt)

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration, with the flow network frozen while `current_iter < fix_flow`."""
        if self.fix_flow_iter:
            self._freeze_flow(current_iter < self.fix_flow_iter)
        self.optimizer_g.zero_grad()
        output = self.net_g(self.lq)
        losses = self._losses(output)
        sum(losses.values()).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _losses(self, output: Tensor | tuple[Tensor, ...]) -> OrderedDict[str, Tensor]:
        """The toolbox's losses of the restored frames, and the network's own.

        A network may have a method `auxiliary_losses(output, lq, gt, criterion)`, which compares what else it gives in
        training by the pixel loss, and `auxiliary_weights`, by which its losses are weighted.

        Args:
            output: What the network gave: the restored frames, alone or first.
        """
        self.output = output[0] if isinstance(output, tuple) else output
        losses = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(self.output, self.gt)
        if self.cri_perceptual:
            percep, style = self.cri_perceptual(self.output, self.gt)
            losses.update({name: x for name, x in (('l_percep', percep), ('l_style', style)) if x is not None})
        net = self.get_bare_model(self.net_g)
        if hasattr(net, 'auxiliary_losses'):
            auxiliary = net.auxiliary_losses(output, self.lq, self.gt, self.cri_pix)
            losses.update({f'l_{name}': self.auxiliary_weights[name] * loss for name, loss in auxiliary.items()})
        return losses

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
