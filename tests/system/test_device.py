"""What kinds of devices differ in. No GPU is here: modules of torch are played, with the functions
that those of torch have.
"""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lcm.dry_run.memory_fit import of_encoding_beforehand
from lcm.inference.devices import choose_device, choose_dtype
from lcm.models.networks import drawing_from
from lcm.system import device as kinds
from lcm.system import memory as memory_module
from lcm.system.memory import counting, held_on, is_out_of_memory, peak_gib, total_memory
from tests.support import ROOT

MPS, XPU, CUDA = map(torch.device, ("mps", "xpu", "cuda"))
FILES = [*(ROOT / "lcm").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
KINDS = ("cuda", "mps", "xpu")


class Metal:
    """torch.mps: its functions are told no device, and know no peak."""

    def __init__(self) -> None:
        self.waited = 0
        self.state = torch.zeros(4, dtype=torch.uint8)

    def synchronize(self) -> None:
        self.waited += 1

    def empty_cache(self) -> None:
        self.waited += 10

    def current_allocated_memory(self) -> int:
        return 100

    def driver_allocated_memory(self) -> int:
        return 3 * 2**30

    def recommended_max_memory(self) -> int:
        return 1000

    def get_rng_state(self, device: Any = "mps") -> torch.Tensor:
        return self.state

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "mps") -> None:
        self.state = new_state

    def manual_seed(self, seed: int) -> None:
        self.state = torch.full((4,), seed, dtype=torch.uint8)


class OldXpu(SimpleNamespace):
    """torch.xpu of torch 2.6, which has the functions of torch.cuda but says nothing of what is
    free.
    """

    def memory_allocated(self, device: torch.device) -> int:
        return 100

    def get_device_properties(self, device: torch.device) -> Any:
        return SimpleNamespace(total_memory=5000)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> Metal:
    """A machine with an Apple GPU."""
    played = Metal()
    modules = {"mps": played}
    monkeypatch.setattr(
        torch, "get_device_module", lambda device: modules[torch.device(device).type]
    )
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: MPS)
    monkeypatch.setattr(memory_module, "free_at_first", lambda: 4000)
    return played


def named_backends(source: str) -> set[str]:
    """What a file names of one kind of device, as torch.cuda; settings are none of it."""
    if not any(kind in source for kind in (*KINDS, "accelerator")):
        return set()
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and (
            node.attr in {f"is_{kind}" for kind in KINDS}
            or (ast.unparse(node.value) == "torch" and node.attr in (*KINDS, "accelerator"))
        )
    }


def test_one_file_alone_speaks_to_a_kind_of_device() -> None:
    """Elsewhere a GPU other than NVIDIA's would be taken for none."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if named_backends(path.read_text(encoding="utf-8"))
    }
    assert found == {"lcm/system/device.py"}


def test_a_kind_that_a_file_names_would_be_found() -> None:
    assert named_backends("if x.is_cuda:\n    torch.mps.synchronize()") == {"is_cuda", "mps"}
    assert not named_backends("torch.backends.cuda.matmul.allow_tf32 = True")


def test_an_apple_gpu_is_chosen_and_draws_in_half_precision(metal: Metal) -> None:
    assert choose_device("auto") == choose_device("mps") == MPS
    assert choose_dtype("auto", MPS) == torch.float16
    with pytest.raises(ValueError, match="this machine has no cuda; pass cpu or mps"):
        choose_device("cuda")


def test_the_memory_of_an_apple_gpu_is_main_memory(
    metal: Metal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert total_memory(MPS) == 1000  # no more than Metal should take
    monkeypatch.setattr(memory_module, "free_at_first", lambda: 800)
    assert total_memory(MPS) == 800  # nor than is left
    assert peak_gib(MPS) == 3
    assert held_on(MPS, {"weights": [torch.zeros(10)]}) == {"weights": 40, "other": 60}
    for device, size in ((MPS, 0), (torch.device("meta"), 4000)):
        with counting(device) as most:  # it knows no peak: its tensors are counted
            torch.zeros(1000, device="meta")
            assert most() == size
    kinds.synchronize(MPS)
    kinds.empty_cache(MPS)
    assert metal.waited == 11


def test_encoders_that_leave_an_apple_gpu_make_no_room(
    metal: Metal, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(
        between=100, wanted=1, held={"VAE and text encoders": 60}, besides={}, part=lambda *_: 50
    )
    assert of_encoding_beforehand(memory, offloads=True) == 150  # type: ignore[arg-type]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    assert of_encoding_beforehand(memory, offloads=True) == 100  # type: ignore[arg-type]


def test_a_gpu_that_does_not_say_what_is_free_has_all_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("The device doesn't support querying the available free memory")

    for played in (OldXpu(), OldXpu(mem_get_info=refuse)):
        monkeypatch.setattr(torch, "get_device_module", lambda device, played=played: played)
        assert total_memory(XPU) == 5000
        assert held_on(XPU, {}) == {"other": 100}


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_what_is_no_gpu_counts_and_waits_for_nothing(kind: str) -> None:
    device = torch.device(kind)
    kinds.synchronize(device)
    kinds.empty_cache(device)
    kinds.forget_peak(device)
    assert (kinds.allocated(device), kinds.peak(device), kinds.room(device)) == (None, None, None)
    assert held_on(device, {}) == {}
    assert peak_gib(device) > 0.05  # of this process


@pytest.mark.parametrize(
    ("kind", "has_bf16", "expected"),
    [("cuda", True, "fp16"), ("mps", True, "bf16"), ("mps", False, "fp16"), ("xpu", True, "bf16")],
)
def test_the_half_precision_that_is_advised_is_one_that_every_such_device_has(
    kind: str, has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: has_bf16)
    assert kinds.half_precision(torch.device(kind)) == expected


def test_random_numbers_of_a_gpu_outside_do_not_notice(metal: Metal) -> None:
    before, on_cpu = metal.state, torch.get_rng_state()
    with drawing_from(7, MPS):
        metal.manual_seed(7)  # as torch.manual_seed does where there is one
        torch.rand(3)
    assert torch.equal(metal.state, before)
    assert torch.equal(torch.get_rng_state(), on_cpu)


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.13 GB). Tried ...",
        "Invalid buffer size: 32.00 GiB",
    ],
)
def test_metal_says_in_words_of_its_own_that_memory_ran_out(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_itself_has_what_is_asked(kind: str) -> None:
    """The names are torch's: a misspelt one would be asked of nobody."""
    module = torch.get_device_module(kind)
    names = {"synchronize", "empty_cache", "manual_seed", "get_rng_state", "set_rng_state"}
    names |= (
        {"current_allocated_memory", "driver_allocated_memory", "recommended_max_memory"}
        if kind == "mps"
        else {"memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"}
        | {"memory_reserved", "get_device_name", "get_device_properties"}
    )
    assert names <= set(dir(module))
