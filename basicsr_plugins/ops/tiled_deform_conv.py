"""Modulated deformable convolution in PyTorch's own operations: `grid_sample` over tiles of the output.

A tile's samples fit in the processor's cache, are multiplied with the kernel at once and forgotten; backward samples
again. A tile reads from a crop of the input whose sides are powers of two: `grid_sample` wants coordinates scaled to
[-1, 1], and with these sides whole pixels survive the scaling exactly. That keeps the gradient of the offsets on the
side of the pixel where it belongs, and rounding small on frames of any width.

Shape shorthand in this module:
    b: batch; c: input channels; o: output channels; g: groups; d: deform_groups
    h, w: size of the input; h_out, w_out: size of the output; k: kh * kw, the taps of the kernel
    n, m: rows and columns of one tile of the output; ch, cw: size of the crop that the tile reads
    s: parts that the c / d channels are split into, so that every thread has one
"""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Samples of one tile, b * c * k * n * m: 4 MB of float32 on the CPU; on other devices enough to keep them busy. Smaller
# tiles gain nothing on the CPU, and more of them lose when other processes want the same cores.
TILE_SAMPLES_CPU = 2**20
TILE_SAMPLES = 2**26
TILE_WIDTH_CPU = 64


class TiledDeformConv(torch.autograd.Function):
    """apply(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups).

    Tensors are contiguous and of one dtype, stride, padding and dilation are pairs; nothing is checked here.
    """

    @staticmethod
    def forward(ctx, x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry = stride, padding, dilation, deform_groups
        ctx.groups = groups
        b, o = x.shape[0], weight.shape[0]
        kernel = weight.view(groups, o // groups, -1)  # (g, o/g, c/g*k)
        mask = mask.unflatten(1, (deform_groups, 1, -1))  # (b, d, 1, k, h_out, w_out)
        out = x.new_empty(b, o, *mask.shape[4:])
        sampler = _Sampler(x, offset, weight.shape[2:], *ctx.geometry)
        for tile in sampler.tiles():
            columns = sampler.read(*sampler.locate(tile)).view(*sampler.shape, *mask[tile].shape[4:])
            columns.mul_(mask[tile])  # (b, d, c/d, k, n, m)
            result = kernel @ columns.view(b, groups, kernel.shape[2], -1)  # (b, g, o/g, n*m)
            out[tile] = result.view_as(out[tile])
        if bias is not None:
            out += bias.view(-1, 1, 1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, offset, mask, weight = ctx.saved_tensors
        groups, deform_groups = ctx.groups, ctx.geometry[-1]
        b, o = x.shape[0], weight.shape[0]
        kernel = weight.view(groups, o // groups, -1)  # (g, o/g, c/g*k)
        mask = mask.unflatten(1, (deform_groups, 1, -1))  # (b, d, 1, k, h_out, w_out)
        sampler = _Sampler(x, offset, weight.shape[2:], *ctx.geometry)
        grad_x = torch.zeros_like(sampler.x)
        grad_offset = torch.empty_like(sampler.offset)
        grad_mask = torch.empty_like(mask)
        grad_kernel = torch.zeros_like(kernel)
        with torch.autocast(x.device.type, enabled=False):
            for tile in sampler.tiles():
                window, grid = sampler.locate(tile)
                sampled = sampler.read(window, grid).view(*sampler.shape, *mask[tile].shape[4:])  # (b, d, c/d, k, n, m)
                grad_result = grad_out[tile].reshape(b, groups, o // groups, -1)  # (b, g, o/g, n*m)
                grad_columns = (kernel.transpose(1, 2) @ grad_result).view_as(sampled)
                grad_mask[tile] = (grad_columns * sampled).sum(2, keepdim=True)
                columns = sampled.mul_(mask[tile]).view(b, groups, kernel.shape[2], -1)  # (b, g, c/g*k, n*m)
                grad_kernel += (grad_result @ columns.transpose(2, 3)).sum(0)
                grad_crop, grad_offset[tile] = sampler.read_backward(grad_columns.mul_(mask[tile]), window, grid)
                grad_x[window] += grad_crop
        return (
            grad_x.view(b, x.shape[1], *grad_x.shape[2:])[..., : x.shape[2], : x.shape[3]],
            grad_offset.view_as(offset),
            grad_mask.flatten(1, 3),
            grad_kernel.view_as(weight),
            grad_out.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None,
            *[None] * 5,
        )


class _Sampler:
    """Reads the displaced taps, one tile at a time.

    A tile is an index (..., rows, columns) into anything of the output's size, a window one into the padded input.
    """

    def __init__(self, x, offset, kernel_size, stride, padding, dilation, deform_groups):
        b, c, self.h, self.w = x.shape
        h_out, w_out = offset.shape[2:]
        taps = kernel_size[0] * kernel_size[1]
        self.on_cpu = x.device.type == 'cpu'
        self.shape = b, deform_groups, c // deform_groups, taps
        self.offset = offset.view(b, deform_groups, taps, 2, h_out, w_out)
        # grid_sample shares its batch among the threads, and nothing else.
        spare_threads = math.ceil(torch.get_num_threads() / max(1, b * deform_groups)) if self.on_cpu else 1
        self.split = math.gcd(c // deform_groups, spare_threads)
        x = F.pad(x, (0, _power_of_two(self.w) - self.w, 0, _power_of_two(self.h) - self.h))
        # (b*d*s, c/d/s, padded h, padded w)
        self.x = x.view(b * deform_groups * self.split, c // (deform_groups * self.split), *x.shape[2:])

        def undisplaced(axis, size_out):
            tap = torch.arange(kernel_size[axis], device=x.device)[:, None] * dilation[axis]
            pixel = torch.arange(size_out, device=x.device) * stride[axis]
            return (tap + pixel - padding[axis]).to(x.dtype)

        self.tap_y = undisplaced(0, h_out).repeat_interleave(kernel_size[1], 0)[:, :, None]  # (k, h_out, 1)
        self.tap_x = undisplaced(1, w_out).repeat(kernel_size[0], 1)[:, None]  # (k, 1, w_out)

    def tiles(self):
        """The tiles that cover the output."""
        h_out, w_out = self.offset.shape[4:]
        width = min(w_out, TILE_WIDTH_CPU) if self.on_cpu else w_out
        b, deform_groups, c_per_group, taps = self.shape
        samples_per_row = b * deform_groups * c_per_group * taps * width
        height = max(1, (TILE_SAMPLES_CPU if self.on_cpu else TILE_SAMPLES) // max(1, samples_per_row))
        for top in range(0, h_out if b else 0, height):
            for left in range(0, w_out, width):
                yield ..., slice(top, top + height), slice(left, left + width)

    def locate(self, tile):
        """The window of the padded input that a tile reads, and where in it, (b*d*s, k*n, m, 2) scaled to [-1, 1]."""
        _, rows, columns = tile
        offset = self.offset[tile]  # (b, d, k, 2, n, m)
        b, deform_groups, taps, _, n, m = offset.shape
        grid = offset.new_empty(b, deform_groups, 2, taps, n, m)
        x = torch.add(offset[:, :, :, 1], self.tap_x[..., columns], out=grid[:, :, 0])
        y = torch.add(offset[:, :, :, 0], self.tap_y[:, rows], out=grid[:, :, 1])
        left, cw = self._extent(x, self.w, self.x.shape[3])
        top, ch = self._extent(y, self.h, self.x.shape[2])
        for position, first, length in ((x, left, cw), (y, top, ch)):
            position.sub_(first + (length - 1) / 2).mul_(2 / length)
        grid = grid.view(b * deform_groups, 2, taps * n, m).permute(0, 2, 3, 1)
        if self.split > 1:
            grid = grid.repeat_interleave(self.split, 0)
        return (..., slice(top, top + ch), slice(left, left + cw)), grid

    def _extent(self, position, size, padded_size):
        """First pixel and length of the smallest crop for these positions along one axis."""
        if not self.on_cpu:  # Looking at the positions would wait for the device.
            return 0, padded_size
        lowest, highest = (float(bound) for bound in torch.aminmax(position))
        if not math.isfinite(lowest + highest):
            return 0, padded_size
        first = min(max(math.floor(lowest), 0), size - 1)
        last = min(max(math.floor(highest) + 1, first), size - 1)
        length = _power_of_two(last + 1 - first)
        return min(first, padded_size - length), length

    def read(self, window, grid):
        """Samples at the grid, (b*d*s, c/d/s, k*n, m)."""
        return F.grid_sample(self.x[window], grid, align_corners=False)

    def read_backward(self, grad_samples, window, grid):
        """Gradients of the window, (b*d*s, c/d/s, ch, cw), and of the tile's offsets, (b, d, k, 2, n, m)."""
        crop = self.x[window]
        b, deform_groups, _, taps, n, m = grad_samples.shape
        grad_samples = grad_samples.view(crop.shape[0], crop.shape[1], taps * n, m)
        grad_crop, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad_samples,
            crop,
            grid,
            0,
            0,
            False,
            [True, True],  # bilinear, zeros outside, align_corners=False
        )
        grad_xy = grad_grid.view(b, deform_groups, self.split, taps, n, m, 2).sum(2)
        ch, cw = crop.shape[2:]
        return grad_crop, torch.stack([grad_xy[..., 1] * (2 / ch), grad_xy[..., 0] * (2 / cw)], 3)


def _power_of_two(size):
    return 1 << (size - 1).bit_length()
