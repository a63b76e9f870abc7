"""PyTorch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

Results = defaultdict[Any, deque[Any]]
"""Operation -> what of each of its calls was kept, in order."""

AGAIN = object()
"""In the place of a result that is computed again."""
NOT_COUNTED = (torch.ops.aten.detach.default, torch.ops.prim.device.default)
"""Operations that checkpointing itself makes, now more of them, now fewer."""


def detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class Keeping(TorchDispatchMode):
    """Keeps the results that `policy(operation, result, *args, **kwargs)` says."""

    def __init__(self, policy: Callable[..., bool], results: Results) -> None:
        super().__init__()
        self.policy, self.results = policy, results

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in NOT_COUNTED:
            is_kept = self.policy(func, result, *args, **kwargs)
            self.results[func].append(tree_map(detached, result) if is_kept else AGAIN)
        return result


class Replaying(TorchDispatchMode):
    """Gives what was kept, and computes the rest again, in the order in which it was made."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in NOT_COUNTED:
            return func(*args, **(kwargs or {}))
        if not self.results[func]:
            raise RuntimeError(
                f"{func} is computed again more often than before: the network is not the same in "
                "the backward pass, or that is made twice"
            )
        kept = self.results[func].popleft()  # and is free when the graph has used it
        return func(*args, **(kwargs or {})) if kept is AGAIN else tree_map(detached, kept)


# torch >= 2.12: torch.utils.checkpoint.create_selective_checkpoint_contexts with a policy that
# reads `SelectiveCheckpointContext.op_output`; before, a policy does not see the result
def selective_contexts(
    policy: Callable[..., bool],
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The `context_fn` of `torch.utils.checkpoint.checkpoint`, called: contexts of the forward
    pass, and of computing it again, that keep the results that `policy(operation, result, *args,
    **kwargs)` says. A backward pass can be made once.
    """
    results: Results = defaultdict(deque)
    return Keeping(policy, results), Replaying(results)
