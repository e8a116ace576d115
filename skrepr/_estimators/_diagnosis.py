"""What an embedding is like while it is learned."""

import numpy as np
import torch

from skrepr.metrics import (
    alignment,
    effective_rank,
    knn_accuracy,
    linear_probe_accuracy,
    normalized_std,
    uniformity,
)

N_DIAGNOSED = 1000  # rows that are looked at


@torch.no_grad()
def diagnose(module, source, generator):
    """Compute the metrics of the codes of rows, with those that need labels.

    Parameters
    ----------
    module : ContrastiveModule
    source : ResidentSource
        Of its rows the first 1000 are looked at.
    generator : torch.Generator
        For the views.

    Returns
    -------
    dict of str to float
        NaN where the network is not finite any more.
    """
    first = torch.arange(min(N_DIAGNOSED, len(source)), device=generator.device)
    x, ids = source.rows(first)
    views = [module.augment(x, generator) for _ in range(2)]
    a, b, codes = (module.encode(v).cpu().double().numpy() for v in (*views, x))
    finite = np.isfinite(np.concatenate([a, b, codes])).all()
    found = {
        "alignment": alignment(a, b) if finite else np.nan,
        "uniformity": uniformity(codes) if finite else np.nan,
        "effective_rank": effective_rank(codes) if finite else np.nan,
        "normalized_std": normalized_std(codes) if finite else np.nan,
    }
    if ids is not None:
        ids = ids.cpu().numpy()
        found |= _accuracies(codes, ids if finite else np.full_like(ids, -1))
    return found


def _accuracies(codes, ids):
    """Compute the metrics with labels, NaN where there are too few rows for them."""
    _, classes, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    found = {"knn_accuracy": np.nan, "linear_probe_accuracy": np.nan}
    usable = (ids >= 0) & (sizes[classes] > 1)
    if len(np.unique(ids[usable])) > 1:
        n_neighbors = min(5, usable.sum() - 1)
        found["knn_accuracy"] = knn_accuracy(codes[usable], ids[usable], n_neighbors)
    usable &= sizes[classes] > 3
    if len(np.unique(ids[usable])) > 1:  # two folds: once an epoch is often
        found["linear_probe_accuracy"] = linear_probe_accuracy(
            codes[usable], ids[usable], cv=2
        )
    return found
