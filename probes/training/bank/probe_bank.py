"""The probes of many layers, penalties and controls as one module."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probes.seeds import derive_seed
from probes.training.bank.keyed_dropout import use_keyed_dropout

Architecture = Callable[[int, int], nn.Module]
"""Called with `(in_features, num_classes)`, gives one probe."""

RowLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`(probe, logits, targets)` → loss of each row `(rows,)`, or their mean."""


class OneProbe(nn.Module):
    """A probe with one entrance for logits and loss, so that all of it can be called with other parameters.

    Args:
        probe: The user's module.
        num_classes: Width its logits must have.
    """

    def __init__(self, probe: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.probe = probe
        self.num_classes = num_classes

    def forward(self, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None) -> Tensor:
        """Return logits `(rows, num_classes)`; with targets, the loss plus the probe's own penalty."""
        logits = self.probe(x)
        if tuple(logits.shape) != (len(x), self.num_classes):
            raise ValueError(
                f"Probe architecture {type(self.probe).__name__} gives logits of shape {tuple(logits.shape)}; wanted "
                f"(rows, num_classes) = {(len(x), self.num_classes)}. Mend the class named in `probe.architecture`."
            )
        if targets is None or row_loss is None:
            return logits
        loss = row_loss(self.probe, logits, targets)
        penalty = getattr(self.probe, "penalty", None)
        return loss if penalty is None else loss + penalty()


def build_probe(architecture: Architecture, in_features: int, num_classes: int, *, seed: int) -> nn.Module:
    """Construct a probe whose start depends on the seed alone; the global generators stay as they are.

    Raises:
        TypeError: The architecture gives no `nn.Module`, or one without parameters.
    """
    with own_randomness(seed, torch.device("cpu"), on=True):
        probe = architecture(in_features, num_classes)
    if not isinstance(probe, nn.Module) or not any(True for _ in probe.parameters()):
        raise TypeError(
            f"A probe architecture gives an nn.Module with parameters; got {type(probe).__name__}. "
            "Set `probe.architecture._target_` to such a class."
        )
    return probe


@contextmanager
def own_randomness(seed: int, device: torch.device, *, on: bool) -> Iterator[None]:
    """Seed torch's generators inside the block, and put them back after it; nothing happens if not `on`."""
    if not on:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would walk the call stack each time, for CUDA
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


_log = logging.getLogger(__name__)
_said: set[type] = set()


class ProbeBank(nn.Module):
    """Independent copies of one architecture, `layers × replicas`, with stacked parameters `(layers · replicas, ...)`.

    Every probe has its own start and its own dropout, decided by the seed, its layer's name and its replica's name: its
    course does not depend on the others in the bank. Where `vmap` cannot run the architecture (LSTM, branches on data,
    randomness other than `nn.Dropout`), a loop over the same parameters does, and a log line says so once.

    Args:
        architecture: Called with `(in_features, num_classes)`, gives one probe.
        in_features: Width of one layer's activations.
        num_classes: Width of the logits.
        layers: Names of the layers.
        replicas: Names of each layer's probes; replicas of one name start alike.
        seed: Decides every start and dropout mask; 0 is a seed like any other.

    Raises:
        TypeError: The architecture gives no `nn.Module`, or one without parameters.
        ValueError: Its logits have another shape than `(rows, num_classes)`.
    """

    def __init__(
        self,
        architecture: Architecture,
        in_features: int,
        num_classes: int,
        *,
        layers: Sequence[object],
        replicas: Sequence[object] = ("",),
        seed: int = 0,
    ) -> None:
        super().__init__()
        seeds = [derive_seed(seed, layer, replica) for layer in layers for replica in replicas]
        distinct = {s: build_probe(architecture, in_features, num_classes, seed=s) for s in dict.fromkeys(seeds)}
        dropouts = [use_keyed_dropout(probe) for probe in distinct.values()]
        parameters, buffers = stack_module_state([distinct[s] for s in seeds])
        # In a tuple, so that it is no submodule: its own parameters are never used, saved or moved.
        self._one = (OneProbe(distinct[seeds[0]], num_classes),)
        self._dropouts = dropouts[0]
        self._adopt(parameters, buffers, seeds, (len(layers), len(replicas)))

    def _adopt(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], seeds: list[int], shape: tuple[int, int]
    ) -> None:
        """Take stacked tensors `(layers · replicas, ...)`, named as one probe names them, as this bank's state."""
        self.shape, self._seeds = shape, seeds
        self._names = {name: name.replace(".", "/") for name in (*parameters, *buffers)}
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach().clone(), value.requires_grad))
        for name, value in buffers.items():
            self.register_buffer(self._names[name], value.detach().clone())
        for position in range(len(self._dropouts)):
            keys = torch.tensor([derive_seed(own, "dropout", position) for own in seeds])
            self.register_buffer(f"dropout_keys/{position}", keys, persistent=False)
        self.vectorised = True
        self._proven: set[tuple[bool, bool]] = set()

    def select(self, replicas: Tensor) -> ProbeBank:
        """Return a bank of these replicas of each layer, given as indices `(layers, replicas kept)`."""
        numbers = (torch.arange(self.shape[0])[:, None] * self.shape[1] + replicas.cpu()).flatten()
        return self._like(self, [self], numbers, (self.shape[0], replicas.shape[1]))

    @classmethod
    def concatenate(cls, banks: Sequence[ProbeBank]) -> ProbeBank:
        """Return one bank with the layers of all of these, which share architecture and replicas."""
        layers = sum(bank.shape[0] for bank in banks)
        return cls._like(banks[0], banks, torch.arange(layers * banks[0].shape[1]), (layers, banks[0].shape[1]))

    @classmethod
    def _like(cls, like: ProbeBank, banks: Sequence[ProbeBank], numbers: Tensor, shape: tuple[int, int]) -> ProbeBank:
        bank = cls.__new__(cls)
        nn.Module.__init__(bank)
        bank._one, bank._dropouts = like._one, like._dropouts
        seeds = [seed for one in banks for seed in one._seeds]

        def taken(kind: str) -> dict[str, Tensor]:
            own = [dict(getattr(one, kind)()) for one in banks]
            names = [name for name in like._names if like._names[name] in own[0]]
            return {name: torch.cat([tensors[like._names[name]] for tensors in own])[numbers] for name in names}

        bank._adopt(taken("named_parameters"), taken("named_buffers"), [seeds[i] for i in numbers.tolist()], shape)
        bank.vectorised = like.vectorised
        return bank.train(like.training)

    @property
    def probe(self) -> nn.Module:
        """One probe, for its class and its optional methods; its parameter values mean nothing."""
        return self._one[0].probe

    def train(self, mode: bool = True) -> Self:
        """Switch mode, the hidden probe's too."""
        self._one[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, *, step: int = 0) -> Tensor:
        """Map standardised activations `(layers, rows, features)` to logits `(layers, replicas, rows, classes)`."""
        return self._run(x, None, None, step)

    def losses(self, x: Tensor, targets: Tensor, row_loss: RowLoss, *, step: int = 0) -> Tensor:
        """Loss of every probe on a batch, its own penalty term included.

        Args:
            x: Standardised activations, shape `(layers, rows, features)`.
            targets: Targets of each replica, shape `(replicas, rows, ...)`.
            row_loss: `(probe, logits, targets)` → loss of each row `(rows,)`, or their mean.
            step: Training step, which decides the dropout masks.

        Returns:
            Shape `(layers, replicas, rows)`, or `(layers, replicas)` where the probe's own loss is a mean.
        """
        return self._run(x, targets, row_loss, step)

    def _run(self, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None, step: int) -> Tensor:
        for dropout in self._dropouts:
            dropout.step = step
        if not self.vectorised:
            return self._loop(x, targets, row_loss, step)
        case = (self.training, targets is None)
        if case in self._proven:
            return self._vmap(x, targets, row_loss)
        buffers = {name: buffer.clone() for name, buffer in self.named_buffers()}
        try:
            outputs = self._vmap(x, targets, row_loss)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever vmap cannot do; an error of the probe itself comes back from the loop
            for name, buffer in self.named_buffers():
                buffer.copy_(buffers[name])
            outputs = self._loop(x, targets, row_loss, step)
            self._say_looping(error)
        self._proven.add(case)
        return outputs

    def _say_looping(self, error: Exception) -> None:
        self.vectorised = False
        if type(self.probe) in _said:
            return
        _said.add(type(self.probe))
        _log.warning(
            "Probe architecture %s can't be vectorised over layers; its probes run one after the other. (%s)",
            type(self.probe).__name__,
            str(error).strip().partition("\n")[0],
        )

    def _state(self) -> dict[str, Tensor]:
        """Parameters and buffers by the names one probe knows them by, shape `(layers, replicas, ...)`."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {f"probe.{name}": tensors[own].unflatten(0, self.shape) for name, own in self._names.items()}

    def _keys(self) -> Tensor:
        """Dropout keys, shape `(layers, replicas, dropouts)`."""
        buffers = dict(self.named_buffers())
        keys = [buffers[f"dropout_keys/{position}"] for position in range(len(self._dropouts))]
        device = next(self.parameters()).device
        return torch.stack(keys, 1).unflatten(0, self.shape) if keys else torch.zeros(*self.shape, 0, device=device)

    def _call(
        self, state: dict[str, Tensor], keys: Tensor, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None
    ) -> Tensor:
        for position, dropout in enumerate(self._dropouts):
            dropout.key, dropout.calls = keys[position], 0
        outputs = functional_call(self._one[0], state, (x, targets, row_loss))
        for dropout in self._dropouts:
            dropout.key = None  # a key under vmap is no tensor that could be copied or pickled
        return outputs

    def _vmap(self, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None) -> Tensor:
        def call(state: dict[str, Tensor], keys: Tensor, x: Tensor, targets: Tensor | None) -> Tensor:
            return self._call(state, keys, x, targets, row_loss)

        over_replicas = vmap(call, in_dims=(0, 0, None, None if targets is None else 0))
        with _WeightsFirst():
            return vmap(over_replicas, in_dims=(0, 0, 0, None))(self._state(), self._keys(), x, targets)

    def _loop(self, x: Tensor, targets: Tensor | None, row_loss: RowLoss | None, step: int) -> Tensor:
        state, keys, outputs = self._state(), self._keys(), []
        for number, probe_seed in enumerate(self._seeds):
            layer, replica = divmod(number, self.shape[1])
            own = {name: value[layer, replica] for name, value in state.items()}
            goal = None if targets is None else targets[replica]
            with own_randomness(derive_seed(probe_seed, step), x.device, on=self.training):
                outputs.append(self._call(own, keys[layer, replica], x[layer], goal, row_loss))
        return torch.stack(outputs).unflatten(0, self.shape)


class _WeightsFirst(TorchFunctionMode):
    """Computes x Wᵀ as (W xᵀ)ᵀ, which under vmap saves copies: of x for every replica, and of the gradient of W."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `nn.functional.linear` of a matrix; leave all else alone."""
        kwargs = kwargs or {}
        if func is functional.linear and len(args) >= 2 and args[0].ndim == 2:
            return _linear(*args, **kwargs)
        return func(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = (weight @ x.mT).mT
    return product if bias is None else product + bias
