"""What numbers were measured on and with."""

from __future__ import annotations

import platform
import re
import subprocess
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
