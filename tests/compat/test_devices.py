"""Distributing, validating and prefetching without CUDA: the toolbox's own classes, before and after."""

import os
import socket

import pytest
import torch
from basicsr.data import prefetch_dataloader
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import dist_util
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr_plugins.errors import InputError

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason='shows what breaks without CUDA; this has CUDA')


@pytest.fixture
def one_process_group(monkeypatch):
    """The environment that torchrun gives a single process."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    for name, value in {'RANK': 0, 'WORLD_SIZE': 1, 'LOCAL_RANK': 0, 'MASTER_ADDR': '127.0.0.1'}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv('MASTER_PORT', str(port))
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


@needs_no_cuda
def test_init_dist_and_ddp(one_process_group):
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        dist_util.init_dist.__wrapped__('pytorch')
    dist_util.init_dist('pytorch')
    assert distributed.get_backend() == 'gloo'
    assert dist_util.get_dist_info() == (0, 1)

    model = BaseModel({'num_gpu': 0, 'is_train': True, 'dist': True})
    with pytest.raises((RuntimeError, AssertionError)):
        BaseModel.model_to_device.__wrapped__(model, nn.Conv2d(3, 3, 1))
    assert isinstance(model.model_to_device(nn.Conv2d(3, 3, 1)), DistributedDataParallel)


@pytest.mark.parametrize(('launcher', 'starter'), [('pytorch', 'torchrun'), ('slurm', 'srun')])
def test_a_launcher_without_what_starts_processes(monkeypatch, launcher, starter):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=f'--launcher {launcher} is for processes that {starter} starts; leave it out'):
        dist_util.init_dist(launcher)


@needs_no_cuda
def test_slurm_environment(monkeypatch, tmp_path, one_process_group):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\necho other-host\n')
    (tmp_path / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    for name, value in {'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_NODELIST': 'n[1-2]'}.items():
        monkeypatch.setenv(name, value)
    port = int(os.environ['MASTER_PORT'])
    dist_util.init_dist('slurm', backend='nccl', port=port)
    assert dist_util.get_dist_info() == (0, 1)
    assert os.environ['MASTER_ADDR'] == '127.0.0.1'


class Clips(torch.utils.data.Dataset):
    """Two clips, of 2 and 3 frames, whose LQ differs from GT by a known error."""

    def __init__(self):
        self.opt = {'name': 'clips'}
        self.data_info = {'folder': ['a', 'a', 'b', 'b', 'b']}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        lq = torch.full((2 + index, 3, 8, 8), 100 / 255)
        return {'lq': lq, 'gt': lq + (index + 1) / 255, 'folder': 'ab'[index], 'lq_path': ''}


@needs_no_cuda
def test_toolbox_model_validates_on_the_cpu(monkeypatch):
    model = VideoRecurrentModel.__new__(VideoRecurrentModel)
    BaseModel.__init__(model, {'num_gpu': 0, 'is_train': False, 'dist': False, 'name': 'x'})
    model.opt['val'] = {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}
    model.net_g = nn.ReLU()
    loader = torch.utils.data.DataLoader(Clips())
    with pytest.raises((RuntimeError, AssertionError)):
        VideoRecurrentModel.dist_validation.__wrapped__(model, loader, 1, None, False)
    del model.metric_results
    monkeypatch.setattr(SRModel, 'feed_data', SRModel.feed_data.__wrapped__)
    with pytest.raises(IndexError):
        model.validation(loader, 1, None)
    monkeypatch.undo()

    model.validation(loader, 1, None)
    assert model.metric_results['a'].flatten().tolist() == pytest.approx([48.1308] * 2, abs=1e-3)  # error 1 of 255
    assert model.metric_results['b'].flatten().tolist() == pytest.approx([42.1102] * 3, abs=1e-3)  # error 2 of 255


@needs_no_cuda
def test_cuda_prefetcher():
    loader = torch.utils.data.DataLoader([1, 2, 3])
    with pytest.raises((RuntimeError, AssertionError)):
        prefetch_dataloader.CUDAPrefetcher.__wrapped__(loader, {'num_gpu': 0})
    prefetcher = prefetch_dataloader.CUDAPrefetcher(loader, {'num_gpu': 0})
    assert [prefetcher.next().item() for _ in range(3)] == [1, 2, 3]
    assert prefetcher.next() is None
