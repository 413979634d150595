"""A small part of the drills of `scripts/drills.sh`; each ends with exit code 0 if nothing went wrong."""

import pytest

from .conftest import PROJECT


@pytest.mark.parametrize(
    ('script', 'options', 'number'),
    [
        ('upscaling.py', ['--kills', '1', '--twice', '1', '--full', '1', '--frames', '8'], 3),
        ('training.py', ['--kills', '1', '--twice', '1', '--full', '1', '--seed', '6'], 3),
        ('packing.py', ['--kills', '1', '--twice', '1', '--full', '1'], 3),
        ('benchmark.py', ['--kills', '1', '--twice', '1', '--full', '1', '--seed', '6'], 3),
        ('damage.py', ['--count', '6'], 6),
        ('options.py', ['--count', '5'], 5),
    ],
)
def test_a_few(run_forked, tmp_path, script, options, number):
    result = run_forked(PROJECT / 'scripts' / 'drills' / script, *options, cwd=tmp_path)
    rows = [line.strip('|').split('|') for line in result.stdout.splitlines() if line.startswith('|')]
    assert sum(int(count) for _, _, count in rows) == number
    assert not [row for row in rows if row[1].strip() == 'wrong']
