"""A request at work: the stock pipeline's own call, stopped wherever it calls a network."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

from lcm.serving.calls import Answer, Call

Ask = Callable[[Call], Any]
"""A call of a network that somebody else makes -> what it returns."""

NETWORKS = ("text_encoder", "text_encoder_2", "unet")


class Cancelled(BaseException):
    """Raised inside a pipeline's call to end it."""


class Shared(nn.Module):
    """A network in whose place somebody else is asked. Everything else about it is the network's own."""

    def __init__(self, name: str, network: Any, ask: Ask) -> None:
        super().__init__()
        self.name, self.network, self.ask = name, network, ask
        self.dtype = network.dtype  # its own, also while `decode` has widened it for somebody else

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.ask(Call(self.name, *args, **kwargs))


class SharedVAE(Shared):
    def decode(self, z: Any, return_dict: bool = True, generator: Any = None) -> Any:
        """As `AutoencoderKL.decode`, which does not use its generator."""
        return self.ask(Call(self.name, z, return_dict=return_dict, dtype=self.dtype))


def own_pipeline(pipe: Any, ask: Ask) -> Any:
    """A copy of a pipeline with a scheduler and a state of its own, whose networks ask."""
    own = copy.copy(pipe)
    shared = {name: Shared(name, network, ask) for name in NETWORKS if (network := getattr(pipe, name, None)) is not None}
    if isinstance(pipe.vae, AutoencoderKL | AutoencoderTiny):
        shared["vae"] = SharedVAE("vae", pipe.vae, ask)
    # not by attributes: pipelines write down the classes of what they are given
    vars(own).update(shared, scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config), maybe_free_model_hooks=lambda: None)
    own.set_progress_bar_config(disable=True)
    return own


class Drawing:
    """A call of a pipeline in a thread that runs only while somebody waits in `go_on`: one at a time, in the order they say.

    After `start` and every `go_on`, `call` is what it waits for, or None when it has ended with an `image` or an `error`.
    """

    def __init__(self, pipe: Any, arguments: dict[str, Any], rows: int) -> None:
        self.rows = rows
        self.image: Any = None
        self.error: Exception | None = None
        self.call: Call | None = None
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._draw, args=(pipe, arguments), daemon=True)

    def _draw(self, pipe: Any, arguments: dict[str, Any]) -> None:
        try:
            self.image = own_pipeline(pipe, self._ask)(**arguments).images[0]
        except Cancelled:
            pass
        except Exception as error:
            self.error = error
        finally:
            self._calls.put(None)

    def _ask(self, call: Call) -> Any:
        if call.rows == 0:  # what the stock pipelines pass on in silence
            raise ValueError("there is no step to take: strength times num_inference_steps is below 1; raise either")
        self._calls.put(call)
        output, error = self._answers.get()
        if error is not None:
            raise error
        return output

    def start(self) -> None:
        self._thread.start()
        self.call = self._calls.get()

    def go_on(self, answer: Answer) -> None:
        self._answers.put(answer)
        self.call = self._calls.get()

    def stop(self) -> None:
        """Ends it at its next call, with neither image nor error."""
        self._answers.put((None, Cancelled()))
        if self._thread.is_alive():
            self._thread.join()
