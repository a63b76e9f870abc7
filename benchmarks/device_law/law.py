"""A law for code that computes on a GPU, kept without one: tensors lie on the `meta` device, which
has shapes and no memory, and whatever needs their values, or leaves a part on the CPU, raises.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lcm.system.transfers import fetched, sent

ROOT = Path(__file__).parents[2]
META = torch.device("meta")
aten = torch.ops.aten
READ_BY_SCALER = tuple(
    getattr(torch.amp.GradScaler, name).__code__ for name in ("_maybe_opt_step", "state_dict")
)
"""Where torch's loss scaler asks whether gradients overflowed, right after the step's own read, and
where a checkpoint asks for its scale.
"""
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
"""What makes tensors of Python numbers: on a GPU, a copy that the host waits for."""
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
"""What makes them of lists among its indices."""
BY_MASK = (aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put)
"""What waits for the places of a mask's ones, which shapes do not show."""


class DeviceLawError(AssertionError):
    """Something needs the values of a tensor on the device, or was left on the CPU."""


def stack() -> Iterator[FrameType]:
    """The frames of the code that is running, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_within(*codes: CodeType) -> bool:
    """Whether one of these functions is running."""
    return any(frame.f_code in codes for frame in stack())


def place() -> str:
    """The innermost line of this package that is running, and what it called if that is another's,
    such as "lcm/training/step.py:150 check_finite".
    """
    outside = ""
    for frame in stack():
        path = Path(frame.f_code.co_filename)
        # in `system` is what others call for this
        if path.is_relative_to(ROOT / "lcm") and path.parent.name != "system":
            where = f"{path.relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"
            return f"{where} > {outside}" if outside else where
        if not outside and {"diffusers", "transformers"} & set(path.parts):
            outside = f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
    return outside or "outside of lcm"


def tensors_of(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, also those in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


SEEN: dict[Any, Any] = {}
"""An operation and what it is given -> what it gives, as `told`."""


def told(value: Any) -> Any:
    """What the shapes of results follow from, hashable."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(told, value))
    return type(value), value  # 1 and 1.0 are equal, and make other dtypes


def again(known: Any) -> Any:
    """New tensors like those `told`."""
    if known == (type(None), None):
        return None
    if isinstance(known[-1], torch.dtype):
        return torch.empty_strided(known[0], known[1], dtype=known[2], device=META)
    return tuple(map(again, known))


@functools.cache
def kind_of(func: Any) -> str:
    """Whether an operation gives "new" tensors, the one that it "writes" onto, or something
    "else".
    """
    returns, name = func._schema.returns, func._schema.name
    if not returns or any(str(value.type) != "Tensor" for value in returns):
        return "else"
    if all(value.alias_info is None for value in returns):
        return "else" if func._schema.is_mutable else "new"
    return "writes" if func._schema.is_mutable and name.endswith("_") else "else"


def remembered(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the device, without asking again what follows from the same shapes: layers
    repeat, and most of the time of a step without memory goes into that.
    """
    if (kind := kind_of(func)) == "else":
        return func(*args, **kwargs)
    key = func, told(args), told(tuple(kwargs.items()))
    if key not in SEEN:
        result = func(*args, **kwargs)
        SEEN[key] = told(result)
        return result
    return args[0] if kind == "writes" else again(SEEN[key])


class MadeOnDevice(TorchFunctionMode):
    """Notes tensors that are made of Python numbers on the device: operations show nothing of
    them.
    """

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_made = func in MAKERS and result.is_meta
        if is_made or (func in INDEXING and args[0].is_meta and has_list(args[1])):
            self.waits[place()] += 1
        return result


def has_list(index: Any) -> bool:
    """Whether an index of a tensor has places as Python numbers."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list | range) for part in parts)


def waits_on_device(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the host waits inside the operation, though shapes do not depend on it: for a mask's
    places, unless one number is written there, or for whether a matrix could be inverted.
    """
    if func is aten._linalg_check_errors.default:
        return True
    return (
        func.overloadpacket in BY_MASK
        and args[2].numel() != 1
        and any(index.dtype in (torch.bool, torch.uint8) for index in tensors_of(args[1]))
    )


class DeviceLaw(TorchDispatchMode):
    """Raises DeviceLawError for whatever would compute on the CPU with what is on the device, or
    reads it by another way than `lcm.system.transfers.fetched`, which reads `value` everywhere.

    Counted by place: `reads` from the device, by `fetched` or by torch's loss scaler; `sent`, the
    copies to it that nobody waits for; `waits`, those that the host waits for; `scalars`, numbers
    on the CPU, as tensors of no dimension, in an operation on the device, which cost a copy at
    most.
    """

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value
        self.reads: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.scalars: Counter[str] = Counter()
        self._around = ExitStack()

    def __enter__(self) -> Self:
        self._around.enter_context(MadeOnDevice(self.waits))
        # the fused AdamW has shapes on this device as on others
        self._around.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused"))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._around.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [*tensors_of(args), *tensors_of(list(kwargs.values()))]
        devices = {tensor.is_meta for tensor in given}
        if True in devices and func is aten._local_scalar_dense.default:
            return self.read(args[0], *READ_BY_SCALER).item()
        if True in devices and waits_on_device(func, args):
            raise DeviceLawError(
                f"{place()} calls {func}, inside which the host waits; use torch.where in the "
                "place of a mask, and linear algebra that checks nothing, such as linalg.inv_ex"
            )
        if func is aten._to_copy.default:
            to = kwargs.get("device", args[0].device)
            if args[0].is_meta and to.type != "meta":
                return self.read(args[0], fetched.__code__)
            if not args[0].is_meta and to.type == "meta":
                self.send(bool(kwargs.get("non_blocking", False)))
        elif len(devices) > 1:
            self.mix(func, args, given)
        return remembered(func, args, kwargs) if devices == {True} else func(*args, **kwargs)

    def read(self, tensor: Tensor, *by: CodeType) -> Tensor:
        """What stands for the values, where one of these functions reads them."""
        if not is_within(*by):
            raise DeviceLawError(
                f"{place()} reads a tensor {list(tensor.shape)} from the device; the host waits "
                "there: keep it on the device, or read it by lcm.system.transfers.fetched"
            )
        self.reads[place()] += 1
        return torch.full(tensor.shape, self.value).to(tensor.dtype)

    def send(self, is_async: bool) -> None:
        """Notes a copy to the device."""
        (self.sent if is_async or is_within(sent.__code__) else self.waits)[place()] += 1

    def mix(self, func: Any, args: tuple[Any, ...], given: list[Tensor]) -> None:
        """An operation on tensors of both devices."""
        if func is aten.copy_.default and args[0].is_meta:
            self.send(len(args) > 2 and bool(args[2]))
            return
        left = [tensor for tensor in given if not tensor.is_meta]
        if func is aten.copy_.default or any(tensor.dim() for tensor in left):
            raise DeviceLawError(
                f"{place()} calls {func} with tensors {[list(t.shape) for t in left]} of the CPU "
                "beside those on the device; send them by lcm.system.transfers.sent"
            )
        self.scalars[f"{place()} {func.overloadpacket}"] += 1
