"""Tokens per second of passes and of tuning steps of random models of known sizes, as shares of the matrix rate.

python benchmarks/gpu.py                             # 135M, 1B and 7B on a GPU
python benchmarks/gpu.py --device cpu --sizes tiny   # whether the script itself is in order
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from claim import timed
from device import argument_parser, chosen, flop_per_second, suffix
from transformers import LlamaConfig, LlamaForCausalLM

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.answers import Example
from probes.answers.answer_model import AnswerModel
from probes.backbones import FrozenBackbone
from probes.backbones.tiny import byte_tokenizer
from probes.planning import Texts, shape_of
from probes.tuning import InstructionTuner, TuningSettings
from probes.tuning.adapters import make_trainable

HERE = Path(__file__).parent
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32},
}  # fmt: skip
"""Of SmolLM2-135M, Llama 3.2 1B and Llama 2 7B, with a vocabulary of bytes."""
LENGTHS = (24, 60, 120, 250, 400)
ROUNDS, STEPS, ROWS = 3, 3, 16


@dataclass(frozen=True)
class Speed:
    """What one model reaches.

    Attributes:
        model: Name of its size.
        work: `passes` (all layers read, pooled and stored) or `tuning` (LoRA on q and v, gradients included).
        tokens_per_second: Without pads.
        share: Of the rate of large matrix products of the same dtype.
        peak_gib: Most memory of the GPU.
    """

    model: str
    work: str
    tokens_per_second: float
    share: float
    peak_gib: float


def random_model(size: str, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama of this size whose weights are drawn on its device."""
    config = LlamaConfig(vocab_size=257, max_position_embeddings=2048, pad_token_id=256, **SIZES[size])
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)


def passes(backbone: FrozenBackbone, size: str, texts: Sequence[str]) -> Speed:
    settings = ExtractionSettings(pooling=["last", "mean"])
    tokens = backbone.tokenize(texts)
    with tempfile.TemporaryDirectory() as folder:
        stores = [open_stores(backbone, settings, Path(folder, str(number))) for number in range(ROUNDS + 1)]
        fill_stores(backbone, tokens, stores.pop(), settings)
        _forget_peak(backbone.device)
        seconds = statistics.median(
            timed(lambda: fill_stores(backbone, tokens, stores.pop(), settings)) for _ in range(ROUNDS)
        )
    counted = Texts.of(map(len, tokens.ids))
    flop = shape_of(backbone.model.config, name=size).forward_flop(counted)
    share = flop / seconds / flop_per_second(backbone.device, backbone.dtype)
    return Speed(size, "passes", counted.tokens / seconds, share, _peak(backbone.device))


def tuning(model: LlamaForCausalLM, size: str) -> Speed:
    settings, device = TuningSettings(rank=8, dropout=0.0, micro_batch_tokens=8192), next(model.parameters()).device
    dtype, shape = model.dtype, shape_of(model.config, name=size)
    make_trainable(model, settings, seed=0)
    tuner = InstructionTuner(AnswerModel(model, autocast=dtype == torch.bfloat16), settings, total_steps=9, seed=0)
    tuner.manual_backward = lambda loss: loss.backward()
    draw = torch.Generator().manual_seed(0)
    rows = [
        Example(*(torch.randint(0, 256, (length,), generator=draw).int().numpy() for length in (120, 8)))
        for _ in range(ROWS)
    ]
    tuner.accumulate_gradient(rows)
    _forget_peak(device)
    seconds = statistics.median(timed(lambda: tuner.accumulate_gradient(rows)) for _ in range(STEPS))
    counted = Texts.of(row.num_inputs for row in rows)
    flop = shape.tuning_flop(counted, scored=8 * ROWS)
    return Speed(
        size, "tuning", counted.tokens / seconds, flop / seconds / flop_per_second(device, dtype), _peak(device)
    )


def main(device: str = "auto", sizes: Sequence[str] = ("135M", "1B", "7B"), texts: int = 2048) -> list[Speed]:
    place = chosen(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    found = []
    for size in sizes:
        model = random_model(size, place, dtype)
        number = max(8, texts // 8) if size == "7B" else texts
        prompts = [f"{i} " + "x" * LENGTHS[i % len(LENGTHS)] for i in range(number)]
        found.append(passes(FrozenBackbone(model, byte_tokenizer(), name=size), size, prompts))
        model.requires_grad_(requires_grad=True)
        found.append(tuning(model, size))
        del model
        for speed in found[-2:]:
            print(
                f"{speed.model:>5} {speed.work:<7} {speed.tokens_per_second:>12,.0f} tokens/s  {speed.share:>5.0%} of "
                f"{flop_per_second(place, dtype) / 1e12:.2f} TFLOP/s  {speed.peak_gib:.1f} GiB"
            )
    if place.type == "cuda":
        (HERE / f"speed{suffix(device)}.json").write_text(json.dumps([asdict(speed) for speed in found], indent=1))
    return found


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["135M", "1B", "7B"], choices=list(SIZES))
    parser.add_argument("--texts", type=int, default=2048, help="prompts that are read (an eighth for 7B)")
    main(**vars(parser.parse_args()))
