"""What backbones share."""

from skrepr.parts import Part


class Backbone(Part):
    """Base class of the backbones.

    A backbone of your own implements `encoder` and `decoder`. It may reshape the rows
    of the matrix as it likes; random numbers it draws, in its initialisation or in
    dropout, follow the estimator's ``random_state``.
    """

    def encoder(self, n_inputs, n_outputs):
        """Build the network from columns to codes.

        Parameters
        ----------
        n_inputs : int
        n_outputs : int

        Returns
        -------
        torch.nn.Module
            Maps (n, n_inputs) to (n, n_outputs).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement encoder.")

    def decoder(self, n_inputs, n_outputs):
        """Build the network from codes to the parameters of a likelihood.

        Parameters
        ----------
        n_inputs : int
        n_outputs : int

        Returns
        -------
        torch.nn.Module
            Maps (n, n_inputs) to (n, n_outputs).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement decoder.")
