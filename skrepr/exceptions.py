"""The errors that are the package's own; all others are Python's and scikit-learn's."""

__all__ = ["TrainingError"]


class TrainingError(ValueError):
    """The loss, the weights or the codes became NaN or infinite in training.

    If early stopping had found a best epoch before, the estimator keeps the weights of
    that one, and can be used. Otherwise it is as it was before ``fit``.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skrepr import AutoencoderTransformer
    >>> from skrepr.exceptions import TrainingError
    >>> try:
    ...     AutoencoderTransformer(learning_rate=1e30).fit(load_wine().data)
    ... except TrainingError:
    ...     print("The learning rate is too high.")
    The learning rate is too high.
    """
