"""What the README tells a user to type works as it stands there."""

import re
from pathlib import Path

import joblib
from matplotlib import pyplot as plt

from skrepr import (
    AutoencoderTransformer,
    ContrastiveTransformer,
    FineTunedClassifier,
    VAETransformer,
)

README = Path(__file__).parents[1] / "README.md"


def test_code_blocks_of_the_readme_run_in_order(capsys, monkeypatch):
    """With a few steps of training, in one process: no figure is judged."""
    for kind in (
        AutoencoderTransformer,
        VAETransformer,
        ContrastiveTransformer,
        FineTunedClassifier,
    ):
        monkeypatch.setattr(kind, "_n_auto_steps", lambda self, module: 100)
    text = README.read_text().replace("max_iter=50", "max_iter=5")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    plt.switch_backend("Agg")
    namespace = {}
    with joblib.parallel_backend("threading"):
        for block in blocks:
            exec(compile(block, str(README), "exec"), namespace)
    assert namespace["codes"].shape == (178, 16)
    assert namespace["probabilities"].shape == (178, 3)
    assert list(namespace["new_rows"].columns) == list(namespace["X"].columns)
    assert not namespace["filled"].isna().any(axis=None)
    assert set(namespace["strong"]["kind"]) == {"C"}
    assert namespace["strong"]["alcohol"].min() >= 13
    assert capsys.readouterr().out.splitlines()[0] in namespace["X"].columns
    plt.close("all")
