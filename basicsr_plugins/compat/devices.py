"""Training, validating and distributing without CUDA."""

from __future__ import annotations

import os
import subprocess
from collections import Counter

import torch
from basicsr.data import prefetch_dataloader
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import dist_util
from torch.nn.parallel import DistributedDataParallel

from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.errors import InputError


def init_dist() -> None:
    """Let `--launcher pytorch` and `slurm` work on the CPU, over gloo.

    BasicSR divides by the number of GPUs: ZeroDivisionError without one, in every version. With GPUs it has NCCL
    alone, with which `num_gpu: 0` fails; there each device gets its own backend. Without what starts the processes it
    ends in an error of a variable that is missing.
    """

    def make(original):
        def init(launcher, backend='nccl', **kwargs):
            started_by = {'pytorch': ('RANK', 'torchrun'), 'slurm': ('SLURM_PROCID', 'srun')}.get(launcher)
            if started_by is not None and started_by[0] not in os.environ:
                raise InputError(f'--launcher {launcher} is for processes that {started_by[1]} starts; leave it out.')
            if torch.cuda.is_available() or launcher not in ('pytorch', 'slurm'):
                return original(launcher, 'cpu:gloo,cuda:nccl' if backend == 'nccl' else backend, **kwargs)
            port = kwargs.pop('port', None)
            if launcher == 'slurm':
                _set_slurm_environment(port)
            torch.distributed.init_process_group(backend='gloo', **kwargs)

        return init

    wrap(dist_util, 'init_dist', make)


def _set_slurm_environment(port: int | None) -> None:
    """What `init_process_group` reads from the environment, from SLURM's variables."""
    first_host = subprocess.run(
        ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    os.environ.update(
        MASTER_ADDR=first_host,
        MASTER_PORT=str(port or os.environ.get('MASTER_PORT', 29500)),
        WORLD_SIZE=os.environ['SLURM_NTASKS'],
        RANK=os.environ['SLURM_PROCID'],
        LOCAL_RANK=os.environ.get('SLURM_LOCALID', '0'),
    )


def model_to_device() -> None:
    """Wrap networks for distributed training on the CPU.

    BasicSR asks for the current CUDA device, in every version: RuntimeError without one.
    """

    def make(original):
        def to_device(self, net):
            if not self.opt['dist'] or self.device.type == 'cuda':
                return original(self, net)
            return DistributedDataParallel(
                net.to(self.device), find_unused_parameters=self.opt.get('find_unused_parameters', False)
            )

        return to_device

    wrap(BaseModel, 'model_to_device', make)


def video_validation() -> None:
    """Let the toolbox's video models validate without CUDA.

    They keep the metrics in tensors with `device='cuda'`, in every version: RuntimeError without CUDA. They make these
    tensors only when they are not there yet, so they are made beforehand, on the model's device.
    """

    def make(original):
        def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
            metrics = self.opt['val'].get('metrics')
            if self.device.type != 'cuda' and metrics is not None:
                num_frame = Counter(dataloader.dataset.data_info['folder'])
                self.metric_results = {
                    folder: torch.zeros(count, len(metrics), device=self.device) for folder, count in num_frame.items()
                }
            return original(self, dataloader, current_iter, tb_logger, save_img)

        return dist_validation

    for model in (VideoBaseModel, VideoRecurrentModel):
        wrap(model, 'dist_validation', make)


def feed_data() -> None:
    """Let the toolbox's video models validate on the CPU: the model keeps tensors of its own.

    They add a batch dimension in place, feed the model, and take it away in place before the model runs, in every
    version. On a GPU the model has a copy; on the CPU it has the very tensor: IndexError.
    """

    def make(original):
        def feed(self, data):
            original(self, data)
            if self.device.type == 'cpu':  # a view: the same numbers, but a shape of its own
                self.lq = self.lq.view(self.lq.shape)
                if 'gt' in data:
                    self.gt = self.gt.view(self.gt.shape)

        return feed

    wrap(SRModel, 'feed_data', make)


def cuda_prefetcher() -> None:
    """Treat `prefetch_mode: cuda` like the CPU prefetcher where there is no CUDA.

    BasicSR makes a CUDA stream, in every version: RuntimeError without CUDA.
    """

    def make(original):
        def prefetcher(loader, opt):
            if torch.cuda.is_available():
                return original(loader, opt)
            return prefetch_dataloader.CPUPrefetcher(loader)

        return prefetcher

    wrap(prefetch_dataloader, 'CUDAPrefetcher', make)


PATCHES = (init_dist, model_to_device, video_validation, feed_data, cuda_prefetcher)
