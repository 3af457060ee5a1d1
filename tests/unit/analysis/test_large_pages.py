import mmap
from pathlib import Path

import pytest
import torch

from probes.analysis import cka_pairs, large_pages
from probes.analysis.large_pages import LARGE_BYTES, empty


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, LARGE_BYTES // 64])
def test_memory_of_any_size_has_the_shape_and_dtype_asked_for_and_is_written_like_any_other(rows, dtype):
    tensor = empty(torch.Size([2, rows, 8]), dtype, torch.device("cpu"))
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((2, rows, 8), dtype, True)
    tensor.fill_(1)
    assert tensor.sum() == tensor.numel()


def flags_of_mapping(address: int) -> list[str]:
    """What the kernel was told of the memory at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = line.split(" ")[0].split("-")
        if len(bounds) == 2:
            inside = int(bounds[0], 16) <= address < int(bounds[1], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc, which only Linux has")
def test_large_memory_is_asked_for_in_large_pages_and_other_memory_is_not():
    large, small = (empty(torch.Size([size]), torch.float32, torch.device("cpu")) for size in (LARGE_BYTES, 1000))
    assert "hg" in flags_of_mapping(large.data_ptr())
    assert "rd" in flags_of_mapping(small.data_ptr())
    assert "hg" not in flags_of_mapping(small.data_ptr())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which only Linux has")
def test_memory_is_given_back_with_the_last_tensor_that_looks_at_it():
    before = resident_bytes()
    tensor = empty(torch.Size([LARGE_BYTES]), torch.float32, torch.device("cpu")).fill_(1)
    part = tensor[:10]
    del tensor
    assert resident_bytes() - before > 3.5 * LARGE_BYTES
    assert (part == 1).all()
    del part
    assert resident_bytes() - before < 0.5 * LARGE_BYTES


def test_cka_does_not_depend_on_where_its_memory_comes_from(monkeypatch):
    x = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    plain = cka_pairs(x, x)
    monkeypatch.setattr(large_pages, "LARGE_BYTES", 0)
    assert torch.equal(cka_pairs(x, x), plain)
