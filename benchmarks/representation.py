"""Is a learned embedding better than raw columns and than an untrained network?

Tables of PMLB [1]_. One half of the rows, without labels, trains the transformer; its
frozen embedding then feeds a logistic regression and 5 nearest neighbours, fitted on
the labels of that half, all of them or 10 % (at least one row a class), and judged by
balanced accuracy on the other half. A table is subsampled to ``--rows`` rows; columns
are standardised by the training half, and so is the embedding. Splits are stratified.

All contenders have the same number of components, one after another of ``--widths``,
save the raw columns, which keep their own number, and PCA, which cannot have more than
that. UMAP [2]_ only takes part at 16.

The untrained networks are the encoder of `ContrastiveTransformer` as it is initialised,
and with He's initialisation, each averaged over 5 draws: what they reach is owed to
non-linear features and not to learning. "SCARF (ts3l)" is contrastive learning as
TabularS3L [3]_ has it.

Cells are logistic regression / 5 nearest neighbours, means over the seeds; tables won
are counted by each of the two, ties shared. The intervals of the differences are
bootstrapped over the tables, and after them stand the numbers of tables on which the
contrastive codes are better and worse. A contender that fails on a table has nan for
its mean. Seconds are those of one fit; the untrained networks' include an epoch at a
learning rate of 1e-12, and the first of UMAP's its compilation. For times to compare,
leave ``--jobs`` at 1 and fix the number of threads (``OMP_NUM_THREADS``).

How to run: put PMLB's ``.tsv.gz`` files (numbers; the column ``target`` is y) in a
folder, then ::

    python benchmarks/representation.py FOLDER --out repr.md repr.csv

The ``.csv`` holds every single result. ``--sets vowel wdbc``, ``--widths 16`` and
``--contenders raw PCA`` run a part, ``--jobs 2`` two tables side by side.
``--contenders ablation --widths 16`` compares contrastive learning at its defaults with
that of another objective, augmentation or auxiliary task; ``--contenders labels`` with
contrastive learning that also gets y, of the rows whose labels the classifiers get, and
the other rows without. A new contender is one more line in `CONTENDERS`. UMAP needs
umap-learn, SCARF ts3l.

References
----------
.. [1] Olson et al., "PMLB: a large benchmark suite for machine learning evaluation and
   comparison", BioData Mining 2017. https://github.com/EpistasisLab/pmlb
.. [2] McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection
   for Dimension Reduction", arXiv 1802.03426 (2018).
.. [3] https://github.com/Alcoholrithm/TabularS3L, of Bahri et al., "SCARF:
   Self-Supervised Contrastive Learning using Random Feature Corruption", ICLR 2022.
"""

import gzip
import logging
import warnings
from functools import cache, partial
from importlib import import_module
from itertools import product
from time import perf_counter

import numpy as np
import torch
from _report import parse_arguments, run
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.nn import functional as F

from skrepr import AutoencoderTransformer, ContrastiveTransformer, VAETransformer
from skrepr.auxiliaries import SelfPrediction

SHARES = {"all labels": 1.0, "10 % of the labels": 0.1}
MEASURES = {
    "logistic": "logistic",
    "neighbours": "5-NN",
    "fit_seconds": "fit",
    "transform_seconds": "transform",
}


def load(path):
    """Return the columns and y."""
    with gzip.open(path, "rt") as file:
        target = file.readline().rstrip("\r\n").split("\t").index("target")
        table = np.loadtxt(file, delimiter="\t", ndmin=2)
    return np.delete(table, target, axis=1), table[:, target]


def halves(X, y, max_rows, seed):
    """Return X_train, X_test, y_train, y_test, the columns standardised."""
    if len(y) > max_rows:
        X, _, y, _ = train_test_split(
            X, y, train_size=max_rows, stratify=y, random_state=seed
        )
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.5, stratify=y, random_state=seed
    )
    scaler = StandardScaler().fit(X_train)
    return scaler.transform(X_train), scaler.transform(X_test), y_train, y_test


def labelled(y, share, rng):
    """Draw a share of the rows of every class, at least one."""
    rows = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.concatenate([r[: max(1, round(share * len(r)))] for r in rows])


def hide(y, rows):
    """Leave only the labels of `rows`; the others become NaN."""
    known = np.full(len(y), np.nan)
    known[rows] = y[rows]
    return known


