"""The probes of many layers, penalties and controls as one module."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probes.architectures import Outputs, ProbeArchitecture
from probes.seeds import derive_seed
from probes.training.bank.keyed_dropout import use_keyed_dropout

RowLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`(probe, logits, targets)` → loss of each row `(rows,)`, or their mean as a scalar."""

_log = logging.getLogger(__name__)
_warned_architectures: set[type] = set()


class ProbeBank(nn.Module):
    """Independent copies of one architecture, `layers × replicas`, with stacked parameters `(layers · replicas, ...)`.

    Every probe has its own initialisation and its own dropout masks, which depend on the seed, its layer's name and its
    replica's name only: its training does not depend on the other probes in the bank. The probes run under `vmap`.
    Where `vmap` cannot run the architecture (an LSTM, branches on values, random numbers other than those of
    `nn.Dropout`), they run in a loop over the same parameters, and the log says so once per architecture.

    Args:
        architecture: Called with `(in_features, num_classes)`, constructs one probe.
        in_features: Width of one layer's activations.
        num_classes: Width of the logits.
        layers: Names of the layers.
        replicas: Names of the probes of each layer; replicas of one name start from the same weights.
        seed: Decides every initialisation and dropout mask; 0 is a seed like any other.

    Attributes:
        shape: `(layers, replicas)`.
        vectorised: Whether the probes run under `vmap`.

    Raises:
        TypeError: The architecture gives no `nn.Module`, or one without parameters.
        ValueError: A forward pass gives logits of another shape than `(rows, num_classes)`, or than the probe's
            `outputs` say.
    """

    def __init__(
        self,
        architecture: ProbeArchitecture,
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
        # The skeleton lends its code to every probe; the values of its parameters are never read. It lies in a tuple so
        # that torch does not register it as a submodule: it would be saved, moved and trained, and as a submodule on
        # the meta device it would break `Trainer.fit`.
        self._skeleton = (_LogitsOrLoss(distinct[seeds[0]], num_classes),)
        self._dropouts = dropouts[0]
        self._register_state(parameters, buffers, seeds, (len(layers), len(replicas)))

    def _register_state(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], seeds: list[int], shape: tuple[int, int]
    ) -> None:
        """Make stacked tensors `(layers · replicas, ...)`, named as one probe names them, this bank's state."""
        self.shape, self._seeds = shape, seeds
        # torch refuses dots in the names of parameters and buffers.
        self._names = {name: name.replace(".", "/") for name in (*parameters, *buffers)}
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach().clone(), value.requires_grad))
        for name, value in buffers.items():
            self.register_buffer(self._names[name], value.detach().clone())
        for position in range(len(self._dropouts)):
            keys = torch.tensor([derive_seed(probe_seed, "dropout", position) for probe_seed in seeds])
            self.register_buffer(f"dropout_keys/{position}", keys, persistent=False)
        self.vectorised = True
        self._vmap_succeeded: set[tuple[bool, bool]] = set()

    def select(self, replicas: Tensor) -> ProbeBank:
        """Return a bank of some replicas of each layer, given as indices `(layers, replicas kept)`."""
        numbers = (torch.arange(self.shape[0])[:, None] * self.shape[1] + replicas.cpu()).flatten()
        return self._from_probes([self], numbers, (self.shape[0], replicas.shape[1]))

    @classmethod
    def concatenate(cls, banks: Sequence[ProbeBank]) -> ProbeBank:
        """Return one bank with the layers of all banks, which must share their architecture and replicas."""
        layers, replicas = sum(bank.shape[0] for bank in banks), banks[0].shape[1]
        return cls._from_probes(banks, torch.arange(layers * replicas), (layers, replicas))

    @classmethod
    def _from_probes(cls, banks: Sequence[ProbeBank], numbers: Tensor, shape: tuple[int, int]) -> ProbeBank:
        """Return a bank of the probes with these numbers, which count through all probes of all banks in order."""
        first, bank = banks[0], cls.__new__(cls)
        nn.Module.__init__(bank)
        bank._skeleton, bank._dropouts = first._skeleton, first._dropouts
        seeds = [probe_seed for one in banks for probe_seed in one._seeds]

        def selected(kind: str) -> dict[str, Tensor]:
            by_bank = [dict(getattr(one, kind)()) for one in banks]
            registered = {name: alias for name, alias in first._names.items() if alias in by_bank[0]}
            return {
                name: torch.cat([tensors[alias] for tensors in by_bank])[numbers] for name, alias in registered.items()
            }

        parameters, buffers = selected("named_parameters"), selected("named_buffers")
        bank._register_state(parameters, buffers, [seeds[i] for i in numbers.tolist()], shape)
        bank.vectorised = first.vectorised
        return bank.train(first.training)

    @property
    def probe(self) -> nn.Module:
        """One probe, for its class and its optional methods; the values of its parameters mean nothing."""
        return self._skeleton[0].probe

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, also of the skeleton, which torch does not see."""
        self._skeleton[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, step: int = 0) -> Tensor:
        """Map standardised activations to logits `(layers, replicas, rows, classes)`.

        Args:
            x: Shape `(layers, rows, features)`; of probes that read tokens `(layers, rows, tokens, features)`.
            mask: Where a token is, bool `(rows, tokens)`, for probes that read tokens.
            step: Training step, which decides the dropout masks.
        """
        return self._run(x, mask, None, None, step)

    def losses(
        self, x: Tensor, targets: Tensor, row_loss: RowLoss, *, mask: Tensor | None = None, step: int = 0
    ) -> Tensor:
        """Compute the loss of every probe on a batch, including the penalty that the probe itself brings.

        Args:
            x: Standardised activations, shape `(layers, rows, features)`, or with tokens as in `forward`.
            targets: Targets of each replica, shape `(replicas, rows, ...)`.
            row_loss: `(probe, logits, targets)` → loss of each row `(rows,)`, or their mean.
            mask: As in `forward`.
            step: Training step, which decides the dropout masks.

        Returns:
            Shape `(layers, replicas, rows)`; `(layers, replicas)` where the loss that the probe brings is a mean.
        """
        return self._run(x, mask, targets, row_loss, step)

    def probe_at(self, layer: int, replica: int = 0) -> nn.Module:
        """A copy of one probe with its own parameters, in evaluation mode."""
        probe = copy.deepcopy(self.probe)
        state = {name.removeprefix("probe."): value[layer, replica] for name, value in self._state().items()}
        probe.load_state_dict({name: value.detach().clone() for name, value in state.items()})
        return probe.eval()

    def _run(
        self, x: Tensor, mask: Tensor | None, targets: Tensor | None, row_loss: RowLoss | None, step: int
    ) -> Tensor:
        for dropout in self._dropouts:
            dropout.step = step
        if not self.vectorised:
            return self._loop(x, mask, targets, row_loss, step)
        case = (self.training, targets is None)  # `vmap` may fail in one of these cases only
        if case in self._vmap_succeeded:
            return self._vmap(x, mask, targets, row_loss)
        buffers = {name: buffer.clone() for name, buffer in self.named_buffers()}
        try:
            outputs = self._vmap(x, mask, targets, row_loss)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever vmap cannot do; an error of the probe itself is raised again by the loop
            for name, buffer in self.named_buffers():  # the failed pass may have updated running statistics
                buffer.copy_(buffers[name])
            outputs = self._loop(x, mask, targets, row_loss, step)
            self.vectorised = False
            _warn_about_loop(self.probe, error)
        self._vmap_succeeded.add(case)
        return outputs

    def _vmap(self, x: Tensor, mask: Tensor | None, targets: Tensor | None, row_loss: RowLoss | None) -> Tensor:
        def call(state: dict[str, Tensor], keys: Tensor, x: Tensor, targets: Tensor | None) -> Tensor:
            return self._call(state, keys, x, mask, targets, row_loss)

        # State and keys (layers, replicas, ...); x (layers, rows, ...), shared by the replicas of a layer; targets
        # (replicas, rows, ...), shared by the layers; the mask is shared by all.
        over_replicas = vmap(call, in_dims=(0, 0, None, None if targets is None else 0))
        with _WeightFirstLinear():
            return vmap(over_replicas, in_dims=(0, 0, 0, None))(self._state(), self._keys(), x, targets)

    def _loop(
        self, x: Tensor, mask: Tensor | None, targets: Tensor | None, row_loss: RowLoss | None, step: int
    ) -> Tensor:
        state, keys, outputs = self._state(), self._keys(), []
        for number, probe_seed in enumerate(self._seeds):
            layer, replica = divmod(number, self.shape[1])
            probe_state = {name: value[layer, replica] for name, value in state.items()}
            probe_targets = None if targets is None else targets[replica]
            # Random numbers other than those of `nn.Dropout` also depend on the probe and the step only.
            randomness = _seeded_generators(derive_seed(probe_seed, step), x.device) if self.training else nullcontext()
            with randomness:
                outputs.append(self._call(probe_state, keys[layer, replica], x[layer], mask, probe_targets, row_loss))
        return torch.stack(outputs).unflatten(0, self.shape)

    def _call(
        self,
        state: dict[str, Tensor],
        keys: Tensor,
        x: Tensor,
        mask: Tensor | None,
        targets: Tensor | None,
        row_loss: RowLoss | None,
    ) -> Tensor:
        """Run one probe with its state, and its dropout keys `(dropouts,)`, on its layer's rows `(rows, ...)`."""
        for position, dropout in enumerate(self._dropouts):
            dropout.key, dropout.calls = keys[position], 0
        outputs = functional_call(self._skeleton[0], state, (x, mask, targets, row_loss))
        for dropout in self._dropouts:
            dropout.key = None  # under vmap the key is no ordinary tensor: the module could not be copied or pickled
        return outputs

    def _state(self) -> dict[str, Tensor]:
        """Parameters and buffers by their names in the skeleton, shape `(layers, replicas, ...)`."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {f"probe.{name}": tensors[alias].unflatten(0, self.shape) for name, alias in self._names.items()}

    def _keys(self) -> Tensor:
        """Dropout keys, shape `(layers, replicas, dropouts)`."""
        buffers = dict(self.named_buffers())
        keys = [buffers[f"dropout_keys/{position}"] for position in range(len(self._dropouts))]
        device = next(self.parameters()).device
        return torch.stack(keys, 1).unflatten(0, self.shape) if keys else torch.zeros(*self.shape, 0, device=device)


def build_probe(architecture: ProbeArchitecture, in_features: int, num_classes: int, *, seed: int) -> nn.Module:
    """Construct a probe whose initialisation depends on the seed alone; torch's global generators are not advanced.

    Raises:
        TypeError: The architecture gives no `nn.Module`, or one without parameters.
    """
    with _seeded_generators(seed, torch.device("cpu")):
        probe = architecture(in_features, num_classes)
    if not isinstance(probe, nn.Module) or not any(True for _ in probe.parameters()):
        raise TypeError(
            f"A probe architecture must construct an nn.Module with parameters; got {type(probe).__name__}. "
            "Set `probe.architecture._target_` to such a class."
        )
    return probe


@contextmanager
def _seeded_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and the device inside the block, and restore their states after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would walk the call stack each time, for CUDA
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


class _LogitsOrLoss(nn.Module):
    """A probe whose `forward` gives logits or the loss: `functional_call` replaces the state of a `forward` only.

    Args:
        probe: The user's module.
        num_classes: Expected width of its logits.
    """

    def __init__(self, probe: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.probe = probe
        self.num_classes = num_classes

    def forward(self, x: Tensor, mask: Tensor | None, targets: Tensor | None, row_loss: RowLoss | None) -> Tensor:
        """Return logits `(rows, num_classes)`; with targets, the loss plus the penalty that the probe brings."""
        logits = self.probe(x) if mask is None else self.probe(x, mask)
        outputs: Outputs = getattr(self.probe, "outputs", "classes")
        tokens = x.shape[1]  # with classes, these are features
        expected = {"classes": (self.num_classes,), "tokens": (tokens,), "token pairs": (tokens, tokens)}[outputs]
        if tuple(logits.shape) != (len(x), *expected):
            named = {"classes": "num_classes", "tokens": "tokens", "token pairs": "tokens, tokens"}[outputs]
            raise ValueError(
                f"Probe architecture {type(self.probe).__name__} gives logits of shape {tuple(logits.shape)}; expected "
                f"(rows, {named}) = {(len(x), *expected)}. Correct the class named in `probe.architecture`."
            )
        if targets is None or row_loss is None:
            return logits
        loss = row_loss(self.probe, logits, targets)
        penalty = getattr(self.probe, "penalty", None)
        return loss if penalty is None else loss + penalty()


class _WeightFirstLinear(TorchFunctionMode):
    """Computes `nn.functional.linear` as (W xᵀ)ᵀ instead of x Wᵀ.

    Under `vmap`, x Wᵀ copies x for every replica of a layer and, in the backward pass, the gradient of W.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `nn.functional.linear` of a matrix, and call every other function as it is."""
        kwargs = kwargs or {}
        if func is functional.linear and len(args) >= 2 and args[0].ndim == 2:
            return _weight_first_linear(*args, **kwargs)
        return func(*args, **kwargs)


def _weight_first_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = (weight @ x.mT).mT
    return product if bias is None else product + bias


def _warn_about_loop(probe: nn.Module, error: Exception) -> None:
    """Log, once per class of probes, that `vmap` cannot run it."""
    if type(probe) in _warned_architectures:
        return
    _warned_architectures.add(type(probe))
    _log.warning(
        "Probe architecture %s can't be vectorised over layers; its probes run one after the other. (%s)",
        type(probe).__name__,
        str(error).strip().partition("\n")[0],
    )
