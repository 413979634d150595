"""Weights of other code and those that are shipped, on files with the published names."""

import json
import re

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from basicsr.archs import build_network
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from basicsr_plugins import upscaling
from basicsr_plugins.archs.rsdn_arch import split_structure
from basicsr_plugins.commands.upscale import main as upscale_command
from basicsr_plugins.commands.weights import main as list_command
from basicsr_plugins.errors import InputError
from basicsr_plugins.models import shipped_weights
from basicsr_plugins.models.entries import parse_network, read_entry
from basicsr_plugins.models.shipped_weights import list_shipped, save_shipped
from basicsr_plugins.models.weights import load_weights, read_weights, recognise
from basicsr_plugins.upscaling import choose_weights, load_network

BASICVSR = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 2}
RRN = {'type': 'RRN', 'num_feat': 4, 'num_block': 1, 'scale': 2}

SPYNET = (
    r'(spynet\.basic_module\.\d\.basic_module\.)(\d)\.',
    lambda match: f'{match[1]}{int(match[2]) // 2}.conv.',
)
CONV = (
    r'((?:offset_conv\d|feat_conv)\.l\d|cas_offset_conv\d|fusion\.(?:feat_fusion|spatial_attn(?:[1-4]|_l\d|_add1)))\.'
)
EDVR_NAMES = [
    (r'\bconv_l(\d)_(\d)\.', r'feat_l\1_conv\2.conv.'),
    (r'pcd_align\.', 'pcd_alignment.'),
    (CONV, r'\1.conv.'),
    (r'^upconv(\d)\.', r'upsample\1.upsample_conv.'),
]
BASICVSR_NAMES = [SPYNET, EDVR_NAMES[-1], (r'^(forward|backward)_trunk', r'\1_resblocks')]
REALBASICVSR_NAMES = [
    SPYNET,
    (r'^basicvsr\.upconv(\d)\.', r'basicvsr.upsample\1.upsample_conv.'),
    (r'^basicvsr\.(forward|backward)_trunk', r'basicvsr.\1_resblocks'),
]
TDAN_NAMES = [
    (r'^extractor\.0\.', 'feat_extract.0.conv.'),
    (r'^extractor\.2\.', 'feat_extract.1.'),
    (r'\.deform_conv\.weight', '.weight'),
    (r'^alignment\.fusion\.', 'feat_aggregate.0.'),
    (r'^alignment\.aggregate', 'feat_aggregate.'),
    (r'^alignment\.align\.', 'align_1.'),
    (r'^alignment\.refine\.', 'align_2.'),
    (r'^conv_aligned\.', 'to_rgb.'),
    (r'^conv_last\.', 'reconstruct.4.'),
    (r'^reconstruction\.0\.', 'reconstruct.0.conv.'),
    (r'^reconstruction\.2\.', 'reconstruct.1.'),
    (r'^reconstruction\.3\.', 'reconstruct.2.upsample_conv.'),
    (r'^reconstruction\.5\.', 'reconstruct.3.upsample_conv.'),
]
TDAN_OFFICIAL_NAMES = [
    (r'^extractor\.0', 'conv_first'),
    (r'^extractor\.2', 'residual_layer'),
    (r'^alignment\.fusion', 'cr'),
    (r'^alignment\.aggregate1\.conv_offset', 'off2d_1'),
    (r'^alignment\.aggregate1\.deform_conv', 'dconv_1'),
    (r'^alignment\.aggregate2\.conv_offset', 'off2d_2'),
    (r'^alignment\.aggregate2\.deform_conv', 'deconv_2'),
    (r'^alignment\.align\.conv_offset', 'off2d_3'),
    (r'^alignment\.align\.deform_conv', 'deconv_3'),
    (r'^alignment\.refine\.conv_offset', 'off2d'),
    (r'^alignment\.refine\.deform_conv', 'dconv'),
    (r'^conv_aligned', 'recon_lr'),
    (r'^reconstruction\.0', 'fea_ex.0'),
    (r'^reconstruction\.2', 'recon_layer'),
    (r'^reconstruction\.3', 'up.0.0'),
    (r'^reconstruction\.5', 'up.0.2'),
    (r'^conv_last', 'up.1'),
]
RRN_NAMES = [
    (r'^conv_first', 'neuro.conv_1'),
    (r'^body', 'neuro.recon_trunk'),
    (r'^conv_hidden', 'neuro.conv_h'),
    (r'^conv_last', 'neuro.conv_o'),
]
RSDN_NAMES = [
    (r'^conv_last', 'conv'),
    (r'^conv_filter', 'neuro.forget'),
    (r'^conv_([ds])[a-z]+', r'neuro.conv_\1'),
    (r'^hidden_([ds])[a-z]+', r'neuro.conv_h\1'),
    (r'^last_([ds])[a-z]+', r'neuro.conv_o\1'),
    (
        r'^body\.(\d)\.([ds])[a-z]+\.([02])',
        lambda match: f'neuro.SD{int(match[1]) + 1}.conv_{match[2]}{int(match[3]) // 2 + 1}',
    ),
]
FRNET_NAMES = [
    (r'^fnet\.(encoder|decoder)\.(\d)', lambda match: f'fnet.{match[1]}{int(match[2]) + 1}'),
    (r'^fnet\.conv_flow', 'fnet.flow.0'),
    (r'^fnet\.conv_last', 'fnet.flow.2'),
    (r'^srnet\.conv_first', 'srnet.conv_in.0'),
    (r'^srnet\.body\.(\d)\.conv([12])', lambda match: f'srnet.resblocks.{match[1]}.conv.{2 * int(match[2]) - 2}'),
    (r'^srnet\.upconv1', 'srnet.conv_up.0'),
    (r'^srnet\.upconv2', 'srnet.conv_up.2'),
    (r'^srnet\.conv_last', 'srnet.conv_out'),
]
ZOOMING_NAMES = [
    (
        r'\.directions\.(\d)\.offset_conv(\d)\.l(\d)\.',
        lambda m: f'.pcd_align.L{m[3]}_offset_conv{m[2]}_{int(m[1]) + 1}.',
    ),
    (r'\.directions\.(\d)\.dcn_pack\.l(\d)\.', lambda m: f'.pcd_align.L{m[2]}_dcnpack_{int(m[1]) + 1}.'),
    (r'\.directions\.(\d)\.feat_conv\.l(\d)\.', lambda m: f'.pcd_align.L{m[2]}_fea_conv_{int(m[1]) + 1}.'),
    (r'\.conv_offset\.', '.conv_offset_mask.'),
    (r'conv_l(\d)_(\d)', r'fea_L\1_conv\2'),
    (r'^fusion', 'ConvBLSTM.conv_1x1'),
    (r'^interpolation\.', ''),
    (r'^lstm\.align_([hc])[a-z]+', r'ConvBLSTM.forward_net.pcd_\1'),
    (r'^lstm\.gates', 'ConvBLSTM.forward_net.cell_list.0.conv'),
    (r'^extractor', 'feature_extraction'),
    (r'^reconstruction', 'recon_trunk'),
    (r'^conv_hr', 'HRconv'),
]
RRDB_NAMES = [
    (r'^body\.(\d)\.rdb', r'RRDB_trunk.\1.RDB'),
    (r'^conv_body', 'trunk_conv'),
    (r'^conv_up', 'upconv'),
    (r'^conv_hr', 'HRconv'),
]
# network, the way to its published names, some of these written out
PUBLISHED = [
    (BASICVSR, BASICVSR_NAMES, ['spynet.basic_module.5.basic_module.4.conv.bias', 'upsample1.upsample_conv.weight']),
    (BASICVSR, BASICVSR_NAMES, ['backward_resblocks.main.2.1.conv2.weight', 'forward_resblocks.main.0.bias']),
    (
        {'type': 'RealBasicVSR', 'num_feat': 4, 'num_block': 2, 'num_clean_block': 3},
        REALBASICVSR_NAMES,
        ['image_cleaning.0.main.2.2.conv2.weight', 'image_cleaning.1.bias', 'basicvsr.upsample2.upsample_conv.bias'],
    ),
    (
        {'type': 'IconVSR', 'num_feat': 8, 'num_block': 1, 'temporal_padding': 3},
        [*BASICVSR_NAMES, *EDVR_NAMES[:3]],
        ['edvr.feat_l2_conv1.conv.weight', 'edvr.pcd_alignment.cas_dcnpack.conv_offset.bias', 'backward_fusion.bias'],
    ),
    (
        {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1, 'is_low_res_input': True},
        BASICVSR_NAMES[:2],
        ['deform_align.forward_2.conv_offset.6.bias', 'feat_extract.main.0.weight', 'upsample2.upsample_conv.bias'],
    ),
    (
        {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1, 'is_low_res_input': False},
        BASICVSR_NAMES[:2],
        ['feat_extract.0.weight'],
    ),
    (
        {'type': 'EDVR', 'num_feat': 8, 'num_frame': 3, 'num_extract_block': 1, 'num_reconstruct_block': 2},
        EDVR_NAMES,
        [
            'pcd_alignment.offset_conv3.l1.conv.weight',
            'fusion.spatial_attn_add1.conv.bias',
            'fusion.spatial_attn_add2.bias',
            'fusion.temporal_attn1.weight',
        ],
    ),
    (
        {'type': 'EDVR', 'num_feat': 8, 'num_frame': 5, 'deformable_groups': 4, 'with_tsa': False},
        EDVR_NAMES,
        ['fusion.weight', 'conv_hr.weight'],
    ),
    (
        {'type': 'TDAN', 'num_feat': 8, 'num_frame': 3, 'num_extract_block': 1, 'num_block': 2, 'deform_groups': 4},
        TDAN_NAMES,
        ['feat_aggregate.1.conv_offset.weight', 'feat_aggregate.2.weight', 'align_2.weight', 'reconstruct.4.weight'],
    ),
    ({'type': 'TDAN', 'num_feat': 16}, TDAN_OFFICIAL_NAMES, ['off2d_3.weight', 'dconv.weight', 'up.1.weight']),
    (RRN, RRN_NAMES, ['neuro.recon_trunk.0.conv1.weight']),
    ({'type': 'RSDN', 'num_feat': 4}, RSDN_NAMES, ['neuro.SD9.conv_s2.weight', 'neuro.conv_od.bias', 'conv.bias']),
    (
        {'type': 'FRVSR', 'num_feat': 4, 'num_block': 2, 'residual': True, 'lr_at_corner': False},
        FRNET_NAMES,
        ['fnet.encoder3.2.weight', 'srnet.resblocks.1.conv.2.bias', 'srnet.conv_out.weight'],
    ),
    (
        {'type': 'ZoomingSlowMo', 'num_feat': 8, 'num_extract_block': 2, 'num_block': 1, 'deform_groups': 2},
        ZOOMING_NAMES,
        [
            'pcd_align.L3_offset_conv2_1.weight',
            'pcd_align.L1_dcnpack_2.conv_offset_mask.bias',
            'ConvBLSTM.forward_net.pcd_h.pcd_align.L2_fea_conv_1.bias',
            'ConvBLSTM.forward_net.pcd_c.fea_L3_conv1.weight',
            'ConvBLSTM.forward_net.pcd_h.fusion.weight',
            'ConvBLSTM.conv_1x1.bias',
            'fusion.bias',
        ],
    ),
    (
        {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 2, 'num_grow_ch': 2},
        RRDB_NAMES,
        ['RRDB_trunk.1.RDB3.conv5.weight', 'trunk_conv.weight', 'HRconv.bias'],
    ),
    (
        {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 2, 'upscale': 3},
        [(r'^body', 'recon_trunk'), (r'^conv_hr', 'HRconv')],
        ['recon_trunk.1.conv2.weight', 'HRconv.weight'],
    ),
]

