"""Steps with their defaults, and named lists of steps, for `degradation:` in an option file."""

from __future__ import annotations

import math

PI = math.pi
DEFAULTS = {
    'unsharp': {'weight': 0.5},
    'blur': {
        'size': [7, 21],
        'kinds': {
            'iso': 0.405,
            'aniso': 0.225,
            'generalized_iso': 0.108,
            'generalized_aniso': 0.027,
            'plateau_iso': 0.108,
            'plateau_aniso': 0.027,
            'sinc': 0.1,
        },
        'sigma': [0.2, 3],
        'sigma_step': 0.02,
        'angle_step': 0.31416,
        'beta_generalized': [0.5, 4],
        'beta_generalized_step': 0.05,
        'beta_plateau': [1, 2],
        'beta_plateau_step': 0.1,
        'omega': None,  # from pi / 3 for kernels smaller than 13, from pi / 5 for others, to pi
        'omega_step': 0.0628,
    },
    'resize': {
        'directions': {'up': 0.2, 'down': 0.7, 'keep': 0.1},
        'scale': [0.15, 1.5],
        'scale_step': 0.015,
        'filters': ['bilinear', 'area', 'bicubic'],
    },
    'shrink': {'filters': ['bilinear', 'area', 'bicubic']},
    'noise': {
        'gaussian_prob': 0.5,
        'grey_prob': 0.4,
        'gaussian': [1, 30],
        'gaussian_step': 0.1,
        'poisson': [0.05, 3],
        'poisson_step': 0.005,
    },
    'jpeg': {'quality': [30, 95], 'quality_step': 3},
    'video': {
        'codecs': {'libx264': 0.6, 'libx265': 0.15, 'mpeg4': 0.25},
        'crf': [18, 35],
        'bit_rate': None,  # instead of crf, which then is none: bits per second
        'frame_rate': 25,
        'gop': [12, 250],
        'speed': ['ultrafast', 'medium'],
        'lead_in': False,
        'shift': False,
    },
    'shuffle': {'groups': None},
}

# RealBasicVSR (Chan et al., CVPR 2022), as its released configuration has it
_VIDEO = {
    'type': 'video',
    'codecs': {'libx264': 1 / 3, 'h264': 1 / 3, 'mpeg4': 1 / 3},
    'crf': None,
    'bit_rate': [10_000, 100_000],
    'frame_rate': 1,
    'gop': [12, 12],
    'speed': ['medium', 'medium'],
}
REALBASICVSR = [
    {'type': 'unsharp'},
    {'type': 'blur'},
    {'type': 'resize'},
    {'type': 'noise'},
    {'type': 'jpeg'},
    _VIDEO,
    {'type': 'blur', 'prob': 0.8, 'sigma': [0.2, 1.5]},
    {
        'type': 'resize',
        'directions': {'up': 0.3, 'down': 0.4, 'keep': 0.3},
        'scale': [0.3, 1.2],
        'scale_step': 0.03,
    },
    {'type': 'noise', 'gaussian': [1, 25], 'poisson': [0.05, 2.5]},
    {'type': 'jpeg'},
    {
        'type': 'shuffle',
        'groups': [
            [_VIDEO],
            [{'type': 'shrink'}, {'type': 'blur', 'prob': 0.8, 'kinds': {'sinc': 1}, 'omega': [PI / 3, PI]}],
        ],
    },
]

# ordinary films: shot a little soft, with a little noise, shrunk by some program, then compressed
FILM = [
    {
        'type': 'blur',
        'prob': 0.5,
        'size': [7, 15],
        'kinds': {'iso': 0.6, 'aniso': 0.3, 'plateau_iso': 0.1},
        'sigma': [0.2, 2.0],
    },
    {'type': 'shrink', 'filters': ['imresize', 'imresize', 'area', 'bilinear', 'bicubic']},
    {'type': 'noise', 'prob': 0.4, 'gaussian': [0.5, 6], 'poisson': [0.02, 0.5], 'grey_prob': 0.5},
    {'type': 'video', 'prob': 0.8, 'crf': [14, 35], 'lead_in': True, 'shift': True},
]

PRESETS = {'realbasicvsr': REALBASICVSR, 'film': FILM}
