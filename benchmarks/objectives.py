"""How much memory and time does a contrastive loss need?

A loss of the two views of a batch and its gradient by their projections, drawn from a
normal distribution, in a fresh process each: the growth of the largest resident set,
and the seconds of a call (the median of five, for a small batch). "views" has no other
positives than the two views of a row, "labels" has ten classes.

How to run::

    python benchmarks/objectives.py            # a batch of 4096 rows, 256 components
    python benchmarks/objectives.py --rows 256

Memory is measured where the operating system tells it in kilobytes, as Linux does.
"""

import argparse
import resource
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional as F

from skrepr import objectives

LOSSES = {
    "nt_xent": lambda v: objectives.nt_xent(v.a, v.b, 0.1, v.row_ids),
    "nt_xent, learned": lambda v: objectives.nt_xent(v.a, v.b, v.learned, v.row_ids),
    "moco": lambda v: objectives.moco(v.z, v.keys, v.ids, v.queue, v.queue_ids, 0.1),
    "sup_con": lambda v: objectives.sup_con(v.z, v.ids, 0.1),
    "contrastive": lambda v: objectives.contrastive(v.z, v.ids, 1.0),
    "triplet, semi_hard": lambda v: objectives.triplet(v.z, v.ids, 0.2),
    "triplet, all": lambda v: objectives.triplet(v.z, v.ids, 0.2, "all"),
    "triplet, hard": lambda v: objectives.triplet(v.z, v.ids, 0.2, "hard"),
    "lifted, smooth": lambda v: objectives.lifted_structured(v.z, v.ids, 1.0),
    "lifted, hard": lambda v: objectives.lifted_structured(v.z, v.ids, 1.0, "hard"),
    "n_pair": lambda v: objectives.n_pair(v.a, v.b, v.row_ids),
}
KINDS = ["views", "labels"]


class Projections:
    """What the losses take, of two views of n rows."""

    def __init__(self, n, width, kind):
        generator = torch.Generator().manual_seed(0)
        self.z = torch.randn(2 * n, width, generator=generator, requires_grad=True)
        self.a, self.b = self.z.chunk(2)
        self.keys = self.z.detach().roll(n, 0)
        ids = torch.randint(10, (n,), generator=generator)
        ids = torch.arange(n) if kind == "views" else ids
        self.ids, self.row_ids = ids.repeat(2), None if kind == "views" else ids
        queue = torch.randn(1024, width, generator=generator)
        self.queue, self.queue_ids = F.normalize(queue, dim=1), -1 - torch.arange(1024)
        self.learned = torch.tensor(0.1, requires_grad=True)


def call(name, projections):
    start = perf_counter()
    LOSSES[name](projections).backward()
    return perf_counter() - start


def measure(name, kind, rows, components):
    """Print megabytes and milliseconds."""
    torch.set_num_threads(1)
    call(name, Projections(20, components, kind))  # what the first call loads
    projections = Projections(rows, components, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = call(name, projections)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if rows < 1000:
        seconds = median(
            call(name, Projections(rows, components, kind)) for _ in range(5)
        )
    print(f"{grown / 1024:.0f} MB, {1000 * seconds:.3g} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--components", type=int, default=256)
    parser.add_argument(
        "--one", nargs=2, metavar=("LOSS", "KIND"), help="without table"
    )
    args = parser.parse_args()
    if args.one is not None:
        measure(*args.one, args.rows, args.components)
        sys.exit()
    print(
        f"| {args.rows} rows, {args.components} components | {KINDS[0]} | {KINDS[1]} |"
    )
    print("| --- " * 3 + "|")
    options = ["--rows", str(args.rows), "--components", str(args.components)]
    for name in LOSSES:
        cells = [
            subprocess.run(
                [sys.executable, __file__, *options, "--one", name, kind],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
            for kind in KINDS
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