# the sizes that were published, and their parameters
SIZES = [
    ({'type': 'BasicVSR', 'num_feat': 64, 'num_block': 30}, BASICVSR_NAMES, 6_291_311),
    ({'type': 'RealBasicVSR', 'num_feat': 64, 'num_block': 20}, REALBASICVSR_NAMES, 6_294_834),
    (
        {'type': 'IconVSR', 'num_feat': 64, 'num_block': 30, 'temporal_padding': 2},
        [*BASICVSR_NAMES, *EDVR_NAMES[:3]],
        8_694_991,
    ),
    ({'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 7}, BASICVSR_NAMES[:2], 7_322_927),
    (
        {'type': 'BasicVSRPlusPlus', 'mid_channels': 128, 'num_blocks': 25, 'is_low_res_input': False},
        BASICVSR_NAMES[:2],
        44_075_631,
    ),
    ({'type': 'EDVR', 'num_feat': 64, 'num_frame': 5, 'num_reconstruct_block': 10}, EDVR_NAMES, 3_300_131),
    ({'type': 'EDVR', 'num_feat': 64, 'num_frame': 5, 'with_tsa': False}, EDVR_NAMES, 2_996_259),
    ({'type': 'EDVR', 'num_feat': 128, 'num_frame': 5, 'num_reconstruct_block': 40}, EDVR_NAMES, 20_633_827),
    ({'type': 'TDAN', 'num_feat': 64, 'num_frame': 5, 'num_block': 10, 'deform_groups': 8}, TDAN_NAMES, 1_970_819),
    ({'type': 'RRN', 'num_feat': 128, 'num_block': 10, 'scale': 4}, RRN_NAMES, 3_364_400),
    ({'type': 'RSDN', 'num_feat': 128, 'num_block': 9}, RSDN_NAMES, 6_180_236),
    ({'type': 'FRVSR', 'num_feat': 64, 'num_block': 10, 'residual': True}, FRNET_NAMES, 2_589_093),
    ({'type': 'ZoomingSlowMo', 'num_feat': 64, 'num_block': 40, 'deform_groups': 8}, ZOOMING_NAMES, 11_102_771),
]


def ids(cases):
    return [f'{case[0]["type"]}{number}' for number, case in enumerate(cases)]


def trained(options, seed=0):
    """A network of which no weight is zero."""
    torch.manual_seed(seed)
    net = build_network(dict(options)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def published(net, names):
    renamed = {}
    for name, value in net.state_dict().items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    assert len(renamed) == len(net.state_dict())
    return renamed


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


# what the files hold beside the network's weights
CONTAINERS = {
    'a state dict': lambda weights: weights,
    'the toolbox': lambda weights: {'params': weights},
    'the toolbox with EMA': lambda weights: {
        'params': {name: value + 1 for name, value in weights.items()},
        'params_ema': weights,
    },
    'mmediting': lambda weights: {
        'meta': {'mmedit_version': '0.8.0', 'config': 'text', 'iter': 300000},
        'state_dict': {**prefixed('generator.', weights), 'step_counter': torch.ones(1)},
        'optimizer': {'generator': {'state': {}, 'param_groups': [{'lr': 1e-4}]}},
    },
    'a GAN of mmediting': lambda weights: {
        'state_dict': {
            **{f'generator.{name}': value + 1 for name, value in weights.items()},
            **prefixed('generator_ema.', weights),
            'discriminator.conv0.weight': torch.ones(2, 3, 3, 3),
            'perceptual_loss.vgg.mean': torch.ones(1, 3, 1, 1),
            'step_counter': torch.ones(1),
        }
    },
    'mmagic': lambda weights: {
        'meta': {'epoch': 0},
        'state_dict': {
            **prefixed('generator.', weights),
            'step_counter': torch.ones(1),
            'data_preprocessor.mean': torch.ones(3, 1, 1),
        },
        'message_hub': {'runtime_info': {}},
        'param_schedulers': [],
    },
    'DataParallel': lambda weights: prefixed('module.', weights),
}


def assert_equal(net, expected):
    torch.testing.assert_close(dict(net.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


class TestPublishedNames:
    @pytest.mark.parametrize(('options', 'names', 'some'), PUBLISHED, ids=ids(PUBLISHED))
    def test_network_and_weights(self, options, names, some, tmp_path):
        """The arguments that are not the defaults are read from the shapes; every value arrives where it was."""
        net = trained(options)
        weights = published(net, names)
        assert set(some) <= weights.keys()
        torch.save(weights, tmp_path / 'w.pth')
        entry = read_entry('', {'checkpoint': str(tmp_path / 'w.pth')})
        assert {key: entry.options[key] for key in options} | options == options
        assert_equal(entry.build(), net)

    @pytest.mark.parametrize(('options', 'names', 'count'), SIZES, ids=ids(SIZES))
    def test_published_sizes(self, options, names, count, tmp_path):
        with torch.device('meta'):
            net = build_network(dict(options))
        assert sum(parameter.numel() for parameter in net.parameters()) == count
        weights = {name: torch.zeros(1).expand(value.shape) for name, value in published(net, names).items()}
        torch.save({'state_dict': prefixed('generator.', weights)}, tmp_path / 'w.pth')  # a number for each weight
        assert recognise(tmp_path / 'w.pth').items() >= options.items()

    @pytest.mark.parametrize('container', CONTAINERS)
    @pytest.mark.parametrize(('options', 'names'), [(BASICVSR, BASICVSR_NAMES), (BASICVSR, []), (RRN, RRN_NAMES)])
    def test_containers(self, options, names, container, tmp_path):
        net = trained(options)
        torch.save(CONTAINERS[container](published(net, names)), tmp_path / 'w.pth')
        assert_equal(load_network(tmp_path / 'w.pth', device='cpu'), net)

    def test_safetensors(self, tmp_path):
        net = trained(BASICVSR)
        safetensors.torch.save_file(published(net, BASICVSR_NAMES), tmp_path / 'w.safetensors')
        assert_equal(parse_network(str(tmp_path / 'w.safetensors')).build(), net)

    def test_with_the_network_named(self, tmp_path):
        """As for a class of one's own; its arguments need not follow from the file."""
        net = trained(BASICVSR)
        torch.save(CONTAINERS['mmagic'](published(net, BASICVSR_NAMES)), tmp_path / 'w.pth')
        assert_equal(load_network(tmp_path / 'w.pth', 'BasicVSR:num_feat=4,num_block=2', 'cpu'), net)

    @pytest.mark.parametrize(
        'options',
        [
            {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 1, 'upscale': 3},
            {'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2, 'squeeze_factor': 4}
            | {'num_group': 3, 'upscale': 2},
            {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'scale': 2},
            {'type': 'EDVR', 'num_feat': 8, 'deformable_groups': 2, 'with_predeblur': True, 'hr_in': True},
            {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2},
            {'type': 'RSDN', 'num_feat': 4, 'num_block': 2},
        ],
    )
    def test_the_toolboxs_own(self, options, tmp_path):
        net = trained(options)
        torch.save({'params': net.state_dict()}, tmp_path / 'w.pth')
        assert recognise(tmp_path / 'w.pth').items() >= options.items()
        assert_equal(load_network(tmp_path / 'w.pth', device='cpu'), net)

    def test_constants_of_the_flow_network_may_lack(self, tmp_path):
        net = trained(BASICVSR)
        weights = published(net, BASICVSR_NAMES)
        del weights['spynet.mean'], weights['spynet.std']
        torch.save(weights, tmp_path / 'w.pth')
        assert_equal(load_network(tmp_path / 'w.pth', device='cpu'), net)

    def test_blurred_frames_of_tecogan(self, tmp_path):
        """Its networks for them keep the filter that enlarges frames, which ours makes itself."""
        weights = published(trained({'type': 'FRVSR', 'num_feat': 4, 'num_block': 1}), FRNET_NAMES)
        kernels = {'upsample_func.kernels': torch.ones(4, 4), 'srnet.upsample_func.kernels': torch.ones(4, 4)}
        torch.save({**weights, **kernels}, tmp_path / 'w.pth')
        options = {'type': 'FRVSR', 'num_feat': 4, 'num_block': 1, 'residual': True, 'lr_at_corner': True}
        assert recognise(tmp_path / 'w.pth') == options


class TestOutputs:
    """The networks of the published names, layer by layer, against those that are loaded."""

    @pytest.fixture
    def weights(self, tmp_path):
        def make(options, names):
            self.weights = published(trained(options), names)
            torch.save(self.weights, tmp_path / 'w.pth')
            return load_network(tmp_path / 'w.pth', device='cpu')

        return make

    def conv(self, name, x):
        return F.conv2d(x, self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias'), padding=1)

    def residual(self, name, x):
        return x + self.conv(f'{name}.conv2', F.relu(self.conv(f'{name}.conv1', x)))

    def deform(self, weight, offset, x, feat):
        return deform_conv2d(x, self.conv(offset, feat), self.weights[weight], padding=1)

    @torch.no_grad()
    def test_rrn(self, weights):
        net = weights(RRN, RRN_NAMES)
        frame, previous = torch.rand(2, 1, 3, 8, 8)
        h, o = torch.rand(1, 4, 8, 8), torch.rand(1, 12, 8, 8)
        feat = F.relu(self.conv('neuro.conv_1', torch.cat((previous, frame, h, o), 1)))
        feat = self.residual('neuro.recon_trunk.0', feat)
        hidden, output = net.forward_step(frame, previous, (h, o))
        torch.testing.assert_close(hidden, F.relu(self.conv('neuro.conv_h', feat)))
        residue = F.pixel_shuffle(output, 2) - F.interpolate(frame, scale_factor=2, mode='bilinear')
        torch.testing.assert_close(residue, F.pixel_shuffle(self.conv('neuro.conv_o', feat), 2), rtol=0, atol=1e-6)

    @torch.no_grad()
    def test_rsdn(self, weights):
        """Detail and structure, which have the same shapes, are not exchanged."""
        net = weights({'type': 'RSDN', 'num_feat': 4}, RSDN_NAMES)
        frame, previous = torch.rand(2, 1, 3, 8, 8)
        state = torch.rand(1, 4, 8, 8), torch.rand(1, 48, 8, 8), torch.rand(1, 48, 8, 8)
        taps = F.leaky_relu(self.conv('neuro.forget', frame), 0.1)
        patches = F.unfold(state[0].transpose(0, 1), 3, padding=1).view(4, 9, 8, 8)  # of each channel
        hidden = state[0] * torch.sigmoid((taps * patches).sum(1))
        (structure, detail), (structure0, detail0) = split_structure(frame), split_structure(previous)
        d = F.leaky_relu(self.conv('neuro.conv_d', torch.cat((detail0, detail, hidden, state[1]), 1)), 0.1)
        s = F.leaky_relu(self.conv('neuro.conv_s', torch.cat((structure0, structure, hidden, state[2]), 1)), 0.1)
        for k in range(1, 10):
            block = f'neuro.SD{k}.conv_'
            both = sum(self.conv(f'{block}{b}2', F.relu(self.conv(f'{block}{b}1', x))) for b, x in (('d', d), ('s', s)))
            d, s = d + both, s + both
        outputs = self.conv('neuro.conv_od', d), self.conv('neuro.conv_os', s)
        hidden = F.leaky_relu(self.conv('neuro.conv_hd', d), 0.1) + F.leaky_relu(self.conv('neuro.conv_hs', s), 0.1)
        result = net.forward_step(frame, previous, state)
        torch.testing.assert_close(result, (hidden, *outputs))
        expected = F.pixel_shuffle(self.conv('conv', torch.cat(outputs, 1)), 4)
        torch.testing.assert_close(net.upsample(frame, result), expected)

    @torch.no_grad()
    def test_tdan(self, weights):
        """Four deformable convolutions of the same shapes, each in its place."""
        net = weights(*next(case for case in PUBLISHED if case[0]['type'] == 'TDAN')[:2])
        window = torch.rand(1, 3, 3, 8, 8)
        feats = []
        for frame in window.unbind(1):
            feat = self.residual('feat_extract.1.0', F.relu(self.conv('feat_extract.0.conv', frame - 0.5)))
            feats.append(feat)
        images = []
        for i, supporting in enumerate(feats):
            a = self.conv('feat_aggregate.0', torch.cat((feats[1], supporting), 1))
            for name in ('feat_aggregate.1', 'feat_aggregate.2'):
                a = self.deform(f'{name}.weight', f'{name}.conv_offset', a, a)
            b = self.deform('align_1.weight', 'align_1.conv_offset', supporting, a)
            c = self.deform('align_2.weight', 'align_2.conv_offset', b, b)
            images.append(window[:, 1] - 0.5 if i == 1 else self.conv('to_rgb', c))
        feat = F.relu(self.conv('reconstruct.0.conv', torch.cat(images, 1)))
        for k in (0, 1):
            feat = self.residual(f'reconstruct.1.{k}', feat)
        for k in (2, 3):
            feat = F.pixel_shuffle(self.conv(f'reconstruct.{k}.upsample_conv', feat), 2)
        torch.testing.assert_close(net(window), self.conv('reconstruct.4', feat) + 0.5)


class TestRefused:
    @pytest.fixture
    def file(self, tmp_path):
        def write(weights):
            torch.save(weights, tmp_path / 'w.pth')
            return tmp_path / 'w.pth'

        return write

    def test_unknown_keys(self, file):
        path = file({'encoder.weight': torch.ones(3, 3), 'conv_hr.weight': torch.ones(64, 64, 3, 3)})
        with pytest.raises(InputError, match=r'which network is it\? Its keys are nearest to \w+ of .*, but it lacks '):
            recognise(path)

    def test_mixed_keys(self, file):
        """mmagic's and ours side by side."""
        weights = published(trained(BASICVSR), BASICVSR_NAMES)
        path = file({**weights, 'upconv1.weight': weights['upsample1.upsample_conv.weight']})
        with pytest.raises(InputError) as error:
            recognise(path)
        assert str(error.value) == (
            f'{path}: which network is it? Its keys are nearest to BasicVSR of mmagic, but the network has no '
            'second upconv1.weight; name the network (TYPE:KEY=VALUE, or an option file).'
        )

    def test_a_key_too_few(self, file):
        weights = published(trained(RRN), RRN_NAMES)
        del weights['neuro.recon_trunk.0.conv2.bias']
        with pytest.raises(InputError, match=r'nearest to RRN of junpan19/RRN, but it lacks body\.0\.conv2\.bias;'):
            recognise(file(weights))

    def test_another_size_than_the_named_networks(self, file):
        path = file(published(trained(BASICVSR), BASICVSR_NAMES))
        message = r'does not fit BasicVSR: backward_trunk\.main\.0\.weight is \(4, 7, 3, 3\) in it, but \(8, 11, 3, 3\)'
        with pytest.raises(InputError, match=message):
            load_weights(build_network({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 2}), path)

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    @pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
    def test_values_that_are_not_finite(self, value, suffix, tmp_path):
        weights = published(trained(RRN), RRN_NAMES)
        weights['neuro.conv_h.bias'][2] = value
        path = tmp_path / f'w.{suffix}'
        (torch.save if suffix == 'pth' else safetensors.torch.save_file)(weights, path)
        with pytest.raises(InputError, match=r'neuro\.conv_h\.bias has values that are NaN or infinite'):
            load_network(path, device='cpu')

    def test_what_is_no_plain_tensor(self, file):
        with pytest.raises(InputError, match=r'conv\.weight is int in it, and no tensor'):
            read_weights(file({'params': {'conv.weight': 3}}))
        with pytest.raises(
            InputError, match=r'conv\.weight is torch\.float32, torch\.sparse_coo in it, and no plain tensor'
        ):
            read_weights(file({'params': {'conv.weight': torch.ones(2).to_sparse()}}))

    def test_a_damaged_file(self, file, tmp_path):
        path = file(trained(RRN).state_dict())
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255  # in the middle of the values
        path.write_bytes(content)
        with pytest.raises(InputError, match=r'w\.pth is damaged \(.* has another checksum\)'):
            read_weights(path)
        (tmp_path / 'w.safetensors').write_bytes(b'\x08' + bytes(30))
        with pytest.raises(InputError, match=r'w\.safetensors is damaged'):
            load_network(tmp_path / 'w.safetensors')


SMALL = {'type': 'RLSP', 'num_feat': 4, 'num_conv': 1, 'scale': 2}
SAID = {'licence': 'Apache-2.0', 'training': '10 iterations on noise.'}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Instead of the package's weights: those of three tiny networks."""
    path = tmp_path / 'shipped'
    path.mkdir()
    monkeypatch.setattr(shipped_weights, 'FOLDER', path)
    for number, name in enumerate(('efar-s-bicubic', 'efar-s-video', 'rt-video')):
        save_shipped(SMALL, trained(SMALL, number).state_dict(), path / f'{name}.safetensors', SAID)
    numbers = {'rt-video': {'made_for': 'films', 'numbers': {'Vid4 city, PSNR-Y': '25.9 dB'}}}
    (path / 'index.json').write_text(json.dumps(numbers))
    return path


class TestShipped:
    @pytest.mark.parametrize('where', ['rt-video', 'file'])
    def test_the_file_says_its_network(self, folder, where, tmp_path):
        if where == 'file':
            where = (folder / 'rt-video.safetensors').rename(tmp_path / 'mine.safetensors')
        net = load_network(where, device='cpu')
        for name, value in trained(SMALL, 2).state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], value.half().float(), rtol=0, atol=0)
        assert net.scale == 2

    def test_in_a_benchmark(self, folder):
        entry = parse_network('rt-video')
        assert (entry.name, entry.options) == ('rt-video', SMALL)
        assert entry.checkpoint == str(folder / 'rt-video.safetensors')
        assert parse_network('mine=rt-video').name == 'mine'
        assert_equal(parse_network('RLSP:num_feat=4,num_conv=1,scale=2@rt-video').build(), entry.build())

    def test_constants_keep_their_precision_and_other_files_are_not_named(self, tmp_path):
        net = trained(BASICVSR)
        options = {**BASICVSR, 'spynet_path': 'my/flow.pth'}
        save_shipped(options, net.state_dict(), tmp_path / 'w.safetensors', SAID)
        loaded = load_network(tmp_path / 'w.safetensors', device='cpu')
        assert torch.equal(loaded.spynet.mean, net.spynet.mean)
        assert read_entry('', {'checkpoint': str(tmp_path / 'w.safetensors')}).options == BASICVSR

    def test_not_saved(self, tmp_path):
        weights = trained(SMALL).state_dict()
        path = tmp_path / 'w.safetensors'
        with pytest.raises(InputError, match="the key 'licence' is missing"):
            save_shipped(SMALL, weights, path, {'training': ''})
        with pytest.raises(InputError, match='the weights are not those of RLSP'):
            save_shipped({**SMALL, 'num_feat': 5}, weights, path, SAID)
        with pytest.raises(InputError, match=r'conv_last\.bias has values that are NaN or too large for float16'):
            save_shipped(SMALL, {**weights, 'conv_last.bias': weights['conv_last.bias'] + 1e6}, path, SAID)
        large = {'type': 'RLSP', 'num_feat': 256}
        with pytest.raises(InputError, match=r'would have 87\d+ bytes; shipped weights have 6000000 at most'):
            save_shipped(large, build_network(dict(large)).state_dict(), path, SAID)
        assert not path.exists()

    def test_listed(self, folder, capsys):
        assert list_shipped()['rt-video'].size == (folder / 'rt-video.safetensors').stat().st_size
        list_command([])
        text = capsys.readouterr().out
        assert re.findall(r'^\S.*', text, flags=re.MULTILINE) == ['efar-s-bicubic', 'efar-s-video', 'rt-video']
        assert text.partition('rt-video')[2].splitlines()[1:] == [
            '  made for: films',
            '  network: RLSP (num_feat=4, num_conv=1, scale=2)',
            '  scale: 2',
            '  size: 0.00 MB',
            '  licence: Apache-2.0',
            '  training: 10 iterations on noise.',
            '  Vid4 city, PSNR-Y: 25.9 dB',
        ]

    def test_those_of_the_package_can_be_built(self):
        for name, weights in list_shipped().items():
            assert weights.size <= shipped_weights.MAX_SIZE
            assert weights.made_for
            assert upscaling.network_scale(load_network(name, device='cpu')) == weights.scale

    def test_a_wrong_name(self, folder):
        with pytest.raises(
            InputError, match=r"no checkpoint rt-vido, and .* have that name; did you mean 'rt-video'\?"
        ):
            load_network('rt-vido')

    def test_metadata_that_is_no_network(self, tmp_path):
        path = tmp_path / 'w.safetensors'
        safetensors.torch.save_file({'a': torch.ones(1)}, path, {'network': '["EFAR"]'})
        with pytest.raises(InputError, match=r'what it says of its network is no mapping with a type: \["EFAR"\]'):
            load_network(path)
        safetensors.torch.save_file({'a': torch.ones(1)}, path, {'network': '{"type": "EFARR"}'})
        with pytest.raises(InputError, match=r"w\.safetensors: there is no network 'EFARR'"):
            load_network(path)


def test_neither_weights_nor_a_network():
    with pytest.raises(InputError, match='name a network, its weights, or both'):
        load_network(None)


class TestChosenByTheInput:
    @pytest.fixture
    def film(self, tmp_path):
        (tmp_path / 'film.MP4').touch()
        return tmp_path / 'film.MP4'

    def test_images(self, folder, tmp_path):
        (tmp_path / 'one.png').touch()
        for source in (tmp_path, tmp_path / '*.png', tmp_path / 'one.png'):
            assert choose_weights(source) == ('efar-s-bicubic', None)

    def test_a_film(self, folder, film, monkeypatch):
        assert choose_weights(film, 'cpu') == (
            'rt-video',
            'rt-video is taken, as there is no GPU; efar-s-video is slower and better.',
        )
        monkeypatch.setattr(upscaling, 'choose_device', lambda name: torch.device('cuda'))
        assert choose_weights(film) == ('efar-s-video', None)

    def test_among_what_is_there(self, folder, film, tmp_path):
        (folder / 'efar-s-video.safetensors').unlink()
        assert choose_weights(film, 'cpu') == ('rt-video', None)
        (folder / 'rt-video.safetensors').unlink()
        assert choose_weights(film, 'cpu') == ('efar-s-bicubic', None)
        (folder / 'efar-s-bicubic.safetensors').unlink()
        for source in (film, tmp_path):
            with pytest.raises(InputError, match='no weights are shipped with this version: give a checkpoint'):
                choose_weights(source)

    def test_by_the_command(self, folder, tmp_path, capsys):
        """No weights and no network are named; the output is that of the weights for images."""
        (tmp_path / 'frames').mkdir()
        frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'frames' / '0.png'), frame)
        upscale_command([str(tmp_path / 'frames'), '-o', str(tmp_path / 'out'), '--device', 'cpu'])
        assert 'note: the weights are efar-s-bicubic.' in capsys.readouterr().err
        lq = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None, None] / 255
        with torch.no_grad():
            expected = load_network('efar-s-bicubic', device='cpu')(lq)[0, 0].clamp(0, 1)
        restored = cv2.imread(str(tmp_path / 'out' / '0.png'))[..., ::-1]
        assert np.array_equal(restored, (expected * 255).round().byte().permute(1, 2, 0).numpy())
