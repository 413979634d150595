"""Networks that run step by step.

A network says its recurrence once, as steps; this class runs a clip through them.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn


class RecurrentNetwork(nn.Module):
    """A network whose steps are `forward_step` and `upsample`, and, where it needs flow, `flow`."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, 3, h, w) -> (b, t, 3, s * h, s * w)."""
        wanted = inspect.signature(self.forward_step).parameters
        frames = x.unbind(1)
        outputs, state = [], None
        for i, frame in enumerate(frames):
            values = {
                'frame': frame,
                'previous_frame': frames[i - 1] if i else None,
                'next_frame': frames[i + 1] if i + 1 < len(frames) else None,
                'state': state,
            }
            if 'flow_to_previous' in wanted:
                values['flow_to_previous'] = self.flow(frame, frames[i - 1]) if i else None
            state = self.forward_step(**{name: values[name] for name in wanted})
            outputs.append(self.upsample(frame=frame, state=state))
        if isinstance(outputs[0], tuple):
            return tuple(torch.stack(output, dim=1) for output in zip(*outputs))
        return torch.stack(outputs, dim=1)
