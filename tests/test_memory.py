"""What memory is free, by the limits that Linux sets; PeakMemory's tests are those of the benchmark's profile."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from basicsr_plugins.memory import PeakMemory, free_memory, freed_memory_kept, is_out_of_memory

MIB = 2**20


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / 'proc/meminfo', 'MemTotal:  8192 kB\nMemAvailable:  4096 kB\n')
    return tmp_path


def test_available_memory(root):
    assert free_memory(None, root) == 4 * MIB
    assert free_memory(None, root / 'nowhere') is None


def test_control_groups(root):
    """The least of what the groups around a process leave; file cache that can go counts as free."""
    write(root / 'proc/self/cgroup', '0::/job/part\n')
    groups = root / 'sys/fs/cgroup'
    write(groups / 'job/part/memory.max', 'max\n')
    write(groups / 'job/part/memory.current', '100\n')
    assert free_memory(None, root) == 4 * MIB
    write(groups / 'job/memory.max', f'{3 * MIB}\n')
    write(groups / 'job/memory.current', f'{2 * MIB}\n')
    assert free_memory(None, root) == MIB
    write(groups / 'job/memory.stat', f'anon 5\ninactive_file {MIB}\n')
    assert free_memory(None, root) == 2 * MIB
    write(groups / 'job/memory.current', f'{5 * MIB}\n')
    assert free_memory(None, root) == 0


def test_control_groups_of_version_1(root):
    write(root / 'proc/self/cgroup', '5:cpu:/a\n4:memory:/a/b\n')
    write(root / 'sys/fs/cgroup/memory/a/memory.limit_in_bytes', f'{2 * MIB}\n')
    write(root / 'sys/fs/cgroup/memory/a/memory.usage_in_bytes', f'{MIB}\n')
    write(root / 'sys/fs/cgroup/memory/a/memory.stat', 'total_inactive_file 7\n')
    assert free_memory(None, root) == MIB + 7


@pytest.mark.skipif(sys.platform != 'linux', reason='the limit is read from /proc')
@pytest.mark.parametrize(('kind', 'field'), [('RLIMIT_AS', 'VmSize'), ('RLIMIT_DATA', 'VmData')])
def test_limits_of_the_process(kind, field):
    code = (
        'import resource, basicsr_plugins.memory as memory\n'
        f"taken = [line for line in open('/proc/self/status') if line.startswith('{field}')][0].split()[1]\n"
        f'resource.setrlimit(resource.{kind}, (int(taken) * 1024 + 300 * 2**20,) * 2)\n'
        'print(memory.free_memory(None))\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 290 * MIB < int(result.stdout) <= 300 * MIB


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is what Linux says')
def test_freed_memory_is_kept_in_its_context_alone():
    """In it all of what is freed; afterwards only what lies between blocks in use, which a measurement hands back."""

    def resident():
        return int(Path('/proc/self/statm').read_text().split()[1]) * mmap.PAGESIZE

    def left_behind(size):
        """What the process has more after it took blocks of 160 MiB together and of another size, and freed them."""
        before = resident()
        blocks = [torch.ones(part * MIB // 4) for part in (4, 60, 96, size)]
        assert resident() - before > (150 + size) * MIB
        del blocks
        return resident() - before

    with PeakMemory('cpu'):  # hands back what others left
        before = resident()
    with freed_memory_kept():
        assert left_behind(40) > 190 * MIB
    assert resident() - before < 10 * MIB
    assert left_behind(400) < 200 * MIB
    with PeakMemory('cpu') as memory:
        torch.ones(50 * MIB // 4)
    assert memory.bytes == pytest.approx(50 * MIB, rel=0.1)


@pytest.mark.parametrize(
    ('error', 'is_one'),
    [
        (MemoryError(), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'), True),
        (RuntimeError('Exception from src: std::bad_alloc'), True),
        (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), False),
        (ValueError('memory'), False),
    ],
)
def test_errors_of_memory(error, is_one):
    assert is_out_of_memory(error) == is_one
