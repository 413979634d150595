"""Names that other code gives to the weights of networks that are here, and what their shapes say of the arguments.

Rules are pairs of a regular expression and its replacement, applied in turn to each key; without a replacement the key
is dropped. Nothing is reordered: channels, flow and offsets mean the same in all of them.

Sources: mmagic (BasicVSR, RealBasicVSR, IconVSR, BasicVSR++, EDVR, TDAN; the official BasicVSR++ and RealBasicVSR files
are the same), YapengTian/TDAN-VSR-CVPR-2020, Mukosame/Zooming-Slow-Mo-CVPR-2020, junpan19/RRN, junpan19/RSDN,
skycrapers/TecoGAN-PyTorch (FRNet), cszn/KAIR and the first ESRGAN (RRDBNet, MSRResNet1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Union

from torch import Tensor

Weights = Mapping[str, Tensor]
Rule = tuple[str, Union[str, Callable[[re.Match], str], None]]


@dataclass(frozen=True)
class Format:
    """How the weights of some networks are named.

    Args:
        name: For messages.
        networks: Names in the registry, keys of `ARGUMENTS`.
        rules: From its names to ours.
        implied: Arguments that its networks have beside those that shapes say, from the weights before renaming.
    """

    name: str
    networks: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    implied: Callable[[Weights], dict] = lambda weights: {}

    def rename(self, weights: Weights) -> dict[str, Tensor]:
        """The weights under our names; where two would have one name, the later is `second NAME`."""
        renamed = {}
        for name, value in weights.items():
            new = self._new_name(name)
            if new is not None:
                renamed[f'second {new}' if new in renamed else new] = value
        return renamed

    def _new_name(self, name: str) -> str | None:
        for pattern, replacement in self.rules:
            if replacement is not None:
                name = re.sub(pattern, replacement, name)
            elif re.search(pattern, name):
                return None
        return name


# ---------------------------------------------------------------------------- names

MMAGIC: tuple[Rule, ...] = (
    (r'(spynet\.basic_module\.\d\.basic_module\.)(\d)\.conv\.', lambda match: f'{match[1]}{2 * int(match[2])}.'),
    (r'upsample(\d)\.upsample_conv\.', r'upconv\1.'),
    (r'(backward|forward)_resblocks\.', r'\1_trunk.'),
    (r'feat_l(\d)_conv(\d)\.conv\.', r'conv_l\1_\2.'),
    (r'pcd_alignment\.', 'pcd_align.'),
    (r'((?:offset_conv\d|feat_conv)\.l\d|cas_offset_conv\d)\.conv\.', r'\1.'),
    (r'(fusion\.(?:feat_fusion|spatial_attn\w+))\.conv\.', r'\1.'),
    (r'conv_offset_mask\.', 'conv_offset.'),  # as EDVR's first repository has it
)
TDAN_MMAGIC: tuple[Rule, ...] = (
    (r'^feat_extract\.0\.conv\.', 'extractor.0.'),
    (r'^feat_extract\.1\.', 'extractor.2.'),
    (r'^feat_aggregate\.0\.', 'alignment.fusion.'),
    (r'^feat_aggregate\.(\d)\.', r'alignment.aggregate\1.'),
    (r'^align_1\.', 'alignment.align.'),
    (r'^align_2\.', 'alignment.refine.'),
    (r'^(alignment\.[a-z]+\d?)\.weight$', r'\1.deform_conv.weight'),
    (r'^alignment\.fusion\.deform_conv\.', 'alignment.fusion.'),
    (r'^to_rgb\.', 'conv_aligned.'),
    (r'^reconstruct\.0\.conv\.', 'reconstruction.0.'),
    (r'^reconstruct\.1\.', 'reconstruction.2.'),
    (r'^reconstruct\.2\.upsample_conv\.', 'reconstruction.3.'),
    (r'^reconstruct\.3\.upsample_conv\.', 'reconstruction.5.'),
    (r'^reconstruct\.4\.', 'conv_last.'),
)
TDAN_OFFICIAL: tuple[Rule, ...] = (
    (r'^conv_first\.', 'extractor.0.'),
    (r'^residual_layer\.', 'extractor.2.'),
    (r'^cr\.', 'alignment.fusion.'),
    (r'^off2d_([12])\.', r'alignment.aggregate\1.conv_offset.'),
    (r'^dconv_1\.', 'alignment.aggregate1.deform_conv.'),
    (r'^deconv_2\.', 'alignment.aggregate2.deform_conv.'),
    (r'^off2d_3\.', 'alignment.align.conv_offset.'),
    (r'^deconv_3\.', 'alignment.align.deform_conv.'),
    (r'^off2d\.', 'alignment.refine.conv_offset.'),
    (r'^dconv\.', 'alignment.refine.deform_conv.'),
    (r'^recon_lr\.', 'conv_aligned.'),
    (r'^fea_ex\.0\.', 'reconstruction.0.'),
    (r'^recon_layer\.', 'reconstruction.2.'),
    (r'^up\.0\.0\.', 'reconstruction.3.'),
    (r'^up\.0\.2\.', 'reconstruction.5.'),
    (r'^up\.1\.', 'conv_last.'),
)
RRN: tuple[Rule, ...] = (
    (r'^neuro\.conv_1\.', 'conv_first.'),
    (r'^neuro\.recon_trunk\.', 'body.'),
    (r'^neuro\.conv_h\.', 'conv_hidden.'),
    (r'^neuro\.conv_o\.', 'conv_last.'),
)
BRANCHES = {'d': 'detail', 's': 'structure'}
RSDN: tuple[Rule, ...] = (
    (r'^neuro\.forget\.', 'conv_filter.'),
    (r'^neuro\.conv_([ds])\.', lambda match: f'conv_{BRANCHES[match[1]]}.'),
    (
        r'^neuro\.SD(\d+)\.conv_([ds])([12])\.',
        lambda match: f'body.{int(match[1]) - 1}.{BRANCHES[match[2]]}.{2 * int(match[3]) - 2}.',
    ),
    (r'^neuro\.conv_h([ds])\.', lambda match: f'hidden_{BRANCHES[match[1]]}.'),
    (r'^neuro\.conv_o([ds])\.', lambda match: f'last_{BRANCHES[match[1]]}.'),
    (r'^conv\.', 'conv_last.'),
)
FRNET: tuple[Rule, ...] = (
    (r'upsample_func\.kernels$', None),  # a constant
    (r'^fnet\.(encoder|decoder)([123])\.', lambda match: f'fnet.{match[1]}.{int(match[2]) - 1}.'),
    (r'^fnet\.flow\.0\.', 'fnet.conv_flow.'),
    (r'^fnet\.flow\.2\.', 'fnet.conv_last.'),
    (r'^srnet\.conv_in\.0\.', 'srnet.conv_first.'),
    (r'^srnet\.resblocks\.(\d+)\.conv\.0\.', r'srnet.body.\1.conv1.'),
    (r'^srnet\.resblocks\.(\d+)\.conv\.2\.', r'srnet.body.\1.conv2.'),
    (r'^srnet\.conv_up\.0\.', 'srnet.upconv1.'),
    (r'^srnet\.conv_up\.2\.', 'srnet.upconv2.'),
    (r'^srnet\.conv_out\.', 'srnet.conv_last.'),
)
RRDB: tuple[Rule, ...] = (
    (r'^RRDB_trunk\.(\d+)\.RDB(\d)\.', r'body.\1.rdb\2.'),
    (r'^trunk_conv\.', 'conv_body.'),
    (r'^upconv([12])\.', r'conv_up\1.'),
    (r'^HRconv\.', 'conv_hr.'),
)
MSRRESNET: tuple[Rule, ...] = ((r'^recon_trunk\.', 'body.'), (r'^HRconv\.', 'conv_hr.'))

PAIRS = r'pcd_align\.L(\d)_'  # of deformable alignment: its level; behind it the direction


def _in_direction(part: str) -> Callable[[re.Match], str]:
    return lambda match: f'directions.{int(match[3]) - 1}.{part.format(match[2])}.l{match[1]}.'


ZOOMING_SLOW_MO: tuple[Rule, ...] = (
    (r'^(fea_L|pcd_align\.|fusion\.)', r'interpolation.\1'),
    (r'^ConvBLSTM\.conv_1x1\.', 'fusion.'),
    (r'^ConvBLSTM\.forward_net\.pcd_h\.', 'lstm.align_hidden.'),
    (r'^ConvBLSTM\.forward_net\.pcd_c\.', 'lstm.align_cell.'),
    (r'^ConvBLSTM\.forward_net\.cell_list\.0\.conv\.', 'lstm.gates.'),
    (r'fea_L(\d)_conv(\d)\.', r'conv_l\1_\2.'),
    (PAIRS + r'offset_conv(\d)_(\d)\.', _in_direction('offset_conv{}')),
    (PAIRS + r'(dcnpack)_(\d)\.', _in_direction('dcn_pack')),
    (PAIRS + r'(fea_conv)_(\d)\.', _in_direction('feat_conv')),
    (r'conv_offset_mask\.', 'conv_offset.'),
    (r'^feature_extraction\.', 'extractor.'),
    (r'^recon_trunk\.', 'reconstruction.'),
    (r'^HRconv\.', 'conv_hr.'),
)
TOOLBOX = ('BasicVSR', 'IconVSR', 'BasicVSRPlusPlus', 'EDVR', 'RRDBNet', 'MSRResNet', 'EDSR', 'RCAN')
FORMATS = (
    Format('the toolbox', (*TOOLBOX, 'RealBasicVSR', 'TDAN', 'RRN', 'RSDN', 'ZoomingSlowMo')),
    Format('mmagic', ('BasicVSR', 'RealBasicVSR', 'IconVSR', 'BasicVSRPlusPlus', 'EDVR'), MMAGIC),
    Format('mmagic', ('TDAN',), TDAN_MMAGIC),
    Format('TDAN-VSR-CVPR-2020', ('TDAN',), TDAN_OFFICIAL),
    Format('junpan19/RRN', ('RRN',), RRN),
    Format('junpan19/RSDN', ('RSDN',), RSDN),
    Format(
        'TecoGAN-PyTorch',
        ('FRVSR',),
        FRNET,
        # its networks for blurred and decimated frames keep their upsampling filter as weights
        lambda weights: {'residual': True, 'lr_at_corner': any(name.endswith('.kernels') for name in weights)},
    ),
    Format('Zooming-Slow-Mo-CVPR-2020', ('ZoomingSlowMo',), ZOOMING_SLOW_MO),
    Format('the first ESRGAN and KAIR', ('RRDBNet',), RRDB),
    Format('KAIR', ('MSRResNet',), MSRRESNET),
)

# ---------------------------------------------------------------------------- arguments


def _count(weights: Weights, prefix: str) -> int:
    """How many numbered parts have names that begin with this."""
    pattern = re.compile(re.escape(prefix) + r'(\d+)\.')
    return len({match[1] for match in map(pattern.match, weights) if match})


def _out(weights: Weights, layer: str) -> int:
    return weights[f'{layer}.weight'].shape[0]


def _in(weights: Weights, layer: str) -> int:
    return weights[f'{layer}.weight'].shape[1]


def _basicvsr(weights: Weights) -> dict:
    return {'num_feat': _in(weights, 'upconv1'), 'num_block': _count(weights, 'backward_trunk.main.2.')}


def _realbasicvsr(weights: Weights) -> dict:
    return {
        'num_feat': _in(weights, 'basicvsr.upconv1'),
        'num_block': _count(weights, 'basicvsr.backward_trunk.main.2.'),
        'num_clean_block': _count(weights, 'image_cleaning.0.main.2.'),
    }


def _iconvsr(weights: Weights) -> dict:
    num_frame = _in(weights, 'edvr.fusion.feat_fusion') // _in(weights, 'upconv1')
    return {**_basicvsr(weights), 'temporal_padding': num_frame // 2}


def _basicvsrpp(weights: Weights) -> dict:
    return {
        'mid_channels': _in(weights, 'upconv1'),
        'num_blocks': _count(weights, 'backbone.backward_1.main.2.'),
        'is_low_res_input': 'feat_extract.0.weight' not in weights,  # strided convolutions
    }


def _edvr(weights: Weights) -> dict:
    num_feat = _in(weights, 'upconv1')
    with_tsa = 'fusion.weight' not in weights
    return {
        'num_feat': num_feat,
        'num_frame': _in(weights, 'fusion.feat_fusion' if with_tsa else 'fusion') // num_feat,
        'deformable_groups': _out(weights, 'pcd_align.cas_dcnpack.conv_offset') // 27,
        'num_extract_block': _count(weights, 'feature_extraction.'),
        'num_reconstruct_block': _count(weights, 'reconstruction.'),
        'hr_in': 'predeblur.stride_conv_hr1.weight' in weights,
        'with_predeblur': 'predeblur.conv_first.weight' in weights,
        'with_tsa': with_tsa,
    }


def _rrdbnet(weights: Weights) -> dict:
    num_ch = _out(weights, 'conv_last')
    return {
        'num_in_ch': num_ch,
        'num_out_ch': num_ch,
        'scale': {1: 4, 4: 2, 16: 1}[_in(weights, 'conv_first') // num_ch],  # blocks of pixels, for lower factors
        'num_feat': _out(weights, 'conv_first'),
        'num_block': _count(weights, 'body.'),
        'num_grow_ch': _out(weights, 'body.0.rdb1.conv1'),
    }


def _image(weights: Weights) -> dict:
    return {
        'num_in_ch': _in(weights, 'conv_first'),
        'num_out_ch': _out(weights, 'conv_last'),
        'num_feat': _out(weights, 'conv_first'),
    }


def _msrresnet(weights: Weights) -> dict:
    upscale = 4 if 'upconv2.weight' in weights else round((_out(weights, 'upconv1') // _in(weights, 'upconv1')) ** 0.5)
    return {**_image(weights), 'num_block': _count(weights, 'body.'), 'upscale': upscale}


def _upsampled(weights: Weights) -> int:
    """The factor of the toolbox's `Upsample`."""
    tripled = _out(weights, 'upsample.0') == 9 * _in(weights, 'upsample.0')
    return 3 if tripled else 2 ** _count(weights, 'upsample.')


