"""Matrices of pairs, a block of rows at a time, forwards and backwards."""

import torch

from skrepr._blocks import blocks
from skrepr._training._stacks import refuse_second_derivatives

_CELLS = 2**20  # of the matrices of pairs that are in memory at a time


# Every loss of pairs is a value per anchor, from one row of a matrix of pairs. Of large
# matrices only a block of rows is in memory at a time, forwards and backwards.


def pair_blocks(n_anchors, n_others):
    """Split the anchors so that a block has at most `_CELLS` pairs, but one row."""
    return blocks(n_anchors, n_others, _CELLS)


def per_anchor(function, n_anchors, n_others, *tensors):
    """Compute a value for every anchor, a block of anchors at a time.

    Parameters
    ----------
    function : callable
        ``function(block, *tensors)`` returns the values of a slice of the anchors.
    n_anchors, n_others : int
        Shape of the matrices of pairs.
    *tensors : torch.Tensor or float
        All that the values are to be differentiated by.

    Returns
    -------
    torch.Tensor of shape (n_anchors,)
    """
    slices = pair_blocks(n_anchors, n_others)
    if len(slices) == 1:
        return function(slices[0], *tensors)
    return _InBlocks.apply(function, slices, *tensors)


class _InBlocks(torch.autograd.Function):
    """Values of blocks, whose intermediate values are computed again backwards.

    torch.utils.checkpoint does the same, but imports torch's compiler: a second, and
    more memory than it saves.
    """

    @staticmethod
    def forward(ctx, function, blocks, *tensors):
        ctx.function, ctx.blocks, ctx.tensors = function, blocks, tensors
        return torch.cat([function(block, *tensors) for block in blocks])

    @staticmethod
    def backward(ctx, slope):
        refuse_second_derivatives()
        needed = ctx.needs_input_grad[2:]
        # In detached copies, at which the derivatives end.
        tensors = [
            x.detach().requires_grad_() if is_needed else x
            for x, is_needed in zip(ctx.tensors, needed, strict=True)
        ]
        leaves = [x for x, is_needed in zip(tensors, needed, strict=True) if is_needed]
        totals = [torch.zeros_like(leaf) for leaf in leaves]
        for block in ctx.blocks:
            with torch.enable_grad():
                values = ctx.function(block, *tensors)
            slopes = torch.autograd.grad(values, leaves, slope[block])
            for total, part in zip(totals, slopes, strict=True):
                total.add_(part)
        gradients = iter(totals)
        return (
            None,
            None,
            *(next(gradients) if is_needed else None for is_needed in needed),
        )


def positives_and_negatives(ids, block):
    """Tell which views are positives and which are negatives of a block of anchors.

    Parameters
    ----------
    ids : torch.Tensor of shape (n_views,)
    block : slice

    Returns
    -------
    positive, negative : torch.Tensor of shape (n_anchors, n_views), bool
        A view is neither for itself.
    """
    positive = ids[block, None] == ids
    negative = ~positive
    positive.diagonal(block.start).fill_(False)
    return positive, negative


def pair_counts(ids):
    """Count the positives and the negatives of every view."""
    _, position, n_same = ids.unique(return_inverse=True, return_counts=True)
    n_same = n_same[position]
    return n_same - 1, len(ids) - n_same


def square_distances(z, block):
    """Compute d² between a block of the normalised rows of z and all of them."""
    return 2 - 2 * z[block] @ z.T


def pair_distances(z, block):
    """Compute d between a block of the normalised rows of z and all of them.

    Below what rounding leaves of d² there is no distance to tell and no slope: that of
    the square root would be infinite at 0.

    Parameters
    ----------
    z : torch.Tensor of shape (n_views, width)
    block : slice

    Returns
    -------
    torch.Tensor of shape (n_anchors, n_views)
    """
    return square_distances(z, block).clamp(min=torch.finfo(z.dtype).eps).sqrt()
