"""Modulated deformable convolution by sums of rows of a table (`embedding_bag`), where many channels share an offset.

A displaced tap is the weighted sum of four pixels, and `embedding_bag` sums weighted rows of a table: with the channels
of a pixel side by side, as convolutions in `channels_last` leave them, each of the four is one read of memory in a row.
Zeros lie around the frame. Backward sums the other way, for each pixel what the taps that read it give. Both take some
rows of a frame of the output at a time; what was read is forgotten, and read again in backward.

Shape shorthand in this module:
    b: batch; c: input channels; o: output channels; d: deform_groups; k: kh * kw, the taps of the kernel
    h, w: size of the input; h_out, w_out: size of the output; n: rows of the output in one part
    p: n * w_out, pixels of one part
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

SAMPLES = 2**22  # c * k * p of one part: 16 MB of float32
CORNERS = 4


class GatheredDeformConv(torch.autograd.Function):
    """apply(x, offset, mask, weight, bias, stride, padding, dilation, deform_groups).

    As `deform_conv.modulated_deform_conv2d` with one group, on the CPU. Tensors are of one dtype, float32 or float64,
    all but x contiguous; stride, padding and dilation are pairs; nothing is checked here.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        deform_groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry = weight.shape[2:], stride, padding, dilation, deform_groups
        taps, kernel = _Taps(x, offset, mask, *ctx.geometry), weight.flatten(2).permute(2, 1, 0).flatten(0, 1)
        out = x.new_empty(len(x), *offset.shape[2:], len(weight))
        for part in taps.parts():
            out[part.place] = (taps.read(part) @ kernel).view_as(out[part.place])
        if bias is not None:
            out += bias
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        b, c, h, w = x.shape
        with torch.autocast(x.device.type, enabled=False):
            taps, kernel = _Taps(x, offset, mask, *ctx.geometry), weight.permute(0, 2, 3, 1).flatten(1)  # (o, k * c)
            grad_kernel, gradients = torch.zeros_like(kernel), taps.zero_gradients()
            for part in taps.parts():
                grad_pixels = grad_out.permute(0, 2, 3, 1)[part.place].reshape(-1, len(weight))  # (p, o)
                grad_kernel += grad_pixels.T @ taps.read(part)
                taps.read_backward(part, grad_pixels @ kernel, gradients)
        grad_table, grad_offset, grad_mask = gradients
        return (
            grad_table.view(b, h + 2, w + 2, c)[:, 1:-1, 1:-1].permute(0, 3, 1, 2),
            grad_offset,
            grad_mask,
            grad_kernel.view(len(weight), *weight.shape[2:], c).permute(0, 3, 1, 2),
            grad_out.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None,
            *[None] * 4,
        )


class _Part(NamedTuple):
    """What some rows of a frame of the output read."""

    place: tuple[int, slice]  # frame, rows
    y: Tensor  # (n, w_out, k, d): how far beyond the pixels before it each tap is
    x: Tensor
    inside_y: Tensor  # whether it is where the frame, with the zeros around, reaches; same shape
    inside_x: Tensor
    index: Tensor  # (p * k * d, 4), rows of the table: the pixels around a tap, above left, above right, below ...
    share: Tensor  # (p * k * d, 4), their shares


