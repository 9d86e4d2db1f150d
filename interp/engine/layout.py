"""Where the rows of a batch of items lie.

Items are ordered by the point of the stream at which they enter, so that at every layer the running ones are
a prefix, and so are their rows.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from interp.engine.block import Group
from interp.engine.items import Items


class Layout:
    """Rows of a batch of items: one buffer for the stream, one for the rows that are read at the end.

    Row numbers of the stream buffer exist only for items that enter before the middle of the last block;
    the others have only final rows.
    """

    def __init__(self, items: Items, n_layers: int, everywhere: bool, device: torch.device) -> None:
        self.items = items
        self.n_layers = n_layers
        lengths = items.stop - items.start
        n_running = int(np.searchsorted(items.point, 2 * n_layers - 1))
        self.row_end = np.concatenate(([0], np.cumsum(lengths[:n_running])))
        n_read = lengths if everywhere else np.ones_like(lengths)
        self.final_end = np.concatenate(([0], np.cumsum(n_read)))
        self.item_prompt = torch.as_tensor(items.prompt, device=device)
        row_item = np.repeat(np.arange(n_running), lengths[:n_running])
        row_pos = np.arange(self.row_end[-1]) - self.row_end[row_item] + items.start[row_item]
        final_item = np.repeat(np.arange(len(items)), n_read)
        within = np.arange(self.final_end[-1]) - self.final_end[final_item]
        final_pos = items.stop[final_item] - n_read[final_item] + within
        running = final_item < n_running
        source = np.where(running, 0, -1)
        mine = final_item[running]
        source[running] = self.row_end[mine] + final_pos[running] - items.start[mine]
        as_tensor = lambda a: torch.as_tensor(a, device=device)  # noqa: E731
        self.row_item, self.row_pos = as_tensor(row_item), as_tensor(row_pos)
        self.final_item, self.final_pos = as_tensor(final_item), as_tensor(final_pos)
        self.final_source = as_tensor(source)  # the stream row of each final row
        self._groups = self._make_groups(n_running, n_read, device)
        self._elsewhere: dict[torch.device, Layout] = {device: self}

    def on(self, device: torch.device) -> Layout:
        """The same layout with its numbers on a device."""
        if device not in self._elsewhere:
            other = copy.copy(self)
            for name, part in vars(self).items():
                if isinstance(part, torch.Tensor):
                    setattr(other, name, part.to(device))
            move = lambda a: a.to(device) if isinstance(a, torch.Tensor) else a  # noqa: E731
            other._groups = [tuple(map(move, group)) for group in self._groups]
            self._elsewhere[device] = other
        return self._elsewhere[device]

    def entered(self, point: int) -> tuple[int, int]:
        """The items that enter at a point: first, and one past the last."""
        ends = np.searchsorted(self.items.point, [point, point + 1])
        return int(ends[0]), int(ends[1])

    def _make_groups(self, n_running: int, n_read: np.ndarray, device: torch.device) -> list[tuple]:
        items = self.items.take(slice(0, n_running))
        keys, inverse = np.unique(np.stack((items.start, items.stop)), axis=1, return_inverse=True)
        out = []
        for number, (start, stop) in enumerate(keys.T.tolist()):
            runs = np.flatnonzero(inverse.ravel() == number)
            rows = self.row_end[runs][:, None] + np.arange(stop - start)
            n_final = int(n_read[runs[0]])
            finals = self.final_end[runs][:, None] + np.arange(n_final)
            tensors = [torch.as_tensor(a, device=device) for a in (items.prompt[runs], rows, finals, runs)]
            positions = torch.arange(start, stop, device=device)
            out.append((runs, start, stop, *tensors, positions, positions[-n_final:]))
        return out

    def groups(self, n_items: int, last: bool) -> list[Group]:
        """The groups of the first `n_items` items; in the last block only the rows read are queries."""
        out = []
        for runs, start, stop, prompt, rows, finals, numbers, pos, final_pos in self._groups:
            n = int(np.searchsorted(runs, n_items))
            if n:
                queries, query_pos = (finals[:n], final_pos) if last else (rows[:n], pos)
                out.append(Group(start, stop, prompt[:n], rows[:n], queries, query_pos, numbers[:n]))
        return out
