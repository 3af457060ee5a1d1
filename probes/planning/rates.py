"""How fast a machine works, and what jobs take at these rates."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from probes.planning.gpu import Gpu
from probes.planning.jobs import Job
from probes.planning.model_shape import ModelShape

_SECONDS_OF_MESSAGES = 0.002
"""What the processes of a job tell each other in a step, apart from gradients: two small messages over TCP."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of one process.

    Attributes:
        forward_flop: Operations per second of passes without gradients.
        tuning_flop: Operations per second of tuning steps.
        generated: Tokens per second of greedy answers.
        start: Seconds from the command line to the first task.
        load: Seconds to load the model once.
        fit: Seconds to train and score the probes of one layer of a task, all penalties and controls, for each number
            of classes that was measured.
        compare: Seconds to measure one layer of a task without probes.
        end: Seconds of tables and figures, and of the end of the process.
        stored: Bytes per second written to the store; those are written while nothing is computed.
        weights_read: Seconds to read all weights from the memory of a GPU, twice a step at least; 0: not reckoned.
        link: Bytes per second that a GPU sends to another of its job.
    """

    forward_flop: float
    tuning_flop: float
    generated: float
    start: float
    load: float
    fit: dict[int, float]
    compare: float
    end: float
    stored: float
    weights_read: float = 0.0
    link: float = math.inf

    def of_fit(self, classes: int) -> float:
        """Seconds of one layer of a task with so many classes: those of the nearest number that was measured."""
        nearest = min(self.fit, key=lambda known: (abs(known - classes), known))
        return self.fit[nearest] * max(1.0, classes / nearest)

    def seconds(self, job: Job, layers: int, *, loads: int, gpus: int = 1) -> dict[str, float]:
        """What a job takes, by what it does.

        Args:
            job: The job.
            layers: Of the model.
            loads: How often it loads the model.
            gpus: Processes of the job, which divide the rows of steps, passes and answers.
        """
        together = job.exchanged_bytes(gpus) / self.link + (_SECONDS_OF_MESSAGES * job.steps if gpus > 1 else 0.0)
        return {
            "load": loads * self.load,
            "passes": job.read_flop / self.forward_flop / gpus,
            "tuning": max(job.tuning_flop / self.tuning_flop / gpus, 2 * job.steps * self.weights_read) + together,
            "answers": job.generated / self.generated / gpus,
            "store": job.stored_bytes / self.stored,
            "probes": layers * sum(self.of_fit(classes) for classes in job.fits),
            "compare": self.compare * job.compared,
        }


def rates_of(
    gpu: Gpu, shape: ModelShape, here: Rates, *, forward_share: float, tuning_share: float, link: float = math.inf
) -> Rates:
    """Rates of a GPU that is not here, from its data sheet; what a CPU does is taken from this machine's.

    Args:
        gpu: The GPU.
        shape: Of the model.
        here: Rates of this machine.
        forward_share: Share of its most operations that passes reach.
        tuning_share: Share that tuning steps reach.
        link: Bytes per second that it sends to another GPU of its job.
    """
    return Rates(
        forward_flop=forward_share * gpu.flop,
        tuning_flop=tuning_share * gpu.flop,
        generated=8 * 0.5 * gpu.bandwidth / shape.weight_bytes,  # 8 rows at once, half the bandwidth: weights are read
        start=here.start,
        load=shape.weight_bytes / 1e9,  # from a disk of 1 GB/s
        fit=here.fit,
        compare=here.compare,
        end=here.end,
        stored=1e9,
        weights_read=shape.weight_bytes / gpu.bandwidth,
        link=link,
    )


def loads_of(job: Job, *, apart: bool) -> int:
    """How often a job loads the model: the base, and what is tuned or read.

    Args:
        job: The job.
        apart: Whether it runs in a process of its own; in one process the base is loaded once, for the first job.
    """
    own = {"run": 1, "tune": 1, "read": 0 if job.model == "base" else 1, "compare": 0}[job.stage]
    return own + (1 if apart and job.stage != "run" else 0)


def hours_of(
    jobs: Sequence[Job], rates: Rates, shape: ModelShape, *, processes: int = 0, gpus_per_job: int = 1
) -> float:
    """Hours until all jobs have finished.

    Args:
        jobs: In the order of their stages.
        rates: Of each process.
        shape: Of the model.
        processes: How many processes run at once, stage after stage; 0: all jobs in this process.
        gpus_per_job: How many processes, each with its GPU, share a job.
    """
    if processes == 0:
        busy = sum(sum(rates.seconds(job, shape.layers, loads=loads_of(job, apart=False)).values()) for job in jobs)
        base = rates.load if any(job.stage != "run" for job in jobs) else 0.0
        return (rates.start + base + busy + rates.end) / 3600
    total = 0.0
    for _, of_stage in groupby(jobs, key=lambda job: job.stage):
        total += span(
            (
                rates.start
                + sum(rates.seconds(job, shape.layers, loads=loads_of(job, apart=True), gpus=gpus_per_job).values())
                for job in of_stage
            ),
            processes // gpus_per_job,
        )
    return (total + rates.end) / 3600


def span(seconds: Iterable[float], processes: int) -> float:
    """Seconds until all of some jobs have finished, if each goes to the process that is free first, longest first.

    >>> span([3, 1, 2, 2], 2)
    4.0
    """
    free = [0.0] * processes
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + duration)
    return max(free)
