"""The calls of pipelines with an adapter: they have the recipe's numbers where the caller says
nothing, and what ruins few-step pictures is said.

Python looks `__call__` up on the class. A pipeline with an attachment is therefore of a class of
its own, derived from the one it had and of the same name; `detach` gives the former back. No class
that others use is changed but for one line: `DiffusionPipeline.register_modules`, which all
pipelines are made with, looks whether the U-Net that a new one gets has an adapter, as it does in
`from_pipe`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from diffusers import DiffusionPipeline

from lcm.inference.call_defaults import is_off, supply
from lcm.inference.call_warnings import look_at_settings, look_at_strength
from lcm.inference.first_steps import OwnGuidance, by_the_teacher
from lcm.inference.state import MEMBERS, Attachment, attachment, own_attachment, unwrapped
from lcm.inference.texts import encoding


class Watched:
    """Goes before the class of a pipeline."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a class made on the fly has no address that a pickle could name
        reduced: Any = super().__reduce_ex__(max(2, int(protocol)))
        return (new, (stock_class(type(self)),), *reduced[2:])


def new(base: Any) -> Any:
    """An empty pipeline of the watched class of `base`, for `copy` and `pickle` to fill."""
    made = watched_class(base)
    pipe = made.__new__(made)
    MEMBERS[id(pipe)] = pipe
    return pipe


def stock_class(made: Any) -> Any:
    """The class that a watched one is derived from; any other as it is."""
    return made.__mro__[2] if Watched in made.__bases__ else made


@cache
def watched_class(base: Any) -> Any:
    """`base` with other calls; all else, its name included, is the same."""
    namespace = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    for name, look in LOOKS.items():
        if hasattr(base, name):
            namespace[name] = looking(getattr(base, name), look)
    if hasattr(base, "encode_prompt"):
        namespace["encode_prompt"] = encoding(base.encode_prompt)
    if hasattr(base, "do_classifier_free_guidance"):
        namespace[OwnGuidance.name] = OwnGuidance()
    namespace["__call__"] = calling(base.__call__)
    return type(base.__name__, (Watched, base), namespace)


def calling(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a class, with the recipe's numbers where the caller says nothing."""

    @wraps(call)
    def call_with_defaults(self: Any, *args: Any, **options: Any) -> Any:
        found = own_attachment(self)
        if found is not None:
            args, options = supply(self, found, call, args, options)
            with by_the_teacher(self, found):
                return call(self, *args, **options)
        return call(self, *args, **options)

    return call_with_defaults


def looking(method: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
    """A method of a class, whose result and arguments are looked at."""

    @wraps(method)
    def looked_at(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        if (found := own_attachment(self)) is not None and not is_off(self, found):
            look(self, found, result, *args, **options)
        return result

    return looked_at


LOOKS: dict[str, Callable[..., None]] = {
    "get_timesteps": look_at_strength,
    "prepare_extra_step_kwargs": look_at_settings,
}
"""Methods that the calls of pipelines make once each. One that somebody has put on the very object
comes before that of the class, and is not looked at.
"""


# --- which pipelines ------------------------------------------------------------------------------


def join(pipe: Any, found: Attachment, had: Any) -> None:
    """Makes the pipeline one of those that have the attachment, if it is not. Its own U-Net and
    scheduler are those that `had` names, or where these came with the attachment, those of before.
    """
    if own_attachment(pipe) is found:
        return
    pipe._lcm_own = {}
    for name in ("unet", "scheduler"):
        came_with_it = unwrapped(getattr(had, name)) is unwrapped(getattr(found, name))
        pipe._lcm_own[name] = getattr(found.before if came_with_it else had, name)
    pipe._lcm_attachment = found
    pipe.__class__ = watched_class(stock_class(type(pipe)))
    MEMBERS[id(pipe)] = pipe


def leave(pipe: Any) -> None:
    """Undoes `join`, and gives the pipeline its own U-Net and scheduler back."""
    own = pipe._lcm_own
    pipe.register_modules(
        **{name: module for name, module in own.items() if getattr(pipe, name) is not module}
    )
    del pipe._lcm_own, pipe._lcm_attachment
    MEMBERS.pop(id(pipe), None)
    pipe.__class__ = stock_class(type(pipe))


def join_others_of_the_unet(register: Callable[..., None]) -> Callable[..., None]:
    """`register_modules`, after which a pipeline with the U-Net of an attached one is another."""

    @wraps(register)
    def register_modules(self: Any, **kwargs: Any) -> None:
        register(self, **kwargs)
        if kwargs.get("unet") is not None and (found := attachment(self)) is not None:
            join(self, found, had=self)

    return register_modules


DiffusionPipeline.register_modules = join_others_of_the_unet(DiffusionPipeline.register_modules)
