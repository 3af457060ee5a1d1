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


def test_answers_come_in_the_order_of_the_items(two_threads):
    assert map_on_cores(lambda item: item**2, range(50), CPU) == [item**2 for item in range(50)]


def test_two_items_run_at_once_each_with_one_core(two_threads):
    together = threading.Barrier(2)

    def meet(_: int) -> int:
        together.wait(timeout=10)  # breaks where one item follows another
        return torch.get_num_threads()

    assert map_on_cores(meet, [0, 1], CPU) == [1, 1]


def test_torch_has_its_threads_back_after_an_error(two_threads):
    with pytest.raises(ZeroDivisionError):
        map_on_cores(lambda item: 1 // item, [1, 0], CPU)
    assert torch.get_num_threads() == 2


def test_other_devices_and_single_threads_take_one_item_after_another(two_threads):
    caller = threading.get_ident()
    assert map_on_cores(lambda _: threading.get_ident(), [0, 1], torch.device("meta")) == [caller, caller]
    torch.set_num_threads(1)
    assert map_on_cores(lambda _: threading.get_ident(), [0, 1], CPU) == [caller, caller]
