"""Folds a graph's chains and closed branches into blocks without changing its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Block:
    """Nodes that are drawn as one.

    Attributes:
        nodes: their places in the graph, ascending.
        top, module: the outermost and the innermost module that they all belong to, empty where
            unknown.
        before, after: keys of the blocks that feed it and that it feeds.
    """

    nodes: list[int]
    top: str = ""
    module: str = ""
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)


Alike = Callable[[Block], str]
"""What blocks must have in common to be folded."""


class Folding:
    """Merges blocks while the graph keeps its shape: no step can close a circle."""

    def __init__(self, blocks: dict[int, Block]):
        self.blocks = blocks

    def modules(self) -> None:
        """Folds what belongs to one innermost module, such as the parts of one normalisation."""
        while self._pass(len(self.blocks), lambda b: b.module or f"block {b.nodes[0]}"):
            pass

    def until(self, enough: int) -> None:
        """Folds inside outermost modules first, then across them, small blocks before large."""
        for alike in (lambda b: b.top, lambda b: ""):
            size = 2
            while len(self.blocks) > enough and size < 2 * sum(
                len(b.nodes) for b in self.blocks.values()
            ):
                size *= 2
                while len(self.blocks) > enough and self._pass(size, alike):
                    pass

    def merge(self, keys: set[int]) -> None:
        """Makes one block of several."""
        parts = [self.blocks.pop(k) for k in sorted(keys)]
        key = min(keys)
        tops, modules = {p.top for p in parts}, {p.module for p in parts}
        one = Block(sorted(n for p in parts for n in p.nodes))
        one.top = tops.pop() if len(tops) == 1 else ""
        one.module = modules.pop() if len(modules) == 1 else ""
        one.before = {b for p in parts for b in p.before} - keys
        one.after = {a for p in parts for a in p.after} - keys
        for b in one.before:
            self.blocks[b].after = self.blocks[b].after - keys | {key}
        for a in one.after:
            self.blocks[a].before = self.blocks[a].before - keys | {key}
        self.blocks[key] = one

    def _pass(self, size: int, alike: Alike) -> bool:
        changed = False
        for key in sorted(self.blocks):
            if key not in self.blocks or self.blocks[key].nodes[0] < 0:
                continue
            for find in (self._chain, self._branches, self._twins):
                keys = find(key)
                if keys and self._may(keys, size, alike):
                    self.merge(keys)
                    changed = True
                    break
        return changed

    def _may(self, keys: set[int], size: int, alike: Alike) -> bool:
        parts = [self.blocks[k] for k in keys]
        if any(p.nodes[0] < 0 for p in parts) or sum(len(p.nodes) for p in parts) > size:
            return False
        return len({alike(p) for p in parts}) == 1

    def _chain(self, key: int) -> set[int]:
        """A block and the only one that reads it, which reads nothing else."""
        after = self.blocks[key].after
        if len(after) == 1 and self.blocks[next(iter(after))].before == {key}:
            return {key, *after}
        return set()

    def _branches(self, key: int) -> set[int]:
        """A block, branches of one block each that start in it, and the block where they meet."""
        for end in sorted(self.blocks[key].after):
            inner = self.blocks[key].after - {end}
            closed = all(
                self.blocks[i].before == {key} and self.blocks[i].after == {end} for i in inner
            )
            if inner and closed and self.blocks[end].before == inner | {key}:
                return {key, end, *inner}
        first = self.blocks[next(iter(self.blocks[key].after), key)].after
        if len(first) == 1:
            (end,) = first
            inner = self.blocks[key].after
            closed = all(
                self.blocks[i].before == {key} and self.blocks[i].after == {end} for i in inner
            )
            if closed and self.blocks[end].before == inner:
                return {key, end, *inner}
        return set()

    def _twins(self, key: int) -> set[int]:
        """Two blocks side by side: the same before them and the same after them."""
        mine = self.blocks[key]
        beside = {k for b in mine.before for k in self.blocks[b].after} - {key}
        for other in sorted(beside):
            if self.blocks[other].before == mine.before and self.blocks[other].after == mine.after:
                return {key, other}
        return set()
