"""The lists of networks that come with the project name them at their published sizes."""

import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.benchmark.profile import count_parameters
from basicsr_plugins.models.entries import read_network_list
from basicsr_plugins.models.network_spec import fit_scale, spec_of

from ..conftest import PROJECT

PUBLISHED = {  # parameters, exact
    'SRCNN': 57_281,
    'FSRCNN': 12_809,
    'ESPCN': 24_752,
    'VDSR': 665_921,
    'DRCN': 1_775_121,
    'RED30': 1_035_201,
    'DRRN': 297_216,
    'LapSRN': 871_588,
    'SRDenseNet': 2_659_585,
    'RDN': 22_271_107,
    'Meta-SR': 22_419_072,
    'LIIF-EDSR': 1_567_299,
    'EDVR-M': 3_300_131,
    'EDVR-L': 20_633_827,
    'RRN': 3_364_400,
    'FRVSR': 5_054_693,
    'Zooming Slow-Mo': 11_102_771,
    'BasicVSR': 6_291_311,
    'IconVSR': 8_694_991,
    'BasicVSR++': 7_322_927,
    'RealBasicVSR': 6_294_834,
    'SESR-M5': 18_320 + 5 * 16,  # and the PReLUs
    'BasicAVSR': 6_194_283,
}


@pytest.mark.parametrize('name', ['benchmark_history', 'benchmark_Vid4'])
def test_published_sizes(name):
    """Of those whose number is exact; all can be read, and upscale by four."""
    entries = read_network_list(PROJECT / 'options' / f'{name}.yml')
    counts = {}
    for entry in entries:
        if entry.name in PUBLISHED:
            with torch.device('meta'):
                net = build_network(dict(entry.options))
            fit_scale(net, 4)
            assert spec_of(net).scale == 4
            counts[entry.name] = count_parameters(net)
    assert counts == {name: count for name, count in PUBLISHED.items() if name in counts}
    assert name != 'benchmark_history' or counts.keys() == PUBLISHED.keys()