def _edsr(weights: Weights) -> dict:
    options = {**_image(weights), 'num_block': _count(weights, 'body.'), 'upscale': _upsampled(weights)}
    return {**options, 'res_scale': {64: 1, 256: 0.1}[options['num_feat']]}  # of the published ones


def _rcan(weights: Weights) -> dict:
    return {
        **_image(weights),
        'num_group': _count(weights, 'body.'),
        'num_block': _count(weights, 'body.0.residual_group.'),
        'squeeze_factor': _out(weights, 'conv_first') // _out(weights, 'body.0.residual_group.0.rcab.3.attention.1'),
        'upscale': _upsampled(weights),
    }


def _tdan(weights: Weights) -> dict:
    return {
        'num_feat': _out(weights, 'extractor.0'),
        'num_frame': _in(weights, 'reconstruction.0') // 3,
        'num_extract_block': _count(weights, 'extractor.2.'),
        'num_block': _count(weights, 'reconstruction.2.'),
        'deform_groups': _out(weights, 'alignment.align.conv_offset') // 18,
    }


def _rrn(weights: Weights) -> dict:
    return {
        'num_feat': _out(weights, 'conv_hidden'),
        'num_block': _count(weights, 'body.'),
        'scale': round((_out(weights, 'conv_last') // 3) ** 0.5),
    }


def _rsdn(weights: Weights) -> dict:
    return {'num_feat': _out(weights, 'hidden_detail'), 'num_block': _count(weights, 'body.')}


def _frvsr(weights: Weights) -> dict:
    return {'num_feat': _out(weights, 'srnet.conv_first'), 'num_block': _count(weights, 'srnet.body.')}


def _zooming_slow_mo(weights: Weights) -> dict:
    return {
        'num_feat': _out(weights, 'conv_first'),
        'num_extract_block': _count(weights, 'extractor.'),
        'num_block': _count(weights, 'reconstruction.'),
        'deform_groups': _out(weights, 'interpolation.directions.0.dcn_pack.l1.conv_offset') // 27,
    }


# network -> its arguments, from weights under our names; KeyError where they are another network's
ARGUMENTS: dict[str, Callable[[Weights], dict]] = {
    'BasicVSR': _basicvsr,
    'RealBasicVSR': _realbasicvsr,
    'IconVSR': _iconvsr,
    'BasicVSRPlusPlus': _basicvsrpp,
    'EDVR': _edvr,
    'RRDBNet': _rrdbnet,
    'MSRResNet': _msrresnet,
    'EDSR': _edsr,
    'RCAN': _rcan,
    'TDAN': _tdan,
    'RRN': _rrn,
    'RSDN': _rsdn,
    'FRVSR': _frvsr,
    'ZoomingSlowMo': _zooming_slow_mo,
}
