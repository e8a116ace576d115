"""Forward and backward passes written by hand: a step without autograd's overhead.

Each returns the terms of a module's loss, and leaves the gradients where the update
looks for them.
"""

from functools import partial

import torch


def find_pass(module, stacks):
    """Find what is to be called with a batch instead of the loss of a module.

    Parameters
    ----------
    module : TrainableModule
    stacks : dict of torch.nn.Sequential to Stack
        Of its networks.

    Returns
    -------
    callable or None
        None where autograd is needed.
    """
    by_hand = module.by_hand()
    if by_hand is None:
        return None
    encoder, decoder = stacks.get(module.encoder.network), stacks.get(module.decoder)
    if encoder is None or decoder is None:
        return None
    return partial(by_hand, module, encoder, decoder)


def reconstruction_pass(module, encoder, decoder, batch):
    """Compute what `AutoencoderModule.loss` does without penalty and constraint.

    Parameters
    ----------
    module : AutoencoderModule
    encoder, decoder : Stack
        Of the networks of its encoder and its decoder.
    batch : Batch

    Returns
    -------
    dict of str to torch.Tensor
    """
    x = batch.x
    with torch.enable_grad():  # which a user's augmentation may need for itself
        shown = module.shown(x, batch.generator)
    if module.may_leave_out and module.encoder.inputs is None:
        shown = module.encoder.read(shown)
    reading = _Reading(module.encoder.inputs, shown)
    z, encoding = encoder.forward(reading.inputs)
    output, decoding = decoder.forward(z)
    factor = 1 / module.n_cells(x)
    cost, slope = module.likelihood.cost_and_slope(x, output, factor)
    slope = decoder.backward(decoding, slope)
    reading.backward(encoder, encoding, slope)
    return {"reconstruction": cost}


def evidence_pass(module, encoder, decoder, batch):
    """Compute what `VAEModule.loss` does.

    The code is z = mean + exp(log_variance / 2) noise, and the KL divergence of a
    latent (mean² + exp(log_variance) - 1 - log_variance) / 2.

    Parameters
    ----------
    module : VAEModule
    encoder, decoder : Stack
        Of the networks of its encoder and its decoder.
    batch : Batch

    Returns
    -------
    dict of str to torch.Tensor
    """
    x, factor = batch.x, 1 / batch.x.shape[0]
    reading = _Reading(module.encoder.inputs, module.shown(x, batch.generator))
    posterior, encoding = encoder.forward(reading.inputs)
    mean, log_variance = module.split(posterior)
    noise = torch.empty_like(mean).normal_(generator=batch.generator)
    deviation = (0.5 * log_variance).exp_().mul_(noise)
    output, decoding = decoder.forward(mean + deviation)
    log_prob, slope = module.likelihood.log_prob_and_slope(x, output, -factor)
    slope = decoder.backward(decoding, slope)
    kl, weight = module.kl(mean, log_variance), module.kl_weight(batch.progress)
    by_kl = weight * factor * (kl >= module.free_bits)
    by_mean = slope + by_kl * mean
    by_log_variance = 0.5 * (slope * deviation + by_kl * (log_variance.exp() - 1))
    by_log_variance *= posterior.chunk(2, dim=1)[1] == log_variance  # not clamped
    slope = torch.cat([by_mean, by_log_variance], dim=1)
    reading.backward(encoder, encoding, slope)
    return {"reconstruction": log_prob, "kl": module.kl_term(kl, weight)}


class _Reading:
    """What a network reads of rows, and the way back to vectors that are learned.

    Parameters
    ----------
    reader : Inputs or None
        None where the network reads the rows as they are.
    x : torch.Tensor of shape (n, n_columns)
    """

    def __init__(self, reader, x):
        self.reader, self.inputs = reader, x
        if reader is not None:
            self.classes = reader.classes(x)
            self.inputs = reader.join(x, self.classes)

    def backward(self, encoder, encoding, slope):
        """Compute the gradients of an encoder, and of the vectors it read."""
        has_vectors = self.reader is not None and bool(self.reader.vector_columns)
        slope = encoder.backward(encoding, slope, to_inputs=has_vectors)
        if has_vectors:
            self.reader.backward(self.classes, slope)
