"""What was measured before: a small file for each result below `cache/`, whose name says what the result depends on.

An interrupted benchmark takes them up, and the processes of torchrun, which share the clips, meet in them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import torch

from basicsr_plugins.benchmark.clips import BenchmarkClip
from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.benchmark.methods import Method
from basicsr_plugins.benchmark.settings import Benchmark
from basicsr_plugins.files import write_atomically

PICTURES = ('frame', 'crop', 'profile')


class Cache:
    """The files of a benchmark's results.

    Args:
        benchmark: Its settings.
    """

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark
        self.folder = benchmark.out / 'cache'

    def key(self, method: Method) -> str:
        """A name for the results of a method, another one when anything changes that they all depend on."""
        settings = self.benchmark
        data = [str(root.absolute()) for root in (settings.lq_root, settings.gt_root)]
        device = torch.device(settings.device).type
        return f'{safe_name(method.name)}-{_hash(method.identity(), data, asdict(settings.protocol), device)}'

    def clip(self, method: Method, clip: BenchmarkClip) -> Path:
        """The metrics of a clip."""
        return self.folder / self.key(method) / f'clip_{safe_name(clip.name)}_{_clip_hash(method, clip)}.json'

    def clip_failure(self, method: Method, clip: BenchmarkClip) -> Path:
        """Why the method failed on a clip."""
        return self.folder / self.key(method) / f'failure_{safe_name(clip.name)}.json'

    def counts(self, method: Method) -> Path:
        """Parameters and multiply-adds."""
        return self.folder / self.key(method) / 'counts.json'

    def profile(self, method: Method) -> Path:
        """The whole cost, on this machine."""
        settings = self.benchmark
        machine = _hash(asdict(settings.profile), settings.device, describe_machine(settings.device))
        return self.folder / self.key(method) / f'profile_{machine}.json'

    def profile_failure(self, method: Method) -> Path:
        """Why the cost could not be measured."""
        return self.folder / self.key(method) / 'profile_failure.json'

    def pictures(self, clip: BenchmarkClip, method: Method | None) -> dict[str, Path]:
        """The pictures of a method, or of GT: kind -> path."""
        if method is None:
            name = f'GT-{_hash(str(self.benchmark.gt_root.absolute()), asdict(self.benchmark.protocol), clip.content)}'
        else:
            name = f'{self.key(method)}-{_clip_hash(method, clip)}'
        folder = self.benchmark.out / 'pictures' / safe_name(clip.name)
        return {kind: folder / f'{name}_{kind}.png' for kind in PICTURES}

    def is_measured(self, method: Method, clip: BenchmarkClip) -> bool:
        """Whether metrics and pictures of a clip are there."""
        return bool(read(self.clip(method, clip))) and all_there(self.pictures(clip, method))


def _clip_hash(method: Method, clip: BenchmarkClip) -> str:
    return _hash(clip.content, method.clip_identity(clip))


def _hash(*what) -> str:
    content = json.dumps([*what, describe_versions()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def safe_name(name: str) -> str:
    """A file name for any name; different names stay different."""
    safe = re.sub(r'[^A-Za-z0-9._+-]+', '_', name)
    return safe if safe == name else f'{safe}_{hashlib.sha256(name.encode()).hexdigest()[:6]}'


def all_there(pictures: dict[str, Path]) -> bool:
    return all(path.is_file() for path in pictures.values())


def write(path: Path, content: dict) -> None:
    """Keep a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({'content': content, 'checksum': _checksum(content)}) + '\n')


def read(path: Path) -> dict:
    """A result; empty where it is not there, or is damaged and has to be measured again."""
    try:
        kept = json.loads(path.read_text(encoding='utf-8'))
        return kept['content'] if kept['checksum'] == _checksum(kept['content']) else {}
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # no JSON, or JSON of something else
        return {}


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