class _Taps:
    """Reads the displaced taps, some rows of a frame of the output at a time."""

    def __init__(
        self,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        deform_groups: int,
    ):
        b, c, *self.size = x.shape
        self.k, self.deform_groups = kernel_size[0] * kernel_size[1], deform_groups
        table = x.new_zeros(b, self.size[0] + 2, self.size[1] + 2, c)
        table[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
        self.table = table.view(-1, c // deform_groups)  # (b * (h + 2) * (w + 2) * d, c / d)
        # from the row of the table of the pixel above left to those of the pixels around a tap
        self.around = tuple(deform_groups * one for one in (0, 1, self.size[1] + 2, self.size[1] + 3))
        self.given = offset, mask
        self.offset, self.mask = self._by_pixel(offset, 2), self._by_pixel(mask, 1)[0]
        taps = [
            torch.arange(size).mul_(far)[:, None] + torch.arange(length).mul_(step) - pad
            for size, length, far, step, pad in zip(kernel_size, offset.shape[2:], dilation, stride, padding)
        ]  # undisplaced, (kh, h_out) and (kw, w_out)
        self.tap_y = taps[0].T.repeat_interleave(kernel_size[1], 1)[:, None, :, None].to(x)  # (h_out, 1, k, 1)
        self.tap_x = taps[1].T.repeat(1, kernel_size[0])[:, :, None].to(x)  # (w_out, k, 1)

    def _by_pixel(self, values: Tensor, number: int) -> Tensor:
        """(b, d * k * number, h_out, w_out) -> (number, b, h_out, w_out, k, d), a view."""
        return values.view(len(values), self.deform_groups, self.k, number, *values.shape[2:]).permute(3, 0, 4, 5, 2, 1)

    def parts(self) -> Iterator[_Part]:
        """The parts that the output is computed in."""
        b, h_out, w_out, k, deform_groups = self.mask.shape
        height = max(1, SAMPLES // (w_out * k * deform_groups * self.table.size(1)))
        for frame, top in itertools.product(range(b), range(0, h_out, height)):
            yield self._part(frame, slice(top, top + height))

    def _part(self, frame: int, rows: slice) -> _Part:
        (h, w), mask = self.size, self.mask[frame, rows]
        y, inside_y, row = _located(self.offset[0, frame, rows] + self.tap_y[rows], h)
        x, inside_x, column = _located(self.offset[1, frame, rows] + self.tap_x, w)
        dtype = torch.int32 if len(self.table) < 2**31 else torch.int64
        first = (frame * (h + 2) + row.to(dtype)) * (w + 2) + column.to(dtype)
        first = first * self.deform_groups + torch.arange(self.deform_groups, dtype=dtype)
        index = torch.empty(*first.shape, CORNERS, dtype=dtype)
        torch.add(first.unsqueeze(-1), torch.tensor(self.around, dtype=dtype), out=index)
        below = y * mask
        above = mask - below
        share = mask.new_empty(*first.shape, CORNERS)
        for place, one in enumerate((above, below)):
            torch.mul(one, x, out=share[..., 2 * place + 1])
            torch.sub(one, share[..., 2 * place + 1], out=share[..., 2 * place])
        return _Part((frame, rows), y, x, inside_y, inside_x, index.view(-1, CORNERS), share.view(-1, CORNERS))

    def read(self, part: _Part) -> Tensor:
        """(p, k * c)."""
        columns = F.embedding_bag(part.index, self.table, per_sample_weights=part.share, mode='sum')
        return columns.view(-1, self.k * self.deform_groups * self.table.size(1))

    def zero_gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the table, offset and mask, for `read_backward`."""
        return torch.zeros_like(self.table), *(torch.zeros_like(values) for values in self.given)

    def read_backward(self, part: _Part, grad_columns: Tensor, gradients: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add to the gradients what a part gives, by the gradients of what `read` gave."""
        grad_table, grad_offset, grad_mask = gradients
        grad_columns, dtype = grad_columns.view(-1, self.table.size(1)), part.index.dtype
        above_left, order = part.index[:, 0].sort(stable=True)
        pixels, counts = above_left.unique_consecutive(return_counts=True)
        starts, taps = (counts.cumsum(0) - counts).to(dtype), order.to(dtype)
        for far, share in zip(self.around, part.share[order].T.contiguous()):
            given = F.embedding_bag(taps, grad_columns, starts, per_sample_weights=share, mode='sum')
            grad_table.index_add_(0, pixels + far, given)

        taps = torch.arange(len(part.index), dtype=dtype)
        grad_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            *(grad_columns, self.table, part.index.flatten()),
            *(taps * CORNERS, taps.repeat_interleave(CORNERS), 0),
        )
        above, below = grad_share.view(*part.y.shape, 2, 2).unbind(-2)  # each (n, w_out, k, d, left and right)
        mask = self.mask[part.place]
        grad_offset, grad_mask = self._by_pixel(grad_offset, 2), self._by_pixel(grad_mask, 1)
        left, right = torch.lerp(above, below, part.y.unsqueeze(-1)).unbind(-1)
        grad_mask[0][part.place] = torch.lerp(left, right, part.x)
        grad_offset[1][part.place] = (right - left) * mask * part.inside_x
        left, right = (below - above).unbind(-1)
        grad_offset[0][part.place] = torch.lerp(left, right, part.x) * mask * part.inside_y


def _located(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of positions along one axis what is left of them beyond the pixels before them, in place of them.

    Returns:
        That; whether they are where the frame, with the zeros around, reaches; the pixels before, counted with the
        zeros around. All of the same shape.
    """
    inside = (position >= -1) & (position < size)
    position.clamp_(-1, size)  # what is further away reads nothing either
    before = position.floor().clamp_(max=size - 1)
    position.sub_(before)
    return position, inside, before.nan_to_num_(-1).add_(1)  # where a position is NaN, so are its shares
