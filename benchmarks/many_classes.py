"""Linear probes of a task with 100 classes, all layers and penalties, against a scikit-learn loop; and their memory."""

from __future__ import annotations

import warnings

import torch
from claim import Claim, against_slow, show
from device import argument_parser, chosen
from linear_bank import FEATURES, LAYERS, PEER_LAYERS, Task, make_task
from peak import more_gib
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from probes.training import ProbeSettings, fit_probes, solve_linear

CLASSES, ROWS, NEW_ROWS = 100, 4000, 500
PENALTIES = ProbeSettings().penalties
BANK_BYTES = 2**31
SIZES = (
    f"{LAYERS} layers, {CLASSES} classes, {ROWS} rows, {FEATURES} features, {len(PENALTIES)} penalties; "
    f"the peer fitted {len(PEER_LAYERS)} of {LAYERS} layers, scaled"
)


def solve_all(task: Task) -> None:
    solve_linear("classification", task.x, task.y[None], torch.tensor(PENALTIES), classes=CLASSES)


def fit_scikit_learn(task: Task) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for layer in PEER_LAYERS:
            x, y = task.x[layer].numpy(force=True), task.y.numpy(force=True)
            for penalty in PENALTIES:
                LogisticRegression(C=1 / (penalty * ROWS)).fit(x, y)


def fit_all(task: Task) -> None:
    """What a study does with the task, within the memory that `probe.max_bank_bytes` allows."""
    splits = {"x_validation": task.new_x, "y_validation": task.new_y, "x_test": task.new_x, "y_test": task.new_y}
    fit_probes(
        task.x.cpu(), task.y.cpu(), **{name: values.cpu() for name, values in splits.items()},
        min_validation_rows=1, controls=0, bootstrap_samples=0, permutations=0, max_bank_bytes=BANK_BYTES,
    )  # fmt: skip


def main(device: str = "auto") -> list[Claim]:
    place = chosen(device)
    task = make_task(0, CLASSES, place, rows=ROWS, new_rows=NEW_ROWS)
    seconds, slow = against_slow(lambda: solve_all(task), lambda: fit_scikit_learn(task))
    slow *= LAYERS / len(PEER_LAYERS)
    memory = more_gib(lambda: fit_all(task), torch.device("cpu"))
    return [
        Claim("linear probes of 100 classes, five penalties", "scikit-learn loop (lbfgs)", seconds, slow, 15.0, SIZES),
        Claim(
            "memory of the probes of 100 classes", "`probe.max_bank_bytes` and twice the activations", memory,
            (BANK_BYTES + 2 * task.x.nbytes) / 2**30, 1.0, SIZES, "GiB", at_most=True,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    show(main(**vars(argument_parser(__doc__).parse_args())))
