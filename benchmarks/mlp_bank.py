"""A bank of MLP probes, trained together, against one Lightning fit per layer."""

from __future__ import annotations

from functools import partial

import torch
from claim import Claim, against_slow, show
from device import argument_parser, chosen, reached
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from probes.architectures import MLPProbe
from probes.trainers import quiet_lightning
from probes.training import (
    ActivationDataModule,
    MinibatchProbeModule,
    ProbeBank,
    ProbeSettings,
    Standardiser,
    default_trainer,
)
from probes.training.data_module import Rows

LAYERS, ROWS, VALIDATION_ROWS, FEATURES, CLASSES, EPOCHS = 31, 2000, 500, 576, 4, 10
HIDDEN_FEATURES = 256
PEER_LAYERS = (8, 22)
"""The layers that the peer is timed on; its seconds are scaled to all layers."""
SETTINGS = ProbeSettings(
    architecture=partial(MLPProbe, hidden_features=HIDDEN_FEATURES, dropout=0.1),
    penalties=(0.0,),
    max_epochs=EPOCHS,
    patience=EPOCHS,
)


def make_rows() -> tuple[Rows, Rows]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(LAYERS, ROWS + VALIDATION_ROWS, FEATURES, generator=generator)
    y = (x[:, :, :CLASSES].mean(0) + 0.1 * torch.randn(x.shape[1], CLASSES, generator=generator)).argmax(1)[None]
    every = Rows(x, y, torch.ones(y.shape))
    return every.at(torch.arange(ROWS)), every.at(torch.arange(ROWS, ROWS + VALIDATION_ROWS))


def ours(train: Rows, validation: Rows, device: torch.device) -> None:
    bank = ProbeBank(SETTINGS.architecture, FEATURES, CLASSES, layers=range(LAYERS))
    standardiser, _ = Standardiser.of(train.values)
    module = MinibatchProbeModule(bank, standardiser, kind="classification", settings=SETTINGS)
    data = ActivationDataModule(train, validation, batch_size=SETTINGS.batch_size)
    with quiet_lightning():
        default_trainer(**trainer_options(device)).fit(module, datamodule=data)


def trainer_options(device: torch.device) -> dict[str, object]:
    return {"accelerator": device.type, "max_epochs": EPOCHS, "num_sanity_val_steps": 0}


class OneLayer(LightningModule):
    """The same probe, loss, optimizer and clipping, as one would write them for one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = SETTINGS.architecture(FEATURES, CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(self.probe(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("validation/loss", functional.cross_entropy(self.probe(batch[0]), batch[1]))

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), lr=SETTINGS.learning_rate, weight_decay=0.0)


def peer(train: Rows, validation: Rows, device: torch.device) -> None:
    for layer in PEER_LAYERS:
        mean, deviation = train.values[layer].mean(0), train.values[layer].std(0, correction=0)
        sets = [TensorDataset((rows.values[layer] - mean) / deviation, rows.targets[0]) for rows in (train, validation)]
        with quiet_lightning():
            default_trainer(**trainer_options(device), gradient_clip_val=SETTINGS.gradient_clip_norm).fit(
                OneLayer(),
                DataLoader(sets[0], batch_size=SETTINGS.batch_size, shuffle=True),
                DataLoader(sets[1], batch_size=512),
            )  # fmt: skip


def main(device: str = "auto") -> list[Claim]:
    rows, place = make_rows(), chosen(device)
    seconds, slow = against_slow(lambda: ours(*rows, place), lambda: peer(*rows, place))
    forward = 2 * (FEATURES * HIDDEN_FEATURES + HIDDEN_FEATURES * CLASSES)  # FLOP per row
    # The input needs no gradient, so the first matrix costs one product and the second two.
    backward = 2 * (FEATURES * HIDDEN_FEATURES + 2 * HIDDEN_FEATURES * CLASSES)
    flop = LAYERS * EPOCHS * (ROWS * (forward + backward) + VALIDATION_ROWS * forward)
    rate = reached(flop, seconds, place, torch.float32)
    note = (
        f"{LAYERS} layers, {ROWS} rows, {FEATURES} features, {HIDDEN_FEATURES} hidden units, {EPOCHS} epochs for both; "
        f"the peer was timed on {len(PEER_LAYERS)} of the layers and scaled to all; {rate}"
    )
    slow *= LAYERS / len(PEER_LAYERS)
    return [Claim("MLP probes of all layers", "a Lightning fit a layer", seconds, slow, 10.0, note)]


if __name__ == "__main__":
    show(main(**vars(argument_parser(__doc__).parse_args())))
