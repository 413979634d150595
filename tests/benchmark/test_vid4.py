"""The command on real clips: what papers publish of bicubic interpolation."""

import json

import pytest

from ..conftest import PROJECT


def test_bicubic_is_what_papers_publish(shared, run_forked, tmp_path):
    published = shared / 'reference' / 'published_vid4.csv'
    run_forked(
        *(PROJECT / 'scripts' / 'benchmark.py', '--data', shared / 'data' / 'Vid4'),
        *('--published', published, '--no-profile', '-o', 'out'),
        cwd=tmp_path,
    )
    ours, theirs, *_ = json.loads((tmp_path / 'out' / 'results.json').read_text())['rows']
    assert (ours['name'], ours['published'], theirs['name'], theirs['published']) == ('Bicubic', False, 'Bicubic', True)
    assert theirs['clips'] == {'calendar': {'psnr': 20.39, 'ssim': 0.5720}, 'city': {'psnr': 25.16, 'ssim': 0.6028}}
    for clip, values in theirs['clips'].items():
        assert ours['clips'][clip]['psnr'] == pytest.approx(values['psnr'], abs=0.01)
        assert ours['clips'][clip]['ssim'] == pytest.approx(values['ssim'], abs=0.001)
    assert ours['average']['psnr'] == pytest.approx(theirs['average']['psnr'], abs=0.01)
