"""The mathematics of the variational autoencoder."""

import math

import numpy as np
import torch

from skrepr._blocks import blocks
from skrepr._training._by_hand import EvidencePass
from skrepr._training._module import DecodingModule
from skrepr._training._stacks import is_own

_LOG_VARIANCE_RANGE = (-12.0, 6.0)  # keeps exp and its gradient finite
_N_FILLINGS = 5  # fixed-point iterations to fill cells never missing in training
_MAX_DRAWS = 2**16  # of codes, for all rows of a batch together
N_COMPLETIONS = 16  # of a row with holes


class VAEModule(DecodingModule):
    """Encoder q(z|x), decoder p(x|z) and the prior N(0, I).

    The loss is minus the evidence lower bound (ELBO), a mean over rows of

        - E_q[log p(x|z)]  +  weight * KL(q(z|x) || N(0, I)),

    log-densities summed over observed cells and the KL divergence over latents. The
    weight rises to beta while progress goes from 0 to `warmup`. Below `free_bits` nats,
    a mean over rows, the divergence of a latent costs as much as that.

    In every second row the encoder misses one of the categories, on average, so that it
    learns to tell a category from the rest of the row.
    """

    noise: torch.Tensor
    mean: torch.Tensor
    categorical: torch.Tensor
    never_missing: torch.Tensor

    def __init__(
        self, encoder, decoder, likelihood, noise, beta, warmup, free_bits, columns
    ):
        super().__init__(encoder, decoder, likelihood)
        self.register_buffer("noise", noise)  # (n_importance_samples, n_components)
        self.register_buffer("mean", torch.as_tensor(columns.mean).float())
        categorical = np.flatnonzero(columns.categorical & columns.varies)
        self.register_buffer("categorical", torch.as_tensor(categorical))
        never_missing = ~columns.missing & columns.numeric
        self.register_buffer("never_missing", torch.as_tensor(never_missing))
        self.beta = beta
        self.warmup = warmup
        self.free_bits = free_bits
        sizes = [p.shape[0] for p in self.parameters() if p.ndim]
        # Of a layer, where several codes of a row are decoded.
        self.cells_per_row = max(sizes, default=1) * len(noise)

    @property
    def n_components(self):
        return self.noise.shape[1]

    def posterior(self, x):
        """Return mean and log-variance of q(z|x), each (n, n_components).

        Cells of columns that were never missing in training are filled first: the
        encoder has not learned to do without them.
        """
        holes = x.isnan() & self.never_missing
        if holes.any():
            observed = x
            for _ in range(_N_FILLINGS):
                expected = self.decode(self._posterior(x)[0])
                x = torch.where(holes, expected, observed)
        return self._posterior(x)

    def _posterior(self, x):
        return self.split(self.encoder(x))

    def split(self, output):
        """Return mean and log-variance of q(z|x) from the encoder's output."""
        mean, log_variance = output.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)

    def loss(self, batch):
        x = batch.x
        *draws, noise = self.draws(x, batch.generator)
        mean, log_variance = self._posterior(self.shown(x, draws))
        z = torch.addcmul(mean, noise, (0.5 * log_variance).exp())
        log_prob = self.likelihood.log_prob(x, self.decoder(z))
        kl = self.kl_term(self.kl(mean, log_variance), self.kl_weight(batch.progress))
        return {"reconstruction": -log_prob.sum() / len(x), "kl": kl}

    def draws(self, x, generator, first=0):
        hidden: tuple = ()
        n, k = len(x), len(self.categorical)
        if k:  # Hide one category, on average, of every second row.
            row = torch.rand(n, 1, generator=generator, device=x.device) < 0.5
            cell = torch.rand(n, k, generator=generator, device=x.device) < 1 / k
            hidden = (row & cell,)
        noise = x.new_empty(n, self.n_components).normal_(generator=generator)
        return *hidden, noise

    def shown(self, x, draws):
        if not draws:
            return x
        (hidden,) = draws
        cells = x.index_select(1, self.categorical).masked_fill(hidden, torch.nan)
        return x.index_copy(1, self.categorical, cells)

    def kl(self, mean, log_variance):
        """Return the KL divergence of every latent, a mean over rows."""
        return _divergence(mean, log_variance).sum(0) / len(mean)

    def kl_weight(self, progress):
        """Return the factor of the KL divergence in the loss."""
        if self.warmup == 0:
            return self.beta
        return self.beta * (progress / self.warmup).clamp(max=1)

    def kl_term(self, kl, weight):
        """Return what the KL divergences of the latents add to the loss."""
        return weight * kl.clamp(min=self.free_bits).sum()

    def by_hand(self):
        has_slopes = self.likelihood.has_slopes and is_own(self.likelihood)
        return EvidencePass if has_slopes else None

    def encode(self, x):
        return self.posterior(x)[0]

    def fill(self, x):
        """Return x with its mean given the observed cells where it is missing.

        Of a category it is the most probable one. The mean is over draws of the code,
        each weighted by its share in the likelihood of the observed cells.
        """
        log_weights, _, output = self._log_weights(x, self.posterior(x), self.noise)
        expected = self.likelihood.average(output, log_weights.softmax(0))
        return torch.where(x.isnan(), expected, x)

    def redraw(self, x, generator):
        """Return rows x with each category drawn again, given the rest of its row."""
        x = x.clone()
        for j in self.categorical.tolist():
            x[:, j] = torch.nan
            output = self.decoder(self.encode(x))
            x[:, j] = self.likelihood.sample(output, generator)[:, j]
        return x

    def complete(self, x, generator):
        """Return rows x with the missing cells drawn, shape (n, n_completions, d).

        Codes are drawn from the posterior given the observed cells. Every row gets the
        same random numbers, so that its completions do not depend on the others'.
        """
        log_weights, _, output = self._log_weights(x, self.posterior(x), self.noise)
        weights, state = log_weights.softmax(0), generator.get_state()
        rows = []
        for i in range(len(x)):
            generator.set_state(state)
            chosen = torch.multinomial(
                weights[:, i], N_COMPLETIONS, replacement=True, generator=generator
            )
            rows.append(self.likelihood.sample(output[chosen, i], generator))
        generator.set_state(state)  # for the rows of the next batch
        return torch.where(x.isnan()[:, None], torch.stack(rows), x[:, None])

    def elbo(self, x):
        """Return minus the terms of the loss of every row, shape (n, 2).

        The expectation is a mean over the draws of `noise`, the same for every row.
        """
        posterior = self.posterior(x)
        kl = _divergence(*posterior).sum(1)
        total = torch.zeros_like(kl)
        for noise in self._noise_in_parts(len(x)):
            total += self._cells(x, posterior, noise)[0].sum((0, 2))
        return torch.stack([total / len(self.noise), -kl], dim=1)

    def log_prob(self, x):
        """Return the importance-weighted bound of log p(x), shape (n,).

        It is the log-density of the observed cells. The draws z = mean + std * noise
        take the same noise for every row; they are made a part at a time.
        """
        posterior = self.posterior(x)
        log_weights = [
            self._log_weights(x, posterior, noise)[0]
            for noise in self._noise_in_parts(len(x))
        ]
        return torch.cat(log_weights).logsumexp(0) - math.log(len(self.noise))

    def expected_log_prob(self, x):
        """Return the posterior mean of log p(x|z) of every cell, 0 where it is missing.

        It is a mean over the draws of `log_prob`, each weighted by its share in the
        likelihood of the observed cells; shape (n, n_columns).
        """
        posterior = self.posterior(x)
        expected = x.new_zeros(x.shape)
        log_total = x.new_full((len(x),), -torch.inf)
        for noise in self._noise_in_parts(len(x)):
            log_weights, cells, _ = self._log_weights(x, posterior, noise)
            log_part = log_weights.logsumexp(0)
            log_total = log_total.logaddexp(log_part)
            weights = (log_weights - log_part).exp()
            of_part = torch.einsum("kn,knj->nj", weights, cells)
            share = (log_part - log_total).exp()[:, None]
            expected = torch.lerp(expected, of_part, share)
        return expected

    def _log_weights(self, x, posterior, noise):
        """Return log p(x|z) + log p(z) - log q(z|x), and what `_cells` returns first.

        All have the shape (n_draws, n, ...). p(x|z) is of the observed cells.
        """
        cells, output, z = self._cells(x, posterior, noise)
        log_ratio = 0.5 * (noise[:, None].square() - z.square() + posterior[1])
        return cells.sum(-1) + log_ratio.sum(-1), cells, output

    def _cells(self, x, posterior, noise):
        """Return log p(x|z) of every cell, the decoder's output, and the draws z."""
        mean, log_variance = posterior
        z = mean + (0.5 * log_variance).exp() * noise[:, None]
        output = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        holes = x.isnan()
        cells = self.likelihood.log_prob(torch.where(holes, self.mean, x), output)
        return cells.masked_fill(holes, 0.0), output, z

    def _noise_in_parts(self, n):
        """Yield the noise, so much of it at a time as memory allows for n rows."""
        for block in blocks(len(self.noise), n, _MAX_DRAWS):
            yield self.noise[block]


def _divergence(mean, log_variance):
    """Return the KL divergence from N(0, 1) of every latent, (n, n_components)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
