from __future__ import annotations

import threading

import pytest
import torch

from probes.threads import map_on_cores

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(two_threads):
    assert map_on_cores(lambda item: item**2, range(50), CPU) == [item**2 for item in range(50)]


def test_two_items_run_at_the_same_time_with_one_core_each(two_threads):
    barrier = threading.Barrier(2)

    def wait_for_the_other_item(_: int) -> int:
        barrier.wait(timeout=10)  # raises if the items run one after the other
        return torch.get_num_threads()

    assert map_on_cores(wait_for_the_other_item, [0, 1], CPU) == [1, 1]


def test_torch_has_its_number_of_threads_back_after_an_error(two_threads):
    with pytest.raises(ZeroDivisionError):
        map_on_cores(lambda item: 1 // item, [1, 0], CPU)
    assert torch.get_num_threads() == 2


def test_on_other_devices_or_with_one_thread_items_run_in_the_calling_thread(two_threads):
    caller = threading.get_ident()
    assert map_on_cores(lambda _: threading.get_ident(), [0, 1], torch.device("meta")) == [caller, caller]
    torch.set_num_threads(1)
    assert map_on_cores(lambda _: threading.get_ident(), [0, 1], CPU) == [caller, caller]
