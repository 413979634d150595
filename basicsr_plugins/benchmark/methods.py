"""What a benchmark compares: networks, and frames that another program has restored."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.benchmark.clips import BenchmarkClip, fingerprint
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.data.vsr_test_dataset import ClipFrames
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.models.entries import NetworkEntry, parse_network
from basicsr_plugins.models.network_spec import require_scale, spec_of, untrained_note
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.video.images import ImageSource, list_images

FRAMES = re.compile(r'(?P<name>[^=:@]+)=frames:(?P<folder>.+)')


def parse_method(text: str) -> Method:
    """Read `NAME=frames:FOLDER`, or a network as `parse_network` does.

    Raises:
        InputError: If it reads otherwise, or names a network, an argument or a file that is not there.
    """
    match = FRAMES.fullmatch(text)
    if match:
        return RestoredFrames(match['name'], Path(match['folder']))
    if text.startswith('frames:'):
        raise InputError(f'{text} needs a name for the table: NAME={text}.')
    return NetworkMethod(parse_network(text))


@dataclass(frozen=True)
class NetworkMethod:
    """A network of the registry.

    Args:
        entry: The network.
        needs_weights: Whether its pictures mean nothing without a checkpoint.
    """

    entry: NetworkEntry
    needs_weights: bool = True

    @property
    def name(self) -> str:
        return self.entry.name

    def check(self, clips: Sequence[BenchmarkClip], protocol: Protocol) -> None:
        """Refuse what cannot be measured on any clip.

        Raises:
            InputError: If the checkpoint is missing.
        """
        if self.entry.checkpoint is not None and not Path(self.entry.checkpoint).is_file():
            raise InputError(f'{self.name}: there is no checkpoint {self.entry.checkpoint}.')

    def note(self, protocol: Protocol) -> str | None:
        """A sentence that a reader should know: that the scale is none that the weights are trained for."""
        if 'trained_scales' not in inspect.signature(ARCH_REGISTRY.get(self.entry.options['type'])).parameters:
            return None  # so that other networks are not built
        return next(iter(untrained_note(self.build(protocol), protocol.scale)), None)

    def identity(self) -> list:
        """What its results on any clip depend on."""
        checkpoint = self.entry.checkpoint
        weights = checkpoint and [os.path.abspath(checkpoint), fingerprint([checkpoint]), self.entry.param_key]
        runtime = [self.entry.runtime] if self.entry.runtime != 'torch' else []
        return [self.entry.options, weights, *runtime]

    def clip_identity(self, clip: BenchmarkClip) -> str:
        """What its results on this clip alone depend on, beside the clip."""
        return ''

    def describe(self) -> dict:
        """The attributes of its `Row` that are known before anything is measured."""
        return {
            'type': self.entry.options['type'],
            'checkpoint': self.entry.checkpoint and str(self.entry.checkpoint),
            'random_weights': self.needs_weights and self.entry.checkpoint is None,
            'arguments': {name: value for name, value in self.entry.options.items() if name != 'type'},
        }

    def restore(self, clip: BenchmarkClip, protocol: Protocol, device: str) -> Iterator[Tensor]:
        """The clip's restored frames, (3, s * h, s * w), RGB in [0, 1], as many as the protocol takes.

        Raises:
            InputError: While iterating too: if the network cannot be built, or does not fit its checkpoint or the clip.
        """
        net, number = self.build(protocol), protocol.num_frame(clip)
        step = spec_of(net).time_scale  # a network of twice the frame rate gets every second frame
        if (number - 1) % step:
            raise InputError(
                f'{self.name} makes the frames between every {step}. one, but the {number} of clip {clip.name} do not '
                f'end with one; set max_frames to {number - (number - 1) % step} or fewer.'
            )
        frames = ClipFrames(clip.lq.reader, clip.lq.info._replace(frames=clip.lq.info.frames[:number:step]))
        return restore_frames(self.on_runtime(net.to(device)), frames, protocol.padding)

    def build(self, protocol: Protocol) -> nn.Module:
        """The network, in eval mode, on the CPU.

        Raises:
            InputError: If it cannot be built, does not fit its checkpoint, or upscales by other factors.
        """
        net = self.entry.build()
        require_scale(net, protocol.scale)
        return net

    def on_runtime(self, net: nn.Module) -> nn.Module:
        """The network as the entry's runtime runs it, from one on its device.

        Raises:
            InputError: If the runtime is unknown, not installed, or cannot run it.
        """
        return on_runtime(net, self.entry.runtime)


@dataclass(frozen=True)
class RestoredFrames:
    """Frames that any program has restored: `<folder>/<clip>/<frame>.png`, paired with GT in the order of their names.

    Its methods are those of `NetworkMethod`.

    Args:
        name: Its name in the table.
        folder: The folder of clips.
    """

    name: str
    folder: Path

    def source(self, clip: BenchmarkClip) -> ImageSource:
        """The frames of a clip.

        Raises:
            InputError: If there are none.
        """
        folder = self.folder / clip.name
        if not folder.is_dir():
            raise InputError(f'{self.name}: there is no folder {folder} with the restored frames of clip {clip.name}.')
        return ImageSource(list_images(folder), str(folder))

    def check(self, clips: Sequence[BenchmarkClip], protocol: Protocol) -> None:
        """Refuse folders that do not fit the clips.

        Raises:
            InputError: If a clip is missing, or its frames have another number or size than those of GT.
        """
        for clip in clips:
            source, (h, w) = self.source(clip), clip.gt[0].shape[1:]
            wanted = {len(clip.frames), protocol.num_frame(clip)}
            if source.num_frame not in wanted:
                numbers = ' or '.join(map(str, sorted(wanted)))
                raise InputError(f'{self.name}: {source.name} has {source.num_frame} frames, but must have {numbers}.')
            if source.size != (h, w):
                size = f'{source.size[1]}x{source.size[0]}'
                raise InputError(f'{self.name}: the frames of {source.name} are {size}, but those of GT are {w}x{h}.')

    def note(self, protocol: Protocol) -> None:
        """Nothing is known of them."""

    def identity(self) -> list:
        return ['frames', os.path.abspath(self.folder)]

    def clip_identity(self, clip: BenchmarkClip) -> str:
        return fingerprint(self.source(clip).files)

    def describe(self) -> dict:
        return {'frames': str(self.folder)}

    def restore(self, clip: BenchmarkClip, protocol: Protocol, device: str) -> Iterator[Tensor]:
        return (frame for _, frame in zip(range(protocol.num_frame(clip)), self.source(clip)))


Method = Union[NetworkMethod, RestoredFrames]
