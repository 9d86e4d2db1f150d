"""How much memory a call holds at most: the bytes of its tensors, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak(call: Callable[[], Any]) -> int:
    """Bytes of tensors made by the call, at the highest; what operations hold within is not seen."""
    with _Held() as held:
        call()
    return held.highest


class _Held(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.highest = 0
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {storage_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and storage_of(tensor) not in old:
                self._hold(tensor)
        return out

    def _hold(self, tensor: Tensor) -> None:
        key, storage = storage_of(tensor), tensor.untyped_storage()
        if key in self.seen or not storage.nbytes():
            return
        self.seen[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.seen.pop(key, 0)


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