def embed(transformer, X_train, X_test, y=None):
    """Fit; return both embeddings, standardised, and the two times."""
    start = perf_counter()
    transformer.fit(X_train, y)
    fitted = perf_counter()
    Z_train, Z_test = transformer.transform(X_train), transformer.transform(X_test)
    done = perf_counter()
    scaler = StandardScaler().fit(Z_train)
    seconds = fitted - start, done - fitted
    return scaler.transform(Z_train), scaler.transform(Z_test), seconds


def probe(embedding, y_train, y_test, rows):
    """Fit both classifiers on the labels of `rows`; return all of `MEASURES`."""
    Z_train, Z_test, seconds = embedding()
    neighbours = KNeighborsClassifier(min(5, len(rows)))
    accuracies = []
    for classifier in (LogisticRegression(max_iter=1000), neighbours):
        predicted = classifier.fit(Z_train[rows], y_train[rows]).predict(Z_test)
        accuracies.append(balanced_accuracy_score(y_test, predicted))
    return *accuracies, *seconds


def untrained(width, seed):
    """Return the contrastive encoder, and its table, after no step worth the name."""
    return ContrastiveTransformer(
        width, max_iter=1, learning_rate=1e-12, random_state=seed
    )


class HeInitialised(BaseEstimator):
    """The encoder of `untrained`, with He's normal weights and no biases."""

    def __init__(self, width, seed):
        self.width = width
        self.seed = seed

    def fit(self, X, y=None):
        self.transformer_ = untrained(self.width, self.seed).fit(X)
        generator = torch.Generator().manual_seed(self.seed)
        for layer in self.transformer_.module_.encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.kaiming_normal_(
                    layer.weight, nonlinearity="relu", generator=generator
                )
                torch.nn.init.zeros_(layer.bias)
        return self

    def transform(self, X):
        return self.transformer_.transform(X)


class NTXent(torch.nn.Module):
    """What TabularS3L's NTXentLoss computes of codes of unit length, in their product.

    The loss and its gradients are the same, hundreds of times as fast.
    """

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, a, b):
        codes = torch.cat([a, b])
        similarities = codes @ codes.T / self.temperature
        similarities = similarities.fill_diagonal_(-torch.inf)
        return F.cross_entropy(similarities, torch.arange(len(codes)).roll(len(a)))


class TabularS3L(BaseEstimator):
    """SCARF of TabularS3L.

    Its defaults (one hidden layer of 128 units, batch normalisation, dropout, AdamW at
    a learning rate of 1e-4) and the corruption rate and batch size of its README.
    Deviations: as many steps as skrepr takes, 1000, where the README takes 10 epochs;
    and `NTXent`, since of the original a thousand steps take a quarter of an hour.
    """

    def __init__(self, width, seed):
        self.width = width
        self.seed = seed

    def fit(self, X, y=None):
        with warnings.catch_warnings(action="ignore"):
            self._fit(X)
        return self

    def _fit(self, X):
        import pandas as pd
        from pytorch_lightning import Trainer
        from ts3l.pl_modules import SCARFLightning
        from ts3l.utils.backbone_utils import MLPBackboneConfig
        from ts3l.utils.embedding_utils import IdentityEmbeddingConfig
        from ts3l.utils.scarf_utils import SCARFConfig, SCARFDataset

        for package in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(package).setLevel(logging.ERROR)
        n_columns = X.shape[1]
        config = SCARFConfig(
            task="classification",
            loss_fn="CrossEntropyLoss",
            embedding_config=IdentityEmbeddingConfig(input_dim=n_columns),
            backbone_config=MLPBackboneConfig(
                input_dim=n_columns, output_dim=self.width
            ),
            output_dim=2,  # of a second phase that does not come
            corruption_rate=0.6,
            random_seed=self.seed,
        )
        rows = SCARFDataset(
            pd.DataFrame(X),
            config=config,
            continuous_cols=list(range(n_columns)),
            category_cols=[],
        )
        module = SCARFLightning(config)
        module.contrastive_loss = NTXent(config.tau)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=1000,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(rows, batch_size=128, shuffle=True)
        trainer.fit(module, loader)
        self.encoder_ = module.model.encoder.eval()

    @torch.no_grad()
    def transform(self, X):
        return self.encoder_(torch.as_tensor(X, dtype=torch.float32)).numpy()


def contrastive(**params):
    """Return a factory of contrastive transformers that differ from the default."""
    return lambda seed, width, d: ContrastiveTransformer(
        width, random_state=seed, **params
    )


