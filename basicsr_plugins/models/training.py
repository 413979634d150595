"""The training half of `VSRModel`: iterations, their precision and memory, and what is saved of them.

Shape shorthand: b batch, t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import USMSharp, get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DataParallel, DistributedDataParallel

from basicsr_plugins.data.augmentation import to_device_samples
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.files import check_checksums
from basicsr_plugins.models.divergence import SkippedSteps, diverged, first_not_finite
from basicsr_plugins.models.networks import save_checkpoint
from basicsr_plugins.models.perceptual import VGG_FILE, as_images, local_vgg
from basicsr_plugins.models.restoration import prepare_sample
from basicsr_plugins.models.shipped_weights import find_weights
from basicsr_plugins.models.training_forward import TrainingForward, emulates_bfloat16
from basicsr_plugins.models.weights import describe_other_arguments, read_weights
from basicsr_plugins.option_file import OWN_OPTIMIZERS
from basicsr_plugins.refusals import refusing
from basicsr_plugins.scales import Span

MAX_SKIPPED = 10


class TrainingModel(VideoRecurrentModel):
    """Trains networks of any kind on any device, and takes training up again. `VSRModel` lists the options."""

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As the toolbox's; a network without parameters, like `Bicubic`, has nothing to distribute.

        In training, kernels lie as the convolutions of a CPU, and those in half precision, want them: channels last.
        """
        if not any(parameter.requires_grad for parameter in net.parameters()):
            return net.to(self.device)
        if self.is_train and (self.device.type == 'cpu' or (self.opt['train'].get('amp') or 'none') != 'none'):
            for parameter in net.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return super().model_to_device(net)

    # ---------------------------------------------------------------- what is saved and loaded

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        """As the toolbox's; also shipped weights, by their name, and .safetensors files.

        A file that is missing, damaged or another network's stops with one sentence.
        """
        load_path = find_weights(load_path)
        check_checksums(load_path)
        try:
            if Path(load_path).suffix == '.safetensors':  # has no keys of parameters
                self._load_safetensors(self.get_bare_model(net), load_path, strict)
            else:
                super().load_network(net, load_path, strict, param_key)
        except InputError:
            raise
        except Exception as error:
            name = type(self.get_bare_model(net)).__name__
            raise InputError(f'{load_path} does not load into {name} ({one_line(error)[:300]}).') from error
        wrong = first_not_finite(net.state_dict())
        if wrong:
            raise InputError(f'{load_path}: {wrong} has values that are NaN or infinite; take a checkpoint of before.')

    def _load_safetensors(self, net: nn.Module, load_path: str, strict: bool) -> None:
        weights = read_weights(load_path)
        get_root_logger().info(f'Loading {type(net).__name__} model from {load_path}.')
        other = describe_other_arguments(load_path, self.opt['network_g'])
        if other:
            get_root_logger().warning(f'network_g: the weights in {load_path} are of a network with {other}.')
        self._print_different_keys_loading(net, weights, strict)  # renames those of another shape, if not strict
        net.load_state_dict(weights, strict=strict)

    @master_only
    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = 'params'
    ) -> None:
        """Write `models/{net_label}_{current_iter}.pth`, whole or not at all; a failure stops the run.

        Raises:
            RunError: If the disk is full, or a weight is not finite.
        """
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        label = 'latest' if current_iter == -1 else current_iter
        weights = {}
        if current_iter == -1 and self._ends_amid_skipped_steps():
            raise self._diverged('training ends with steps that were skipped, whose loss or gradients are not finite')
        for key, one in zip(keys, nets):
            state = self.get_bare_model(one).state_dict()
            wrong = first_not_finite(state)
            if wrong:
                raise self._diverged(f'{wrong} of {key} is not finite and was not saved')
            weights[key] = OrderedDict((name, value.cpu().contiguous()) for name, value in state.items())
        save_checkpoint(weights, Path(self.opt['path']['models']) / f'{net_label}_{label}.pth')

    def _ends_amid_skipped_steps(self) -> bool:
        """Whether the last step was skipped; a single one of a finite loss counts for none, as float16 has it."""
        is_finite = all(bool(loss.isfinite().all()) for loss in self.losses.values())
        return self.skipped.in_a_row > (1 if is_finite else 0)

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
        if self.scaler.is_enabled():
            state['scaler'] = self.scaler.state_dict()
        save_checkpoint(state, Path(self.opt['path']['training_states']) / f'{current_iter}.state')

    def resume_training(self, resume_state: dict) -> None:
        """As the toolbox's; the scale of float16 losses, and from `metrics.csv` the best metrics, are known again."""
        for saved, optimizer in zip(resume_state['optimizers'], self.optimizers):
            groups = optimizer.param_groups[0], saved['param_groups'][0]
            own, its = ({'betas', 'momentum'}.intersection(group) for group in groups)
            if own != its:
                raise InputError(f'the training state is of another optimizer than {type(optimizer).__name__}.')
        super().resume_training(resume_state)
        for parameter, state in (item for optimizer in self.optimizers for item in optimizer.state.items()):
            for name, value in state.items():  # fused optimizers go through both as they lie
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(value)
        if self.scaler.is_enabled() and 'scaler' in resume_state:
            self.scaler.load_state_dict(resume_state['scaler'])
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

    # ---------------------------------------------------------------- settings

    def init_training_settings(self) -> None:
        """As the toolbox's; how the network runs in training is set."""
        train = self.opt['train']
        with local_vgg(train.get('perceptual_opt'), self.opt['path'].get('pretrain_network_vgg') or VGG_FILE):
            super().init_training_settings()
        self.sharpener = USMSharp().to(self.device) if train.get('sharpen_gt', False) else None
        net = self.get_bare_model(self.net_g)
        self.auxiliary_weights = {**getattr(net, 'auxiliary_weights', {}), **(train.get('auxiliary_weights') or {})}
        self._init_precision(net)
        self.accumulate = train.get('accumulate', 1)
        self.grad_clip = train.get('grad_clip') or math.inf
        self.skipped = SkippedSteps(train.get('max_skipped', MAX_SKIPPED), self.device)
        self.current_iter = 0
        self.has_trained = False
        self.losses = {}

    def _init_precision(self, net: nn.Module) -> None:
        """Set how the network's forward runs; float16 gets a scale of its losses."""
        train = self.opt['train']
        amp = train.get('amp') or 'none'
        if amp == 'bfloat16' and emulates_bfloat16(self.device):
            get_root_logger().warning(
                'train: amp: bfloat16 is slower here than none: the device has no arithmetic in it.'
            )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == 'float16')
        checkpointing, compiled = train.get('checkpointing', False), train.get('compile', False)
        if not isinstance(self.net_g, DataParallel):
            self.run = TrainingForward(net, amp, checkpointing, compiled)
            return
        any_scale = self.opt.get('datasets', {}).get('train', {}).get('scale_range') is not None
        if any_scale or amp != 'none' or checkpointing or compiled or train.get('accumulate', 1) > 1:
            raise InputError(
                f'num_gpu: {self.opt["num_gpu"]} in one process does without amp, checkpointing, compile, accumulate '
                'and scale_range; start it by torchrun with the launcher pytorch, or say num_gpu: 1.'
            )

    def get_optimizer(self, optim_type: str, params: Iterable, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """As the toolbox's, and SGD; fused where PyTorch has that, which is faster and can skip a step unasked."""
        params = list(params)
        make = OWN_OPTIMIZERS.get(optim_type, partial(super().get_optimizer, optim_type))
        if not {'foreach', 'fused', 'capturable', 'differentiable'} & set(kwargs):
            with contextlib.suppress(RuntimeError, TypeError):  # not on this device, or not this optimizer
                return make(params, lr, fused=True, **kwargs)
        try:
            return make(params, lr, **kwargs)
        except RuntimeError as error:  # other errors are told by the model
            raise InputError(f'train: the optimizer cannot be used ({one_line(error)}).') from error

    # ---------------------------------------------------------------- one iteration

    def feed_data(self, data: Mapping) -> None:
        """Take `lq`, (b, t, 3, h, w), and `gt`, a sequence or one frame, as the network takes them in training.

        With `place`, (b, 2, 5), `gt` is the part that it says of the enlarged frames (`any_scale.ScaleRange`).
        """
        data = dict(data)
        place = data.pop('place', None)
        super().feed_data(to_device_samples(data, self.device))
        if self.is_train and 'gt' in data:
            self.lq, self.gt = prepare_sample(self.get_bare_model(self.net_g), self.lq, self.gt)
        self.places = None
        if place is not None:  # of frames, where each is an image of its own, as often
            place = place.repeat_interleave(len(self.lq) // len(place), dim=0)
            self.places = [tuple(Span(*span) for span in one) for one in place.tolist()]

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration, with the flow network frozen while `current_iter < fix_flow`.

        The batch goes through the network in `accumulate` parts. A loss or gradient that is not finite skips the step.

        Raises:
            InputError: If a first batch does not go through networks and losses of the toolbox or of this package.
            RunError: If too many steps in a row were skipped.
        """
        self.current_iter = current_iter
        if self.fix_flow_iter:
            self._freeze_flow(current_iter < self.fix_flow_iter)
        with contextlib.nullcontext() if self.has_trained else self._refusing():
            self.losses = self._backward()
            self._step()
        self.has_trained = True
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        if self.skipped.can_look:
            self._check_skipped()

    def _refusing(self) -> contextlib.AbstractContextManager[None]:
        batch = f'a batch of LQ {tuple(self.lq.shape)} and GT {tuple(self.gt.shape)}'
        nets = [self.get_bare_model(net) for net in self._trained()]
        losses = [value for name, value in vars(self).items() if name.startswith('cri_') and value is not None]
        return refusing(f'{batch} does not go through the networks and losses', *map(type, (*nets, *losses)))

    def get_current_log(self) -> dict:
        """The losses, over all processes, and how many steps were skipped; this waits for the device."""
        self.log_dict = self.reduce_loss_dict(self.losses)
        if self.skipped.total:
            self.log_dict['skipped'] = self.skipped.total
        self._check_skipped()
        return self.log_dict

    def _backward(self) -> OrderedDict[str, Tensor]:
        """Gradients of the whole batch; the losses, detached. Without compiling from where that fails."""
        if getattr(getattr(self, 'run', None), 'compiled', None) is None:
            return self._backward_parts()
        try:
            return self._backward_parts()
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the compilers' own are many
            self.run.stop_compiling(error)
            return self._backward_parts()

    def _backward_parts(self) -> OrderedDict[str, Tensor]:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        lqs, gts = self.lq.chunk(self.accumulate), self.gt.chunk(self.accumulate)
        losses = OrderedDict()
        first = 0
        for i, (lq, gt) in enumerate(zip(lqs, gts)):
            self.part_places = None if self.places is None else tuple(self.places[first : first + len(lq)])
            first += len(lq)
            with contextlib.ExitStack() as stack:
                for net in self._trained() if i + 1 < len(lqs) else ():  # processes exchange the last part's gradients
                    if isinstance(net, DistributedDataParallel):
                        stack.enter_context(net.no_sync())
                part = self._backward_part(lq, gt, len(lq) / len(self.lq))
            for name, loss in part.items():
                losses[name] = losses.get(name, 0) + loss.detach()
        return losses

    def _trained(self) -> list[nn.Module]:
        return [self.net_g]

    def _backward_part(self, lq: Tensor, gt: Tensor, share: float) -> OrderedDict[str, Tensor]:
        """Add the gradients of a part of the batch; its losses. The arguments are those of `_losses`."""
        places = {} if self.part_places is None else {'places': self.part_places}
        losses = self._losses(self.net_g(lq, **places), lq, gt, share)
        total = sum(losses.values())
        if self._may_go_back(total):
            self.scaler.scale(total).backward()
        return losses

    def _may_go_back(self, loss: Tensor) -> bool:
        """Whether gradients may be asked of a loss: on a CPU, of a finite one, in all processes."""
        if self.device.type != 'cpu':
            return True
        finite = torch.isfinite(loss.detach()).int()
        if self.opt['dist']:
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        return bool(finite)

    def _losses(
        self, output: Tensor | tuple[Tensor, ...], lq: Tensor, gt: Tensor, share: float
    ) -> OrderedDict[str, Tensor]:
        """The toolbox's losses of the restored frames, and the network's own.

        A network may have a method `auxiliary_losses(output, lq, gt, criterion)`, which compares what else it gives in
        training by the pixel loss, and `auxiliary_weights`, by which its losses are weighted.

        Args:
            output: What the network gave: the restored frames, alone or first.
            lq, gt: What it was given, and what they are compared with.
            share: Of this part in the batch, by which means count.
        """
        self.output = output[0] if isinstance(output, tuple) else output
        gt = self._sharpen(gt)
        if self.output.shape != gt.shape:
            raise InputError(f'network_g makes {tuple(self.output.shape)} where GT is {tuple(gt.shape)}.')
        pixel_share = 1 if getattr(self.cri_pix, 'reduction', 'mean') == 'sum' else share
        losses = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = pixel_share * self.cri_pix(self.output, gt)
        if self.cri_perceptual:
            percep, style = self.cri_perceptual(as_images(self.output), as_images(gt))
            losses.update({name: share * x for name, x in (('l_percep', percep), ('l_style', style)) if x is not None})
        net = self.get_bare_model(self.net_g)
        if hasattr(net, 'auxiliary_losses'):
            auxiliary = net.auxiliary_losses(output, lq, gt, self.cri_pix)
            weights = self.auxiliary_weights
            losses.update({f'l_{name}': weights[name] * pixel_share * loss for name, loss in auxiliary.items()})
        return losses

    def _sharpen(self, gt: Tensor) -> Tensor:
        if self.sharpener is None:
            return gt
        with torch.no_grad():
            return self.sharpener(as_images(gt)).view_as(gt)

    def _step(self) -> None:
        """Clip each network's gradients and take the steps, unless one of them, or the loss, is not finite."""
        self.scaler.unscale_(self.optimizer_g)
        norm = sum(
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group['params']], self.grad_clip)
            for optimizer in self.optimizers
        )
        skip = (~torch.isfinite(norm + sum(self.losses.values()))).int()
        if self.opt['dist']:  # what is wrong in one process is skipped in all
            dist.all_reduce(skip, dist.ReduceOp.MAX)
        self.skipped.count(skip)
        for optimizer in self.optimizers:
            if all(group.get('fused') for group in optimizer.param_groups):
                optimizer.found_inf = skip.float()  # its kernel looks at it, so that nothing waits for the device
                optimizer.step()
            elif not skip.item():
                optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()

    def _check_skipped(self) -> None:
        if self.skipped.too_many:
            raise self._diverged('too many steps in a row were skipped, whose loss or gradients are not finite')

    def _diverged(self, what: str) -> Exception:
        loss = float(sum(self.losses.values())) if self.losses else math.nan
        lr = self.get_current_learning_rate()[0] if self.is_train else math.nan
        models, skipped = Path(self.opt['path']['models']), self.skipped.in_a_row
        return diverged(what, self.current_iter, loss, lr, models, skipped)

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
