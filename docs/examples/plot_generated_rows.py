"""
Can generated rows stand in for real ones?
==========================================

*Can rows that a model has made up be used in the place of real ones?* Three questions
tell: can they be told apart, do they teach what real rows teach, and are they copies?
The table has thirty measurements of breast tissue, and the diagnosis as one more
column, of categories.
"""

# %%
# Generate
# --------
# One half of the rows trains the model, the other one is for comparison. A string is a
# category to the model; nothing has to be encoded.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skrepr import VAETransformer

table = load_breast_cancer(as_frame=True)
rows = table.data.assign(diagnosis=table.target_names[table.target])
train, real = train_test_split(
    rows, test_size=0.5, stratify=rows["diagnosis"], random_state=0
)
vae = VAETransformer(max_iter=400, random_state=0).fit(train)
generated = vae.sample(len(real), random_state=0)
print(generated.iloc[:3, [0, 1, 2, -1]])

# %%
# Conditions hold for all rows: a category, a value, or a range of values.

large = vae.sample(200, given={"mean radius": (18, None)}, random_state=0)
print(f"malignant: {(generated['diagnosis'] == 'malignant').mean():.0%} of all rows,")
print(f"           {(large['diagnosis'] == 'malignant').mean():.0%} of the large ones")

# %%
# Look
# ----
# Below the diagonal every point is a row; on it are the distributions of the columns.

shown = ["mean radius", "mean texture", "mean concavity", "worst symmetry"]
tables = {"real, not seen in training": real, "generated": generated}
colours = {"malignant": "tab:orange", "benign": "tab:blue"}
figure = plt.figure(figsize=(10, 5.4), layout="constrained")
for part, (name, some) in zip(figure.subfigures(1, 2), tables.items(), strict=True):
    axes = part.subplots(len(shown), len(shown))
    for (i, j), axis in np.ndenumerate(axes):
        axis.set(xticks=[], yticks=[], visible=j <= i)
        y, x = shown[i], shown[j]
        axis.set_xlim(rows[x].min(), rows[x].max())
        for diagnosis, colour in colours.items():
            of_one = some[some["diagnosis"] == diagnosis]
            if i == j:
                bins = np.linspace(rows[x].min(), rows[x].max(), 25)
                axis.hist(of_one[x], bins, color=colour, alpha=0.5, label=diagnosis)
                axis.set_title(x, fontsize="small")
            else:
                axis.scatter(of_one[x], of_one[y], s=2, color=colour, alpha=0.5)
                axis.set_ylim(rows[y].min(), rows[y].max())
    part.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="upper right",
        bbox_to_anchor=(1, 0.9),
    )
    part.suptitle(name)
plt.show()

# %%
# Can they be told apart?
# -----------------------
# A classifier is to tell generated rows from the real ones that were not seen in
# training. A ROC-AUC of 0.5 says that it cannot, 1 that it always can. The training
# rows, which are real, show what the best is; the training rows with every column
# shuffled by itself, what a model reaches that ignores what columns have to do with
# each other.


def coordinates(frame):
    """Return a row's numbers; the diagnosis is 0 or 1."""
    return frame.assign(diagnosis=frame["diagnosis"] == "benign").to_numpy(float)


def two_sample(some):
    """Return the ROC-AUC with which a forest tells rows from the real ones."""
    X = coordinates(real), coordinates(some)
    is_new = np.repeat([0, 1], [len(real), len(some)])
    forest = ExtraTreesClassifier(n_estimators=30, min_samples_leaf=3, random_state=0)
    p = cross_val_predict(
        forest, np.concatenate(X), is_new, cv=3, method="predict_proba"
    )
    return roc_auc_score(is_new, p[:, 1])


rng = np.random.default_rng(0)
shuffled = train.apply(lambda column: rng.permutation(column))
for name, some in (("real", train), ("generated", generated), ("shuffled", shuffled)):
    print(f"ROC-AUC {two_sample(some):.2f}  {name} rows against real ones")

# %%
# Do they teach the same?
# -----------------------
# A classifier learns the diagnosis from generated rows, and is tested on real ones.

for name, some in (("real", train), ("generated", generated), ("shuffled", shuffled)):
    forest = ExtraTreesClassifier(random_state=0)
    forest.fit(some.drop(columns="diagnosis"), some["diagnosis"])
    predicted = forest.predict(real.drop(columns="diagnosis"))
    accuracy = balanced_accuracy_score(real["diagnosis"], predicted)
    print(f"balanced accuracy {accuracy:.3f}  learned from {name} rows")

# %%
# Are they copies?
# ----------------
# A generated row that knows nothing of single training rows is as often nearer to one
# of them as to one of the real rows that the model has not seen, which are as many.

scaler = StandardScaler().fit(coordinates(train))
distances = [
    NearestNeighbors(n_neighbors=1)
    .fit(scaler.transform(coordinates(some)))
    .kneighbors(scaler.transform(coordinates(generated)))[0]
    for some in (train, real)
]
nearer = (distances[0] < distances[1]).mean()
print(f"nearer to a training row than to another real row: {nearer:.0%}")
