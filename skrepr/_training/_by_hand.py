"""Forward and backward passes written by hand: a step without autograd's overhead.

Whatever depends on the rows and on random numbers alone - what the encoder is shown,
what the likelihood compares with - is computed for many batches at once. A step is left
with what depends on the weights.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

_MAX_CELLS = 2**20  # of the rows that are prepared at once


def find_pass(module, stacks):
    """Find what takes the place of the loss of a module and its derivatives.

    Parameters
    ----------
    module : TrainableModule
    stacks : dict of torch.nn.Sequential to Stack
        Of its networks.

    Returns
    -------
    Pass or None
        None where autograd is needed.
    """
    by_hand = module.by_hand()
    if by_hand is None:
        return None
    encoder, decoder = stacks.get(module.encoder.network), stacks.get(module.decoder)
    if encoder is None or decoder is None:
        return None
    return by_hand(module, encoder, decoder)


class PreparedBatch(NamedTuple):
    """What a pass needs of a batch beside the weights.

    Attributes
    ----------
    inputs : torch.Tensor of shape (n, n_inputs)
        What the encoder's network reads.
    classes : torch.Tensor of shape (n, n_categorical) or None
        Of the cells that the encoder is shown, for vectors that are learned.
    targets : torch.Tensor, or tuples of such
        What the likelihood makes of the rows.
    factor : float
        One over what the sum of the likelihood is divided by.
    noise : torch.Tensor of shape (n, n_components) or None
    """

    inputs: torch.Tensor
    classes: torch.Tensor | None
    targets: Any
    factor: float
    noise: torch.Tensor | None


class Pass:
    """Base class of the passes through an encoder and a decoder, there and back.

    A subclass implements `run` and `_factors`.

    Parameters
    ----------
    module : DecodingModule
        Its encoder is a `ColumnEncoder`.
    encoder, decoder : Stack
        Of the networks of its encoder and its decoder.
    """

    def __init__(self, module, encoder, decoder):
        self.module, self.likelihood = module, module.likelihood
        self.encoder, self.decoder = encoder, decoder
        self.reader = module.encoder.inputs
        self.has_vectors = self.reader is not None and bool(self.reader.vector_columns)

    def n_batches(self, batch_size):
        """Return how many batches are to be prepared at once."""
        width = sum(stack.maps[0].n_inputs for stack in (self.encoder, self.decoder))
        return max(1, int(_MAX_CELLS / (width * batch_size)))

    def prepare(self, x, sizes, generator):
        """Compute what does not depend on the weights, for several batches.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            The rows of all batches.
        sizes : list of int
            Of the batches.
        generator : torch.Generator

        Returns
        -------
        list of PreparedBatch
        """
        firsts = np.cumsum([0, *sizes[:-1]])
        # Batch by batch: the numbers must not depend on how many are prepared at once.
        drawn = [
            self.module.draws(rows, generator, int(first))
            for rows, first in zip(x.split(sizes), firsts, strict=True)
        ]
        *draws, noise = (
            None if of_batches[0] is None else torch.cat(of_batches)
            for of_batches in zip(*drawn, strict=True)
        )
        shown = self.module.shown(x, draws)
        if self.reader is None:
            inputs, classes = self.module.encoder.read(shown), None
        else:
            inputs, classes = self.reader.read_without_vectors(shown)
        return list(
            map(
                PreparedBatch,
                inputs.split(sizes),
                _split(classes, sizes),
                _split(self.likelihood.targets(x), sizes),
                self._factors(x, sizes, firsts),
                _split(noise, sizes),
            )
        )

    def run(self, batch, progress):
        """Compute the terms of a batch's loss, and leave the gradients for the update.

        Parameters
        ----------
        batch : PreparedBatch
        progress : torch.Tensor
            A 0-d tensor: the fraction of training done, in [0, 1].

        Returns
        -------
        dict of str to torch.Tensor
        """
        raise NotImplementedError(f"{type(self).__name__} must implement run.")

    def _factors(self, x, sizes, firsts):
        """List the factors of batches, given all rows and where the batches start."""
        raise NotImplementedError(f"{type(self).__name__} must implement _factors.")

    def _encode(self, batch):
        """Return the encoder's output, and what `_leave_gradients` needs."""
        if self.has_vectors:
            self.reader.put_vectors(batch.inputs, batch.classes)
        return self.encoder.forward(batch.inputs)

    def _leave_gradients(self, batch, encoding, slope):
        """Compute the gradients of the encoder, and of the vectors it read."""
        slope = self.encoder.backward(encoding, slope, to_inputs=self.has_vectors)
        if self.has_vectors:
            self.reader.backward(batch.classes, slope)


class ReconstructionPass(Pass):
    """What `AutoencoderModule.loss` does without penalty and constraint."""

    def run(self, batch, progress):
        z, encoding = self._encode(batch)
        output, decoding = self.decoder.forward(z)
        cost, slope = self.likelihood.cost_and_slope(
            batch.targets, output, batch.factor
        )
        slope = self.decoder.backward(decoding, slope)
        self._leave_gradients(batch, encoding, slope)
        return {"reconstruction": cost}

    def _factors(self, x, sizes, firsts):
        n_cells = np.multiply(sizes, self.module.n_varying)
        if self.module.has_holes:
            cells = (~x.isnan() & self.module.varies).sum(1)
            n_cells = np.add.reduceat(cells.numpy(), firsts)
        return (1 / np.maximum(n_cells, 1)).tolist()


class EvidencePass(Pass):
    """What `VAEModule.loss` does.

    The code is z = mean + exp(log_variance / 2) noise, and the KL divergence of a
    latent (mean² + exp(log_variance) - 1 - log_variance) / 2.
    """

    def run(self, batch, progress):
        module, factor = self.module, batch.factor
        posterior, encoding = self._encode(batch)
        mean, log_variance = module.split(posterior)
        deviation = (0.5 * log_variance).exp_().mul_(batch.noise)
        output, decoding = self.decoder.forward(mean + deviation)
        log_prob, slope = self.likelihood.log_prob_and_slope(
            batch.targets, output, -factor
        )
        slope = self.decoder.backward(decoding, slope)
        kl, weight = module.kl(mean, log_variance), module.kl_weight(progress)
        by_kl = weight * factor * (kl >= module.free_bits)
        by_mean = slope + by_kl * mean
        by_log_variance = 0.5 * (slope * deviation + by_kl * (log_variance.exp() - 1))
        by_log_variance *= posterior.chunk(2, dim=1)[1] == log_variance  # not clamped
        slope = torch.cat([by_mean, by_log_variance], dim=1)
        self._leave_gradients(batch, encoding, slope)
        return {"reconstruction": log_prob, "kl": module.kl_term(kl, weight)}

    def _factors(self, x, sizes, firsts):
        return [1 / size for size in sizes]


def _split(tensors, sizes):
    """Cut a tensor, or all of nested tuples, into batches of rows; None stays None."""
    if tensors is None:
        return [None] * len(sizes)
    if isinstance(tensors, torch.Tensor):
        return tensors.split(sizes)
    return list(zip(*(_split(part, sizes) for part in tensors), strict=True))
