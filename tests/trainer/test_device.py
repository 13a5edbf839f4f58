"""Where and in which precision training runs, and generators that are put back."""

import pytest
import torch

from tsn_toolkit.errors import RunError
from tsn_toolkit.trainer.device import pick_device, pick_dtype, seeded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("there", "choice", "expected"), [(False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu"), (True, "cuda", "cuda")]
)
def test_pick_device(monkeypatch, there, choice, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device(choice) == torch.device(expected)


def test_cuda_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="`device` is cuda, but torch sees no CUDA device"):
        pick_device("cuda")


@pytest.mark.parametrize(("bf16", "amx", "expected"), [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)])
def test_auto_takes_bfloat16_only_where_the_processor_has_it(monkeypatch, bf16, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert pick_dtype("auto", CPU) == expected


def test_auto_without_any_probe_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert pick_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize("emulated", [False, True])
def test_auto_on_a_gpu_refuses_emulation(monkeypatch, emulated):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated)
    assert pick_dtype("auto", CUDA) == (torch.float32 if emulated else torch.bfloat16)


@pytest.mark.parametrize(("choice", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_named_precision_is_taken_as_it_is(choice, expected):
    assert pick_dtype(choice, CPU) == expected


def test_seeded_gives_the_same_numbers_and_puts_the_generator_back():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with pytest.raises(KeyError, match="inside"), seeded(3):
        assert torch.equal(torch.rand(4), first)
        raise KeyError("inside")
    with seeded(4):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), before)
