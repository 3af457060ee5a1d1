"""What jobs do and cost, against models that are counted and schedules that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from study_samples import toy_suite
from tiny_models import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from probes.backbones import tiny_backbone
from probes.planning import (
    GPUS,
    Job,
    ModelShape,
    Rates,
    TaskTexts,
    Texts,
    assumed_tasks,
    counted_tasks,
    hours_of,
    layer_by_layer_jobs,
    probe_jobs,
    shape_of,
)
from probes.planning.model_shape import KNOWN
from probes.planning.rates import loads_of, rates_of
from probes.planning.texts import unique_texts
from probes.studies.layer_by_layer.mixture import MixtureSettings
from probes.tasks import Split, Task
from probes.tuning import TuningSettings

SHAPE = ModelShape(
    name="toy", blocks=2, hidden=8, intermediate=16, heads=2, key_value_heads=1, vocabulary=10, item_bytes=4
)
RATES = Rates(
    forward_flop=10.0, tuning_flop=5.0, generated=2.0, start=3.0, load=1.0, fit={2: 0.5, 6: 2.0}, compare=0.25, end=4.0,
    stored=100.0,
)  # fmt: skip
TUNING = TuningSettings(max_epochs=2, batch_size=4, generate_rows=3, max_new_tokens=5)


@pytest.fixture(scope="module")
def tasks() -> list[TaskTexts]:
    backbone = tiny_backbone()
    return counted_tasks(toy_suite().tasks, lambda texts: [len(ids) for ids in backbone.tokenize(texts).ids])


def test_operations_are_those_that_torch_counts():
    model = tiny_model("llama")
    shape = shape_of(model.config, name="llama", dtype="float32")
    ids = torch.arange(2 * 20).reshape(2, 20) % 250
    counted = {}
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=ids, use_cache=False)
        counted[kernel] = counter.get_total_flops()
    matrices = shape.forward_flop(Texts(number=2, tokens=40))
    assert matrices == counted["sdpa"]  # on a CPU torch does not look into this kernel
    # Eager attention computes all scores, of which a causal model needs half.
    assert 2 * (shape.forward_flop(Texts.of([20, 20])) - matrices) == counted["eager"] - matrices
    assert shape.block_weights == sum(
        module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)
    )
    assert shape.embedding_weights == model.embed_tokens.weight.numel()


def test_known_models_have_the_weights_that_their_names_state():
    billions = {name: (s.block_weights + 2 * s.embedding_weights) / 1e9 for name, s in KNOWN.items()}
    assert billions["meta-llama/Llama-2-7b-hf"] == pytest.approx(6.74, abs=0.01)
    assert billions["meta-llama/Llama-2-13b-hf"] == pytest.approx(13.0, abs=0.05)
    assert billions["meta-llama/Llama-3.1-8B"] == pytest.approx(8.03, abs=0.01)


def test_a_tuning_step_costs_two_passes_and_three_where_all_weights_are_trained():
    texts = Texts.of([5, 7])
    assert SHAPE.tuning_flop(texts, scored=0) == 2 * SHAPE.forward_flop(texts)
    assert SHAPE.tuning_flop(texts, scored=4, all_weights=True) == 3 * SHAPE.forward_flop(texts, scored=4)


def test_tasks_are_counted_in_tokens(tasks):
    (train,) = (task.prompts["train"] for task in tasks if task.name == "a")
    prompts = toy_suite().tasks[0].splits["train"].prompts
    assert (train.number, train.tokens) == (16, sum(map(len, prompts)))  # a byte is a token
    assert train.squared == sum(len(prompt) ** 2 for prompt in prompts)
    assert tasks[0].answers["train"] == sum(len(answer) + 1 for answer in toy_suite().tasks[0].splits["train"].targets)
    assert [task.classes for task in tasks] == [2, 2, 2]
    assert [task.unseen for task in tasks] == [False, False, True]


def test_a_probe_study_reads_each_text_once_and_probes_every_task_with_labels(tasks):
    (job,) = probe_jobs(SHAPE, Texts.of([4, 6]), [*tasks, TaskTexts("words", "x", False, 0, {}, {})], readings=2)
    assert (job.read.tokens, job.steps, job.generated) == (10, 0, 0)
    assert job.fits == (2, 2, 2) * 2
    assert job.stored_bytes == 2 * 2 * 3 * 8 * 4  # readings, texts, layers, features, bytes
    assert job.compared == 2 * 3 * 3  # readings, tasks with labels, layers


def test_a_pass_holds_the_longest_text_even_if_a_batch_has_fewer_tokens(tasks):
    jobs = [probe_jobs(SHAPE, Texts.of([400, 6]), tasks, tokens_per_batch=number)[0] for number in (10, 400, 800)]
    assert jobs[0].memory_bytes == jobs[1].memory_bytes < jobs[2].memory_bytes


def test_pairs_are_not_probed_and_both_texts_are_read():
    rows = Split(("abc", "de"), (1.0, 0.0), ("", ""), seconds=("fghi", "j"))
    task = Task("sts", "pairs", (), {"test": rows})
    (counted,) = counted_tasks([task], lambda texts: [len(text) for text in texts])
    assert counted.classes == 0
    assert counted.prompts["test"] == Texts.of([3, 2, 4, 1])
    assert unique_texts([task], lambda texts: [len(text) for text in texts]).tokens == 10


def test_a_layer_by_layer_study_tunes_and_reads_each_model_once(tasks):
    jobs = layer_by_layer_jobs(SHAPE, tasks, MixtureSettings(replicate_tasks=1), TUNING)
    models = ["mixture:0", "a:0", "a:1", "b:0", "c:0"]
    assert [(job.stage, job.model) for job in jobs] == [
        *(("tune", model) for model in models), ("read", "base"), *(("read", model) for model in models),
        ("compare", ""),
    ]  # fmt: skip
    by_model = {job.model: job for job in jobs if job.stage == "tune"}
    assert by_model["a:0"].steps == 2 * 4  # epochs times batches
    assert by_model["a:0"].tuning.number == 32
    assert by_model["mixture:0"].tuning.number == 2 * 32  # the tasks that are not unseen
    assert by_model["a:0"].generated == 2 * 3 * 5  # before and after
    read = {job.model: job.read.number for job in jobs if job.stage == "read"}
    assert read["base"] == read["mixture:0"] == 3 * (16 + 6 + 12)
    assert read["a:1"] == 12
    assert jobs[-1].fits == (2,) * 6
    merged = layer_by_layer_jobs(SHAPE, tasks, MixtureSettings(experimental="merged"), TUNING)
    assert not [job for job in merged if job.stage == "tune" and job.model.startswith("mixture")]


def test_rows_of_a_cluster_limit_the_mixture(tasks):
    jobs = layer_by_layer_jobs(SHAPE, tasks, MixtureSettings(rows_per_cluster=8), TUNING)
    assert next(job for job in jobs if job.model == "mixture:0").tuning.number == 2 * 8  # a and b are one cluster


def test_seconds_are_work_over_rates():
    job = Job(stage="run", tuning_flop=50.0, read_flop=30.0, generated=8, stored_bytes=200, fits=(2, 6, 12), compared=4)
    assert RATES.seconds(job, layers=3, loads=2) == {
        "load": 2.0, "passes": 3.0, "tuning": 10.0, "answers": 4.0, "store": 2.0, "probes": 3 * (0.5 + 2.0 + 4.0),
        "compare": 1.0,
    }  # fmt: skip


def test_jobs_that_run_at_once_take_less_time_and_as_much_work():
    jobs = [Job(stage="tune", model=str(i), tuning_flop=500.0) for i in range(4)] + [Job(stage="compare")]
    alone = hours_of(jobs, RATES, SHAPE)
    assert 3600 * alone == pytest.approx(3 + 1 + 4 * (100 + 1) + 4)
    # Each job starts a process and loads the base and its own model; then the last one compares.
    assert 3600 * hours_of(jobs, RATES, SHAPE, processes=2) == pytest.approx(2 * (3 + 2 + 100) + (3 + 1) + 4)
    assert 3600 * hours_of(jobs, RATES, SHAPE, processes=64) == pytest.approx((3 + 2 + 100) + (3 + 1) + 4)


def test_gpus_of_one_job_divide_its_rows_and_send_gradients():
    job = Job(stage="tune", steps=10, tuning_flop=500.0, read_flop=80.0, generated=16, gradient_bytes=400)
    one, four = (replace(RATES, link=100.0).seconds(job, layers=3, loads=1, gpus=gpus) for gpus in (1, 4))
    assert (one["tuning"], one["passes"], one["answers"]) == (100.0, 8.0, 8.0)
    assert job.exchanged_bytes(4) == 10 * 400 * 2 * 3 / 4
    assert job.exchanged_bytes(1) == 0
    assert four["tuning"] == pytest.approx(25.0 + 60.0 + 0.02)  # a share of the rows, bytes, messages
    assert (four["passes"], four["answers"], four["load"]) == (2.0, 2.0, one["load"])
    slow = replace(RATES, weights_read=4.0).seconds(job, layers=3, loads=1, gpus=8)
    assert slow["tuning"] == pytest.approx(2 * 10 * 4.0 + 0.02)  # no step is faster than reading the weights twice
    jobs = [Job(stage="tune", model=str(i), tuning_flop=500.0) for i in range(4)]
    assert 3600 * hours_of(jobs, RATES, SHAPE, processes=4, gpus_per_job=2) == pytest.approx(2 * (3 + 2 + 50) + 4)


def test_gradients_are_those_of_adapters_or_of_all_weights(tasks):
    for method, size in (("lora", 4 * 2 * 2 * 2 * 8 * 8), ("full", 2 * SHAPE.weight_bytes)):
        jobs = layer_by_layer_jobs(SHAPE, tasks, MixtureSettings(), replace(TUNING, method=method))
        assert jobs[0].gradient_bytes == size


def test_loads_are_those_of_a_process_of_its_own_or_of_one_process():
    read, base, run = (Job(stage="read", model="a:0"), Job(stage="read", model="base"), Job(stage="run"))
    assert [loads_of(job, apart=True) for job in (read, base, run)] == [2, 1, 1]
    assert [loads_of(job, apart=False) for job in (read, base, run)] == [1, 0, 1]


def test_rates_of_a_gpu_follow_from_its_data_sheet():
    rates = rates_of(GPUS["h100"], KNOWN["meta-llama/Llama-2-7b-hf"], RATES, forward_share=0.5, tuning_share=0.25)
    assert rates.forward_flop == pytest.approx(0.5 * 989e12)
    assert rates.tuning_flop == pytest.approx(0.25 * 989e12)
    assert rates.fit == RATES.fit


def test_what_is_assumed_of_tasks_respects_the_rows_of_a_cluster():
    found = assumed_tasks(
        {"x": ["one", "two"], "y": ["three"]}, unseen=["three"], rows={"train": 100, "test": 10}, rows_per_cluster=60,
        tokens={"x": 5, "y": 7}, answer_tokens=2, without_labels=["y"],
    )  # fmt: skip
    assert [task.prompts["train"].number for task in found] == [30, 30, 60]
    assert found[2].prompts["test"].tokens == 70
    assert found[0].answers["test"] == 20
    assert [task.classes for task in found] == [3, 3, 0]
    assert [task.unseen for task in found] == [False, False, True]
