"""A program that an `InputError` stops ends with one line; any other error is a traceback as before."""

RAISE = 'import basicsr; from basicsr_plugins.errors import InputError; raise {}'


def test_excepthook(run, tmp_path):
    program = RAISE.format("InputError('num_frame is 99.\\nIt must be less.')")
    result = run('python', '-W', 'ignore', '-c', program, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr == 'error: num_frame is 99. It must be less.\n'
    without = run('python', '-c', program.replace('import basicsr;', ''), cwd=tmp_path, check=False)
    assert 'Traceback' in without.stderr
    other = run('python', '-c', RAISE.format("ValueError('other')"), cwd=tmp_path, check=False)
    assert 'Traceback' in other.stderr
    assert other.stderr.endswith('ValueError: other\n')
