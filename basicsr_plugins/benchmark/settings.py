"""What a benchmark compares, and on what: its settings, which are checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basicsr_plugins.benchmark.clips import BenchmarkClip, open_clips
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.methods import Method, NetworkMethod
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.entries import bicubic
from basicsr_plugins.models.option_checks import check_metric


@dataclass(frozen=True)
class ProfileSettings:
    """How cost is measured: frames of `size` (h, w), clips of `num_frame`, the median of `repeat` passes."""

    size: tuple[int, int] = (180, 320)
    num_frame: int = 5
    repeat: int = 3


@dataclass(frozen=True)
class Benchmark:
    """What is compared, and on what.

    Args:
        out: The folder of the results.
        others: The methods beside bicubic, which comes first by itself.
        lq_root, gt_root: Folders of clips, or LMDBs.
        clip_names: The clips to take; empty for all.
        protocol: What counts.
        device: Where networks run.
        profile: How cost is measured; None for not at all.
        published: CSV files of published numbers.
        fresh: Whether everything is measured anew; otherwise earlier results of `out` are taken where networks,
            weights, clips and settings are the same. A change of a network's code does not show there.
        untrained_in_cost_only: Whether networks with random weights restore no clips.
        title, command: For the report.
    """

    out: Path
    others: Sequence[Method]
    lq_root: Path
    gt_root: Path
    clip_names: Sequence[str] = ()
    protocol: Protocol = field(default_factory=Protocol)
    device: str = 'cpu'
    profile: ProfileSettings | None = field(default_factory=ProfileSettings)
    published: Sequence[str] = ()
    fresh: bool = False
    untrained_in_cost_only: bool = False
    title: str = 'Benchmark'
    command: str = ''

    def methods(self) -> list[Method]:
        """Bicubic, and the other methods.

        Raises:
            InputError: If two have the same name, or one is called GT.
        """
        first = NetworkMethod(bicubic(), needs_weights=False)
        others = [method for method in self.others if method.describe().get('type') != first.describe()['type']]
        names = [method.name for method in (first, *others)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f'two methods are called {name}; give one another name (NAME=...).')
        if 'GT' in names:
            raise InputError('no method may be called GT, as the ground truth is; give it another name (NAME=...).')
        return [first, *others]

    def restores(self, method: Method) -> bool:
        """Whether a method is measured on the clips, not in cost alone."""
        return not (self.untrained_in_cost_only and method.describe().get('random_weights'))

    def clips(self) -> list[BenchmarkClip]:
        """The clips that are taken.

        Raises:
            InputError: If one is asked for that is not there, or no frame of one counts, or none of its pixels, or a
                method cannot be measured on them, or a metric not on this machine.
        """
        for metric in self.protocol.metrics:
            check_metric(f'calculate_{metric}')
        clips = open_clips(self.lq_root, self.gt_root, self.protocol.scale, self.protocol.degradation)
        known = [clip.name for clip in clips]
        for name in self.clip_names:
            if name not in known:
                raise InputError(f'there is no clip {name} in {self.lq_root}; there are {", ".join(known)[:200]}.')
        clips = [clip for clip in clips if not self.clip_names or clip.name in self.clip_names]
        for clip in clips:
            self.protocol.counted(clip)
            self.protocol.check_border(clip)
        for method in self.methods():
            method.check(clips, self.protocol)
        return clips
