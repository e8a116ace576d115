"""From what a decoder gives of categorical columns to logits of their levels."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skrepr._columns._columns import MAX_FEW_LEVELS
from skrepr._columns._inputs import vector_width


class Logits(nn.Module):
    """The logits of the levels of columns, from a decoder's outputs.

    Of a column of few levels the outputs are the logits. Of many, they are a vector, as
    long as the encoder's of such a column, and a level has the logit

        vector @ its weights  +  its bias.

    A decoder with an output a level would have most of its weights there. Biases start
    at the logarithms of the frequencies.

    Parameters
    ----------
    counts : list of ndarray of shape (n_levels,)
        Of every column, the rows in which each level occurred. Columns of few levels
        come first.

    Attributes
    ----------
    n_outputs : int
        Of the decoder.
    """

    def __init__(self, counts):
        super().__init__()
        large = [each for each in counts if len(each) > MAX_FEW_LEVELS]
        n_few = sum(map(len, counts)) - sum(map(len, large))
        widths = [vector_width(len(each)) for each in large]
        # Of the logits and of the outputs: those of small columns, and of each other.
        self.n_logits = [n_few, *map(len, large)]
        self.n_outputs_of = [n_few, *widths]
        self.n_outputs = sum(self.n_outputs_of)
        self.n_large = len(large)
        for i, (each, width) in enumerate(zip(large, widths, strict=True)):
            weight = torch.randn(len(each), width) / width**0.5
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(_log_frequencies(each)))

    def forward(self, outputs):
        """Map outputs (..., n_outputs) to logits (..., n_logits)."""
        if not self.n_large:
            return outputs
        few, *vectors = outputs.split(self.n_outputs_of, -1)
        maps = zip(vectors, self._maps(), strict=True)
        large = [F.linear(vector, *weight_and_bias) for vector, weight_and_bias in maps]
        return torch.cat([few, *large], -1)

    def backward(self, outputs, slope):
        """Return the derivative of the loss by the outputs, and keep the gradients.

        Parameters
        ----------
        outputs : torch.Tensor of shape (n, n_outputs)
        slope : torch.Tensor of shape (n, n_logits)
            Derivative of the loss by the logits.

        Returns
        -------
        torch.Tensor of shape (n, n_outputs)
        """
        if not self.n_large:
            return slope
        _, *vectors = outputs.split(self.n_outputs_of, -1)
        few, *large = slope.split(self.n_logits, -1)
        slopes = [few]
        maps = zip(large, vectors, self._maps(), strict=True)
        for by_logits, vector, (weight, bias) in maps:
            weight.grad, bias.grad = by_logits.T @ vector, by_logits.sum(0)
            slopes.append(by_logits @ weight)
        return torch.cat(slopes, -1)

    def _maps(self):
        """List weight and bias of every large column."""
        return [
            (getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}"))
            for i in range(self.n_large)
        ]


def _log_frequencies(counts):
    # What is only declared is half as frequent as what occurred once.
    return torch.as_tensor(np.log(np.maximum(counts, 0.5) / counts.sum())).float()
