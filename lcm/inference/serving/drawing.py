"""A request at work: the stock pipeline's own call, stopped wherever it calls a network."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

from lcm.adapter.names import COMPONENTS
from lcm.inference.serving.calls import Answer, Call
from lcm.inference.state import unwrapped

Ask = Callable[[Call], Any]
"""A call of a network that somebody else makes -> what it returns."""


class Cancelled(BaseException):
    """Raised inside a pipeline's call to end it."""


class Inside(threading.local):
    """The engines whose steps the running thread is a part of: it draws for them, or makes them.
    They wait for it, so it must not wait for them. `delivering` are those whose results it gives
    out.
    """

    engines: tuple[Any, ...] = ()
    delivering: tuple[Any, ...] = ()


INSIDE = Inside()


@contextmanager
def inside(*engines: Any, doing: str = "engines") -> Iterator[None]:
    """The running thread is a part of a step of these engines, or `doing` is "delivering"."""
    former = getattr(INSIDE, doing)
    setattr(INSIDE, doing, (*former, *engines))
    try:
        yield
    finally:
        setattr(INSIDE, doing, former)


def fit_for_a_future(error: BaseException) -> Exception:
    """The error itself, or one that names it: what ends threads, generators and tasks where it is
    raised again is no business of whoever waits for a picture.
    """
    ends_others = StopIteration | StopAsyncIteration | CancelledError
    if isinstance(error, Exception) and not isinstance(error, ends_others):
        return error
    wrapped = RuntimeError(f"a callback of this request raised {error!r}")
    wrapped.__cause__ = error
    return wrapped


@dataclass(frozen=True)
class Facts:
    """What pipelines ask about their networks. Gathered once, since diffusers walks through all of
    a network's modules for it.
    """

    device: torch.device
    dtypes: dict[str, torch.dtype]


def gather_facts(pipe: Any) -> Facts:
    networks = {name: getattr(pipe, name, None) for name in (*COMPONENTS, "vae")}
    return Facts(
        pipe._execution_device,
        {name: network.dtype for name, network in networks.items() if network is not None},
    )


class Shared(nn.Module):
    """A network in whose place somebody else is asked. Everything else about it is the network's
    own.
    """

    def __init__(self, name: str, network: Any, facts: Facts, ask: Ask) -> None:
        super().__init__()
        vars(self)["network"] = network  # not as a part, lest it be walked through
        self.name, self.ask = name, ask
        self.device, self.dtype = facts.device, facts.dtypes[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    @property
    def _orig_mod(self) -> Any:
        """The network itself, by the name that compiled ones have it: whoever looks whether its
        adapters are switched off finds them there.
        """
        return unwrapped(self.network)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.ask(Call(self.name, *args, **kwargs))


class SharedVAE(Shared):
    """Its `dtype` is the VAE's own, also while the VAE is widened for somebody else's decode."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        self.network.to(*args, **kwargs)
        return self

    def decode(self, z: Any, return_dict: bool = True, generator: Any = None) -> Any:
        """Decodes as `AutoencoderKL.decode` does, which does not use its generator. Raises
        ValueError for a picture that would be black without a word.
        """
        decoded = self.ask(Call(self.name, z, return_dict=return_dict, dtype=self.dtype))
        if not decoded[0].isfinite().all():
            raise ValueError(
                "the picture has values that are not finite, and would be black; lower "
                "guidance_scale, or load the base in float32 or bfloat16 if that is not it"
            )
        return decoded


def own_pipeline(pipe: Any, facts: Facts, ask: Ask) -> Any:
    """A copy of a pipeline with a scheduler and a state of its own, whose networks ask."""
    own = copy.copy(pipe)
    shared = {
        name: Shared(name, getattr(pipe, name), facts, ask)
        for name in COMPONENTS
        if name in facts.dtypes
    }
    if isinstance(pipe.vae, AutoencoderKL | AutoencoderTiny):
        shared["vae"] = SharedVAE("vae", pipe.vae, facts, ask)
    # not by attributes: pipelines write down the classes of what they are given
    vars(own).update(
        shared,
        scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config),
        maybe_free_model_hooks=lambda: None,
    )
    own.set_progress_bar_config(disable=True)
    return own


class Drawing:
    """A call of a pipeline in a thread that runs only while somebody waits in `go_on`: one at a
    time, in the order they say.

    After `start` and every `go_on`, `call` is what it waits for, or None when it has ended with an
    `image` or an `error`.
    """

    def __init__(self, arguments: dict[str, Any], rows: int) -> None:
        self.arguments, self.rows = arguments, rows
        self.is_stopped = False
        self.image: Any = None
        self.error: Exception | None = None
        self.call: Call | None = None
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def _draw(self, pipe: Any, facts: Facts, engines: tuple[Any, ...]) -> None:
        try:
            with inside(*engines):
                self.image = own_pipeline(pipe, facts, self._ask)(**self.arguments).images[0]
        except BaseException as error:
            if not (self.is_stopped and isinstance(error, Cancelled)):
                self.error = fit_for_a_future(error)
        finally:
            self._calls.put(None)

    def _ask(self, call: Call) -> Any:
        if call.rows == 0:  # what the stock pipelines pass on in silence
            raise ValueError(
                "there is no step to take: strength times num_inference_steps is below 1; raise "
                "either"
            )
        self._calls.put(call)
        output, error = self._answers.get()
        if error is not None:
            raise error
        return output

    def start(self, pipe: Any, facts: Facts) -> None:
        arguments = (pipe, facts, INSIDE.engines)
        self._thread = threading.Thread(target=self._draw, args=arguments, daemon=True)
        self._thread.start()
        self.call = self._calls.get()

    def go_on(self, answer: Answer) -> None:
        self._answers.put(answer)
        self.call = self._calls.get()

    def stop(self) -> None:
        """Ends it at its next call, with neither image nor error."""
        self.is_stopped = True
        self._answers.put((None, Cancelled()))
        if self._thread is not None:
            self._thread.join()
