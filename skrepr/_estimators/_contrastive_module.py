"""What contrastive learning trains, and which rows belong together."""

import torch

from skrepr._training._module import TrainableModule
from skrepr._training._outputs import check_terms
from skrepr._training._stacks import is_own
from skrepr.objectives import Views


class ContrastiveModule(TrainableModule):
    """An encoder, an objective for its codes of two views, and what makes the views.

    The loss is the objective's, plus that of the auxiliary task on the same codes.
    """

    def __init__(self, encoder, objective, augment, auxiliary, n_components):
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        self.augment = augment
        self.auxiliary = auxiliary
        self.n_components = n_components
        self.shares_weights = not is_own(objective)

    def views(self, batch):
        """Make two views of every row, the second one of its partner."""
        x, ids = batch.x, batch.index
        partners = x
        if batch.y is not None:
            ids = batch.y
            partners = x[partner(ids, batch.generator)]
        views = [self.augment(v, batch.generator, ids) for v in (x, partners)]
        rows = torch.cat(views)
        return Views(
            rows=rows,
            originals=torch.cat([x, partners]),
            codes=self.encoder(rows),
            ids=ids.repeat(2),
            pairs_only=batch.y is None,
            progress=batch.progress,
        )

    def loss(self, batch):
        views = self.views(batch)
        terms = check_terms(self.objective(views), self.objective)
        if self.auxiliary is not None:
            terms = terms | check_terms(self.auxiliary(views), self.auxiliary)
        return terms

    def after_step(self):
        self.objective.after_step(self.encoder)


def partner(ids, generator):
    """Choose for every row another one with the same id, or itself if it is alone.

    Parameters
    ----------
    ids : torch.Tensor of shape (n,)
    generator : torch.Generator

    Returns
    -------
    torch.Tensor of shape (n,)
        A permutation: every row is the partner of one.
    """
    n = len(ids)
    order = torch.randperm(n, generator=generator, device=ids.device)
    order = order[ids[order].argsort(stable=True)]
    grouped = ids[order]
    following = torch.arange(1, n + 1, device=ids.device)
    is_last = grouped != grouped.roll(-1)
    is_last[-1] = True
    first = torch.searchsorted(grouped, grouped)
    following = torch.where(is_last, first, following)
    return torch.empty_like(order).scatter_(0, order, order[following])
