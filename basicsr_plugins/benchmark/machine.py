"""What numbers were measured on and with, and the memory that a computation takes."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

VERSIONED_MODULES = {
    'basicsr_plugins': 'basicsr_plugins',
    'basicsr': 'basicsr',
    'torch': 'torch',
    'torchvision': 'torchvision',
    'numpy': 'numpy',
    'opencv': 'cv2',
}


def describe_machine(device: torch.device | str) -> dict[str, str | int | None]:
    """processor, gpu (None where `device` is not one), threads that torch uses, system."""
    device = torch.device(device)
    return {
        'processor': _processor(),
        'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
        'threads': torch.get_num_threads(),
        'system': platform.platform(),
    }


def _processor():
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'^model name\s*: (.+)$', cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found.group(1) if found else platform.machine()


def describe_versions() -> dict[str, str]:
    """Versions of this package, of what it stands on, and of Python."""
    versions = {name: import_module(module).__version__ for name, module in VERSIONED_MODULES.items()}
    return {**versions, 'python': platform.python_version()}


def git_commit(folder: Path | str) -> str | None:
    """The commit that is checked out in `folder`, as 'abc1234', or 'abc1234 (modified)' where tracked files differ.

    None where nothing of `folder` is in a git repository (one around a virtual environment is another's), or there is
    no git.
    """
    commit = _git(folder, 'rev-parse', '--short', 'HEAD')
    if not commit or not _git(folder, 'ls-files', '.'):
        return None
    changes = _git(folder, 'status', '--porcelain', '--untracked-files=no')
    return f'{commit} (modified)' if changes else commit


def this_commit() -> str | None:
    """The commit of this package, as `git_commit`."""
    return git_commit(Path(__file__).parent)


def _git(folder, *arguments):
    try:
        result = subprocess.run(['git', '-C', str(folder), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def synchronize(device: torch.device | str) -> None:
    """Wait until `device` has done what it was given; nothing on the CPU, which never lags behind."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


class PeakMemory:
    """Context that measures the peak of memory in it, on top of what was in use when it was entered.

    On CUDA it is the memory of tensors on that device. On the CPU it is the resident memory of the process, as Linux
    reports it; free memory that the C library keeps is handed back first, because reusing it would not show.

    Args:
        device: Where the computation runs.

    Attributes:
        bytes: The peak, after leaving; None where the system does not say.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.bytes = None
        self._before = None

    def __enter__(self) -> PeakMemory:
        self.bytes = None
        if self.device.type == 'cuda':
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            _hand_back_free_memory()
            self._before = _resident_bytes('VmRSS') if _restart_high_water_mark() else None
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == 'cuda':
            synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        elif self._before is not None:
            self.bytes = max(0, _resident_bytes('VmHWM') - self._before)


def _restart_high_water_mark():
    """Let VmHWM start again from here; whether that worked (Linux only)."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


def _resident_bytes(field):
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'^{field}:\s+(\d+) kB', status, re.MULTILINE).group(1)) * 1024


def _hand_back_free_memory():
    with suppress(AttributeError, OSError, TypeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)
