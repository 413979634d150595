"""A benchmark at several scales: one report, a table for each, a curve."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr

from basicsr_plugins.benchmark import scales
from basicsr_plugins.benchmark.results import Results, Row
from basicsr_plugins.commands import benchmark as command
from basicsr_plugins.data.any_scale import crop_to_scale, shrink_image
from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.bicubic import resize_bicubic

from .conftest import gt_frame


@pytest.fixture(scope='module')
def out(test_set, tmp_path_factory):
    out = tmp_path_factory.mktemp('scales')
    command.main(
        [
            *('--data', str(test_set), '--degradation', 'bicubic', '--scale', '2', '2.5', '4', '3x2'),
            *('--clips', 'a', '--max-frames', '2', '--no-profile', '--channel', 'rgb', '-o', str(out)),
            *('--network', 'RLSP:num_feat=8,num_conv=2', '--device', 'cpu'),
        ]
    )
    return out


def test_one_report(out):
    """Every scale has its table, who cannot make a scale says so, and the CSV holds all."""
    with open(out / 'results.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['scale'] for row in rows if (row['method'], row['clip']) == ('Bicubic', 'average')] == [
        *('2', '2.5', '4', '3x2')
    ]
    errors = {row['scale']: row['error'] for row in rows if row['method'] == 'RLSP'}
    assert errors['4'] == ''
    assert errors['2.5'] == 'scale is 2.5, but RLSP upscales by 4 (it can be built for 2, 3, 4); BasicAVSR takes any'
    page = (out / 'report.html').read_text()
    for name in ('2', '2.5', '4', '3x2'):
        assert f'<h2 id="x{name}">×{name}</h2>' in page
        assert (out / f'x{name}' / 'report.html').is_file()
    assert page.count('<svg') == 1
    assert set(json.loads((out / 'results.json').read_text())) == {'2', '2.5', '4', '3x2'}


def test_bicubic_row(out):
    """LQ of the cropped GT by MATLAB's weights, and back by them."""
    with open(out / 'results.csv') as file:
        rows = {(row['scale'], row['clip'], row['method']): row for row in csv.DictReader(file)}
    for name, scale in (('2.5', 2.5), ('3x2', (2, 3))):
        expected = []
        for i in range(2):
            gt = crop_to_scale(gt_frame('a', i), scale)
            lq = torch.from_numpy(shrink_image(gt, 'bicubic', scale)).permute(2, 0, 1).float()
            restored = resize_bicubic(lq, gt.shape[:2]).clamp(0, 255).round().numpy().transpose(1, 2, 0)
            expected.append(calculate_psnr(restored, gt, 0))
        assert float(rows[name, 'a', 'Bicubic']['psnr']) == pytest.approx(np.mean(expected), abs=0.01)


def test_points_of_the_curve(out):
    """A method's line stands at its scales; two factors at their geometric mean."""
    found = {
        name: Results(**{**one, 'rows': [Row(**row) for row in one['rows']]})
        for name, one in json.loads((out / 'results.json').read_text()).items()
    }
    factors = {'2': 2, '2.5': 2.5, '4': 4, '3x2': (2, 3)}
    metric = scales.metric_column(found['2'], 'psnr', ('average',))
    points = scales._points(found, factors, 'Bicubic', metric)
    assert [point[0] for point in points] == pytest.approx([2, 2.5, 4, math.sqrt(6)])
    assert [point[2] for point in points] == [True, True, True, False]
    assert len(scales._points(found, factors, 'RLSP (random)', metric)) == 1
    assert 'RLSP (random)' in scales.curve(found, factors)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--scale', '0'], '--scale is 0, but must be from 1 to 16'),
        (['--scale', '2'], 'found no folder of LQ clips .*, or a degradation that makes LQ of GT'),
    ],
)
def test_wrong_arguments(test_set, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        command.main(['--data', str(test_set), '-o', str(tmp_path), *arguments])
