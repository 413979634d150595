"""Toolbox networks on small frames."""

import pytest
import torch
import torchvision
from basicsr.archs import arch_util, basicvsrpp_arch
from basicsr.archs.basicvsr_arch import BasicVSR
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.archs.edvr_arch import EDVR
from basicsr.archs.spynet_arch import SpyNet

from basicsr_plugins.errors import InputError


@pytest.fixture
def spynet():
    torch.manual_seed(0)
    return SpyNet().eval()


@torch.no_grad()
@pytest.mark.parametrize(('h', 'w'), [(32, 32), (7, 50), (1, 1), (20, 100)])
def test_small_frames(spynet, h, w):
    ref, supp = torch.rand(2, 3, h, w), torch.rand(2, 3, h, w)
    with pytest.raises(RuntimeError):
        SpyNet.forward.__wrapped__(spynet, ref, supp)
    flow = spynet(ref, supp)
    assert flow.shape == (2, 2, h, w)
    assert flow.isfinite().all()
    # the crop of the flow of the same frames, continued by their border
    pad = (0, max(64 - w, 0), 0, max(64 - h, 0))
    ref, supp = (torch.nn.functional.pad(frame, pad, mode='replicate') for frame in (ref, supp))
    torch.testing.assert_close(flow, spynet(ref, supp)[..., :h, :w])


@torch.no_grad()
@pytest.mark.parametrize(('h', 'w'), [(64, 64), (33, 70)])
def test_others_as_before(spynet, h, w):
    ref, supp = torch.rand(1, 3, h, w), torch.rand(1, 3, h, w)
    assert torch.equal(spynet(ref, supp), SpyNet.forward.__wrapped__(spynet, ref, supp))


def test_weights_of_a_saved_spynet(spynet, tmp_path):
    """With `mean` and `std`, as the published file, and without."""
    whole = spynet.state_dict()
    bare = {name: value for name, value in whole.items() if name not in ('mean', 'std')}
    assert len(bare) == len(whole) - 2
    for name, weights in (('whole', whole), ('bare', bare)):
        torch.save({'params': weights}, tmp_path / f'{name}.pth')
    with pytest.raises(RuntimeError, match='Unexpected key'):
        SpyNet.__init__.__wrapped__(SpyNet.__new__(SpyNet), str(tmp_path / 'whole.pth'))
    for name in ('whole', 'bare'):
        net = BasicVSR(num_feat=4, num_block=1, spynet_path=str(tmp_path / f'{name}.pth'))
        assert all(torch.equal(value, whole[key]) for key, value in net.spynet.state_dict().items())


@torch.no_grad()
def test_basicvsr_takes_them():
    net = BasicVSR(num_feat=4, num_block=1).eval()
    assert net(torch.rand(1, 2, 3, 16, 24)).shape == (1, 2, 3, 64, 96)


def test_no_meshgrid_warning(run, tmp_path):
    code = """
import torch, basicsr, warnings
from basicsr.archs.arch_util import flow_warp
{}
flow_warp(torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, 2))
"""
    without = run('python', '-c', code.format('warnings.resetwarnings()'), cwd=tmp_path)
    assert 'meshgrid' in without.stderr
    assert 'meshgrid' not in run('python', '-c', code.format(''), cwd=tmp_path).stderr


@torch.no_grad()
def test_basicvsrpp_has_its_alignment_without_cuda(monkeypatch):
    """The published size at the defaults, 7.3 M, is with alignment."""
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    without = BasicVSRPlusPlus.__new__(BasicVSRPlusPlus)
    with pytest.warns(UserWarning, match='Deformable alignment module is not added'):
        BasicVSRPlusPlus.__init__.__wrapped__(without)
    net = BasicVSRPlusPlus()
    assert not torch.cuda.is_available()  # as before
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(7.3e6, rel=0.01)
    assert sum(p.numel() for p in without.parameters()) < 6e6
    net = BasicVSRPlusPlus(mid_channels=16, num_blocks=1).eval()
    assert net(torch.rand(1, 2, 3, 64, 64)).shape == (1, 2, 3, 256, 256)


@pytest.mark.parametrize('name', ['EDVR', 'BasicVSR++'])
def test_deformable_convolution_of_the_toolbox(name, monkeypatch):
    """The same results and gradients as with torchvision, by the backend that is chosen."""
    torch.manual_seed(0)
    net = EDVR(num_feat=16, num_frame=3, deformable_groups=4) if name == 'EDVR' else BasicVSRPlusPlus(16, 1)
    for parameter in net.parameters():  # offsets start at zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    frames = torch.rand(1, 3, 3, 64, 64)
    results = {}
    for backend in ('pytorch', 'torchvision', None):
        if backend is None:
            for module in (arch_util, basicvsrpp_arch):
                monkeypatch.setattr(module, 'torchvision', torchvision)
        else:
            monkeypatch.setenv('BASICSR_PLUGINS_DCN', backend)
        net.zero_grad()
        output = net(frames)
        output.square().mean().backward()
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        results[backend] = [output.detach(), *(gradient.clone() for gradient in gradients)]
    assert all(torch.equal(a, b) for a, b in zip(results['torchvision'], results[None]))
    for ours, theirs in zip(results['pytorch'], results[None]):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    monkeypatch.undo()
    monkeypatch.setenv('BASICSR_PLUGINS_DCN', 'nothing')
    with pytest.raises(InputError, match='nothing'):  # it is really asked for
        net(frames)