# From a seed, a width and the number of columns to an object with fit and transform.
CONTENDERS = {
    "raw": lambda seed, width, d: FunctionTransformer(),
    "PCA": lambda seed, width, d: PCA(min(width, d), random_state=seed),
    "Nystroem": lambda seed, width, d: Nystroem(n_components=width, random_state=seed),
    "untrained": lambda seed, width, d: untrained(width, seed),
    "untrained He": lambda seed, width, d: HeInitialised(width, seed),
    "UMAP": lambda seed, width, d: import_module("umap").UMAP(
        n_components=width, random_state=seed, n_jobs=1
    ),
    "SCARF (ts3l)": lambda seed, width, d: TabularS3L(width, seed),
    "Autoencoder": lambda seed, width, d: AutoencoderTransformer(
        width, random_state=seed
    ),
    "VAE": lambda seed, width, d: VAETransformer(width, random_state=seed),
    "Contrastive": contrastive(),
}
# What gets labels too, where the embedding learns.
TAUGHT = {
    "Contrastive, labels": contrastive(positives="labels"),
    "sup_con, labels": contrastive(objective="sup_con", positives="labels"),
}
ABLATION = {
    "moco": contrastive(objective="moco"),
    "contrastive loss": contrastive(objective="contrastive"),
    "triplet": contrastive(objective="triplet"),
    "lifted_structured": contrastive(objective="lifted_structured"),
    "n_pair": contrastive(objective="n_pair"),
    "byol": contrastive(objective="byol"),
    "simsiam": contrastive(objective="simsiam"),
    "barlow_twins": contrastive(objective="barlow_twins"),
    "vicreg": contrastive(objective="vicreg"),
    "gaussian_noise": contrastive(augmentation="gaussian_noise"),
    "feature_masking": contrastive(augmentation="feature_masking"),
    "mixup": contrastive(augmentation="mixup"),
    "self_prediction": contrastive(auxiliary="self_prediction"),
    "self_prediction with mask": contrastive(auxiliary=SelfPrediction(mask_weight=1.0)),
    "gaussian_noise, self_prediction": contrastive(
        augmentation="gaussian_noise", auxiliary="self_prediction"
    ),
    "vicreg, gaussian_noise": contrastive(
        objective="vicreg", augmentation="gaussian_noise"
    ),
    "vicreg, self_prediction": contrastive(
        objective="vicreg", auxiliary="self_prediction"
    ),
    "byol, gaussian_noise": contrastive(
        objective="byol", augmentation="gaussian_noise"
    ),
    "byol, self_prediction": contrastive(objective="byol", auxiliary="self_prediction"),
}
GROUPS = {
    "default": list(CONTENDERS),
    "labels": ["raw", "Contrastive", *TAUGHT],
    "ablation": ["Contrastive", *ABLATION],
}
CONTENDERS |= TAUGHT | ABLATION
NEEDS = {"UMAP": "umap", "SCARF (ts3l)": "ts3l"}
WIDTHS = {"UMAP": [16]}  # of the others: any
DRAWS = {"untrained": 5, "untrained He": 5}


def run_set(path, args):
    """Yield what is measured and the function that measures it."""
    X, y = load(path)
    for seed in args.seeds:
        X_train, X_test, y_train, y_test = halves(X, y, args.rows, seed)
        rng = np.random.default_rng(seed)
        rows = {name: labelled(y_train, share, rng) for name, share in SHARES.items()}
        for width, name in product(args.widths, args.contenders):
            if width not in WIDTHS.get(name, args.widths):
                continue
            for draw in range(DRAWS.get(name, 1)):
                model = CONTENDERS[name](seed + 1000 * draw, width, X.shape[1])
                untaught = cache(partial(embed, model, X_train, X_test))
                for share, known in rows.items():
                    taught = partial(
                        embed, model, X_train, X_test, hide(y_train, known)
                    )
                    what = {"seed": seed, "setting": f"width {width}, {share}"}
                    what |= {"contender": name, "draw": draw}
                    embedding = taught if name in TAUGHT else untaught
                    yield what, partial(probe, embedding, y_train, y_test, known)


if __name__ == "__main__":
    arguments = parse_arguments(
        __doc__, CONTENDERS, ".tsv.gz", GROUPS, NEEDS, rows=6000, widths=[16, 64, 256]
    )
    run(arguments, MEASURES, run_set, ours="Contrastive")
