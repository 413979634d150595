"""What a benchmark has found: one document, which `results.json` holds and every table and page is made from.

Nothing here needs torch or basicsr.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

METRICS = {  # how they are shown; the functions are `calculate_<name>` of the registry
    'psnr': {'label': 'PSNR', 'unit': 'dB', 'better': 'higher', 'digits': 2},
    'ssim': {'label': 'SSIM', 'unit': '', 'better': 'higher', 'digits': 4},
    'tof': {'label': 'tOF', 'unit': 'px', 'better': 'lower', 'digits': 3},
}
LPIPS = {'lpips': {'label': 'LPIPS', 'unit': '', 'better': 'lower', 'digits': 4}}  # where it is asked for

Values = dict  # metric -> value; None where it is not defined, as motion in a clip of one frame


@dataclass
class Row:
    """A method: measured here, or `published`, with the numbers of its `source`.

    Args:
        name: Its name in the table.
        type: The network's name in the registry; None for published numbers and for frames that are given.
        published: Whether the numbers are those of a paper.
        source: Of a published row: the paper and its table.
        checkpoint: The weights' file.
        frames: Of frames that another program has restored: their folder.
        error: Why it failed; such a row is never the best.
        params: Number of parameters.
        macs: Multiply-adds per LR frame; None where they are not known, with the reason in `macs_failure`.
        seconds_per_frame: Wall time.
        peak_memory: Bytes.
        clips: Clip -> metric -> value.
        average: Metric -> the mean over the clips.
        clip_means: Of a published row: metric -> the mean of its own clips, where the published average is another.
        commits: Of this package, with which the clips were measured.
        random_weights: Whether it has parameters and no checkpoint.
        arguments: Of the network.
        note: A sentence that a reader should know.
    """

    name: str
    type: str | None = None
    published: bool = False
    source: str | None = None
    checkpoint: str | None = None
    frames: str | None = None
    error: str | None = None
    params: int | None = None
    macs: int | None = None
    macs_failure: str | None = None
    seconds_per_frame: float | None = None
    peak_memory: int | None = None
    clips: dict[str, Values] = field(default_factory=dict)
    average: Values = field(default_factory=dict)
    clip_means: Values = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    random_weights: bool = False
    arguments: dict = field(default_factory=dict)
    note: str | None = None

    @property
    def display_name(self) -> str:
        return f'{self.name} (random weights)' if self.random_weights else self.name


@dataclass
class Results:
    """A whole benchmark.

    Args:
        title, command, commit, versions, machine: Of the run.
        settings: `lq`, `gt`, `scale`, `channel`, `crop_border`, `frames`, `padding`, `device`, `profile_size` (h, w;
            None where cost was not measured), `profile_frames`, `profile_repeat`.
        methods_note: Sentences on how it was measured.
        clips: Their names.
        rows: The methods.
        pictures: Clip -> `frame`, `window` (top, left, height, width), `line`, and `methods`: name -> `frame`, `crop`
            and `profile`, paths relative to the folder of the results.
        metrics: As `METRICS`, of what was measured.
    """

    title: str
    command: str
    commit: str | None
    versions: dict[str, str]
    machine: dict
    settings: dict
    methods_note: list[str]
    clips: list[str]
    rows: list[Row]
    pictures: dict[str, dict]
    metrics: dict[str, dict] = field(default_factory=lambda: METRICS)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, default=str) + '\n'
