"""A program that an `InputError` stops ends with one line; any other error is a traceback as before."""

import signal

RAISE = 'import basicsr; from basicsr_plugins.errors import InputError; raise {}'


def test_excepthook(run, tmp_path):
    program = RAISE.format("InputError('num_frame is 99.\\nIt must be less.')")
    result = run('python', '-W', 'ignore', '-c', program, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr == 'error: num_frame is 99. It must be less.\n'
    without = run('python', '-c', program.replace('import basicsr; ', ''), cwd=tmp_path, check=False)
    assert 'Traceback' in without.stderr
    other = run('python', '-c', RAISE.format("ValueError('other')"), cwd=tmp_path, check=False)
    assert 'Traceback' in other.stderr
    assert other.stderr.endswith('ValueError: other\n')


def test_interrupted(run, tmp_path):
    result = run('python', '-W', 'ignore', '-c', RAISE.format('KeyboardInterrupt'), cwd=tmp_path, check=False)
    assert result.returncode == -signal.SIGINT
    assert result.stderr == 'interrupted\n'


KILLED = """
import os, signal, torch
import basicsr
class Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == '__main__':
    for _ in torch.utils.data.DataLoader(Killed(), num_workers=1):
        pass
"""


def test_killed_worker(run, tmp_path):
    (tmp_path / 'killed.py').write_text(KILLED)
    result = run('python', '-W', 'ignore', 'killed.py', cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith('error: a process that loads data is gone (DataLoader worker (pid')
    assert result.stderr.endswith('lower num_worker_per_gpu; --auto_resume goes on from the last state.\n')
    assert len(result.stderr.splitlines()) == 1
