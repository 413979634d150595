"""Memory: what a computation takes, what is free, what goes to a device and back, and what the C library keeps."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt(3)
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
# what glibc comes to by itself once a block of 32 MiB was freed; what it starts with cannot be had again
HANDING_BACK = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
OUT_OF_MEMORY = (  # PyTorch's words, C++'s, ONNX Runtime's, oneDNN's
    *('out of memory', "can't allocate memory", 'bad_alloc', 'bad allocation', 'Failed to allocate memory'),
    *('could not create a primitive', 'could not create a memory'),
)


def synchronize(device: torch.device | str) -> None:
    """Wait until `device` has done what it was given; nothing on the CPU, which never lags behind."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def to_device(tensor: Tensor, device: torch.device | None) -> Tensor:
    """A tensor on `device`, None for where it is; from the CPU to CUDA by a copy from pinned memory, not waited for."""
    if device is None:
        return tensor
    if device.type == 'cuda' and not tensor.is_cuda:
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> Tensor:
    """A tensor on the CPU; from CUDA by one copy to pinned memory, which PyTorch keeps and uses again."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor.contiguous(), non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


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
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, PyTorch or another runtime says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def free_memory(device: torch.device | None, root: Path = Path('/')) -> int | None:
    """Bytes that a process may still take: of a GPU what its driver says is free, of RAM the least of the limits on it.

    Args:
        device: None for the CPU.
        root: Where `proc` and `sys` are.

    Returns:
        None where the system does not say.
    """
    if device is not None and device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return min(_limits(root), default=None)


def _limits(root: Path) -> Iterator[int]:
    found = re.search(r'^MemAvailable:\s+(\d+) kB', _read(root / 'proc/meminfo'), re.MULTILINE)
    if found:
        yield int(found.group(1)) * 1024
    for _, controllers, path in re.findall(r'^(\d+):(.*?):/(.*)$', _read(root / 'proc/self/cgroup'), re.MULTILINE):
        if controllers in ('', 'memory'):
            yield from _limits_of_group(root / 'sys/fs/cgroup', controllers, Path(path))
    with contextlib.suppress(ImportError, AttributeError):  # not Unix
        import resource

        for kind, field in ((resource.RLIMIT_AS, 'VmSize'), (resource.RLIMIT_DATA, 'VmData')):
            limit = resource.getrlimit(kind)[0]
            taken = re.search(rf'^{field}:\s+(\d+) kB', _read(root / 'proc/self/status'), re.MULTILINE)
            if limit != resource.RLIM_INFINITY and taken:
                yield max(limit - int(taken.group(1)) * 1024, 0)


def _limits_of_group(mounted: Path, controllers: str, path: Path) -> Iterator[int]:
    """What control groups leave: that of the process, and those around it."""
    if controllers:
        names, mounted = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'), mounted / 'memory'
    else:
        names = ('memory.max', 'memory.current', 'inactive_file')
    for group in (path, *path.parents):
        limit, taken = (_read(mounted / group / name).strip() for name in names[:2])
        cache = re.search(rf'^{names[2]} (\d+)$', _read(mounted / group / 'memory.stat'), re.MULTILINE)
        if limit.isdecimal() and taken.isdecimal():  # a group without a limit says max, or has no such file
            yield max(int(limit) - int(taken) + (int(cache.group(1)) if cache else 0), 0)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ''


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Context in which the C library keeps what is freed and uses it again; at its end what is free is handed back.

    Else it hands large blocks, as features and frames are, back to the system, which clears each page again when the
    next frame needs it: a fifth of the time of upscaling. The GNU C library only.
    """
    _set_malloc(KEEPING)
    try:
        yield
    finally:
        _set_malloc(HANDING_BACK)
        _hand_back_free_memory()


def _set_malloc(parameters: Mapping[int, int]) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        for parameter, value in parameters.items():
            library.mallopt(parameter, value)
