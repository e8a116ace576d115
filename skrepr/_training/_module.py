"""What training and inference ask of a module: the contract, with its defaults."""

from torch import nn


class TrainableModule(nn.Module):
    """Base class of the modules that `train` trains.

    A subclass implements `loss`; the rest has defaults.

    Attributes
    ----------
    encoder : torch.nn.Module
        Maps rows of the matrix (n, n_columns) to codes (n, n_components).
    warmup : float
        The fraction of training during which the loss itself changes: early stopping
        does not lose patience before its end.
    shares_weights : bool
        Whether a user's part is handed the networks themselves and may use their
        weights, not only what they make of rows. They are then left to autograd.
    """

    encoder: nn.Module
    warmup: float = 0.0
    shares_weights: bool = False

    def loss(self, batch):
        """Compute the loss of a batch.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        dict of str to torch.Tensor
            Named 0-d terms, each a mean over rows, that sum to the loss.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement loss.")

    def by_hand(self):
        """Name what trains the module faster than autograd does, if anything can.

        Returns
        -------
        type or None
            A `Pass`. Only a `DecodingModule` whose encoder is a `ColumnEncoder` may
            name one. None, the default, leaves the derivatives to autograd.
        """
        return None

    def after_step(self):
        """Do what is due after a step of the optimiser: momentum encoders, queues."""

    def check(self, X):
        """Raise a ValueError if the module cannot take these rows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_columns)
            In the user's units. NaN is missing.
        """

    def encode(self, x):
        """Map rows of the matrix (n, n_columns) to codes (n, n_components)."""
        return self.encoder(x)


class DecodingModule(TrainableModule):
    """Base class of the modules that know the way back from codes to rows.

    A subclass implements `loss`, `draws`, `shown` and `fill`.

    Parameters
    ----------
    encoder : torch.nn.Module
    decoder : torch.nn.Module
        Maps codes to parameters of the likelihood.
    likelihood : LikelihoodModule
    """

    def __init__(self, encoder, decoder, likelihood):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    def draws(self, x, generator, first=0):
        """Draw the random numbers of a batch.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
        generator : torch.Generator
        first : int
            Where the batch starts among the rows that are shown together.

        Returns
        -------
        tuple of torch.Tensor
            Each with a first axis of length n: what `shown` needs and, at the end, the
            noise of the codes, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement draws.")

    def shown(self, x, draws):
        """Return rows as the encoder sees them in training.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            Of one or more batches.
        draws : sequence of torch.Tensor
            Of all of them, without the noise of the codes.

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement shown.")

    def check(self, X):
        """Raise a ValueError if the likelihood cannot take these rows."""
        self.likelihood.check(X)

    def decode(self, z):
        """Return the rows that codes are expected to have."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, z, generator):
        """Draw rows that have these codes."""
        return self.likelihood.sample(self.decoder(z), generator)

    def residuals(self, x):
        """Return how far x is from its reconstruction, NaN where it is missing."""
        return self.likelihood.residual(x, self.decoder(self.encode(x)))

    def fill(self, x):
        """Return x with what is expected beside the other cells where it is missing."""
        raise NotImplementedError(f"{type(self).__name__} must implement fill.")

    def redraw(self, x, generator):
        """Return rows x with the categories drawn again, if the model can do better.

        Parameters
        ----------
        x : torch.Tensor of shape (n, n_columns)
            Generated rows of the matrix.
        generator : torch.Generator

        Returns
        -------
        torch.Tensor of shape (n, n_columns)
            By default x itself.
        """
        return x
