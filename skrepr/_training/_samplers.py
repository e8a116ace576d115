"""How an epoch is cut into batches."""

import math

import torch


class EvenSplit:
    """Cut every epoch into batches of equal size, give or take one row.

    No row is skipped and no batch has a single row, so batch normalisation and
    contrast are always defined.

    Parameters
    ----------
    n_samples : int
    batch_size : int
        The largest size of a batch; 3 if it is 2 and `n_samples` is odd.
    """

    def __init__(self, n_samples, batch_size):
        self.n_samples = n_samples
        min_batches = math.ceil(n_samples / batch_size)
        self.n_batches = max(1, min(min_batches, n_samples // 2))

    def __len__(self):
        return self.n_batches

    def epoch(self, generator):
        """Return the index tensors of one epoch, in random order."""
        order = torch.randperm(
            self.n_samples, generator=generator, device=generator.device
        )
        return order.tensor_split(self.n_batches)

    def in_order(self, device):
        """Return the index tensors of one pass in the order of the rows."""
        return torch.arange(self.n_samples, device=device).tensor_split(self.n_batches)


class ClassBalanced:
    """Cut every epoch into batches in which all classes are as frequent.

    An epoch takes about as many rows as there are. Every class gives an equal number,
    in pairs of different rows: of a large class other rows in every epoch, of a small
    one the same rows several times. Where a batch cannot hold a pair of every class,
    it holds pairs of some. Rows without a class, or alone in theirs, are each taken
    once.

    Parameters
    ----------
    ids : torch.Tensor of shape (n_samples,)
        Numbers of the classes; below 0 for rows without one.
    batch_size : int
        The largest size of a batch, give or take one row; at least 4, so that pairs of
        two classes meet.
    """

    def __init__(self, ids, batch_size):
        _, classes, counts = ids.unique(return_inverse=True, return_counts=True)
        is_paired = (ids >= 0) & (counts[classes] > 1)
        self.unpaired_rows = torch.nonzero(~is_paired)[:, 0]
        self.paired_rows = torch.nonzero(is_paired)[:, 0]
        _, self.classes, self.counts = ids[self.paired_rows].unique(
            return_inverse=True, return_counts=True
        )
        n_classes = len(self.counts)
        self.n_pairs = math.ceil(len(self.paired_rows) / max(1, n_classes) / 2)
        n_drawn = 2 * n_classes * self.n_pairs + len(self.unpaired_rows)
        self.n_batches = max(1, min(math.ceil(n_drawn / batch_size), n_drawn // 4))

    def __len__(self):
        return self.n_batches

    def epoch(self, generator):
        """Return the index tensors of one epoch, in random order."""
        device, n_classes = generator.device, len(self.counts)
        order = _permutation(self.classes, generator)
        order = order[self.classes[order].argsort(stable=True)]  # class after class
        places = torch.arange(2 * self.n_pairs, device=device) % self.counts[:, None]
        starts = self.counts.cumsum(0) - self.counts
        drawn = self.paired_rows[order[starts[:, None] + places]]
        # Round after round, each of a pair of every class, in an order of its own.
        rounds = drawn.view(n_classes, self.n_pairs, 2).transpose(0, 1)
        keys = torch.rand(self.n_pairs, n_classes, generator=generator, device=device)
        rounds = torch.take_along_dim(rounds, keys.argsort(1)[..., None], dim=1)
        unpaired = self.unpaired_rows[_permutation(self.unpaired_rows, generator)]
        # The first parts of the pairs have a row more, and the last of the others.
        return [
            torch.cat(parts)
            for parts in zip(
                rounds.flatten().tensor_split(self.n_batches),
                unpaired.tensor_split(self.n_batches)[::-1],
                strict=True,
            )
        ]


def _permutation(like, generator):
    return torch.randperm(len(like), generator=generator, device=generator.device)
