"""What networks a comparison trains, and how alike."""

import shutil
from pathlib import Path

import compare_networks
import pytest
from basicsr.archs import build_network

from basicsr_plugins.benchmark.profile import count_parameters
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.option_file import check_option_file

from ..conftest import PROJECT

FLOW = {'spynet', 'fnet'}


@pytest.mark.parametrize('name', compare_networks.NETWORKS)
def test_small_networks_are_of_one_size(name):
    """0.42 to 0.45 M parameters beside the flow network; windows are as long as the samples."""
    net = build_network(dict(compare_networks.NETWORKS[name]))
    flow = sum(count_parameters(part) for part_name, part in net.named_children() if part_name in FLOW)
    assert 0.42e6 <= count_parameters(net) - flow <= 0.45e6
    assert spec_of(net).num_frame in (1, compare_networks.NUM_FRAME)


def test_any_network_can_be_named():
    chosen = compare_networks.choose_networks(['RRN', 'small=RSDN:num_feat=32,num_block=6'])
    assert chosen == {
        'RRN': compare_networks.NETWORKS['RRN'],
        'small': {'type': 'RSDN', 'num_feat': 32, 'num_block': 6},
    }
    with pytest.raises(InputError, match='two networks are called RRN'):
        compare_networks.choose_networks(['RRN', 'RRN=RRN:num_feat=8'])


def test_trainings_differ_in_the_network_alone(tmp_path, monkeypatch):
    """And in SpyNet's weights, where it has one."""
    shutil.copytree(PROJECT / 'options', tmp_path / 'options')
    monkeypatch.chdir(tmp_path)
    chosen = compare_networks.choose_networks(['EFAR', 'ESPCN'])
    efar, espcn = (
        compare_networks.training_options(name, network, 0, Path('spynet.pth'), 10) for name, network in chosen.items()
    )
    for opt in (efar, espcn):
        check_option_file(opt, is_train=True)
    assert efar.pop('network_g') == {**chosen['EFAR'], 'spynet_path': 'spynet.pth'}
    assert espcn.pop('network_g') == chosen['ESPCN']
    assert (efar.pop('name'), espcn.pop('name')) == ('compare_EFAR_10_seed0', 'compare_ESPCN_10_seed0')
    assert efar == espcn
