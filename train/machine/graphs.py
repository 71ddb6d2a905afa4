"""Repeats a function as CUDA graphs: the device does all its work, the host starts it and counts.

Everything that the function reads must stay where it is in memory and everything it needs to know
must lie on the device: whatever the host hands in or decides is frozen when a graph is captured.
"""

from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

WARM_UP = 3  # calls before the capture: kernels are compiled and tuned, buffers find their size

Result = TypeVar("Result", bound=tuple)


class Graphs(Generic[Result]):
    """Calls `function`; from the fourth call with the same arguments on as one CUDA graph.

    Its result lies in the same memory at every later call. `generator` is what it draws from.
    """

    def __init__(self, function: Callable[..., Result], generator: torch.Generator) -> None:
        self.function, self.generator = function, generator
        self.calls: Counter[tuple] = Counter()
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Result]] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: int) -> Result:
        self.calls[arguments] += 1
        if self.calls[arguments] <= WARM_UP:
            return self._aside(arguments)
        if arguments not in self.graphs:
            self.graphs[arguments] = self._capture(arguments)
        graph, result = self.graphs[arguments]
        graph.replay()
        return result

    def _aside(self, arguments: tuple) -> Result:
        """On a stream of its own, as captures want what they build on to have run."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, arguments: tuple) -> tuple[torch.cuda.CUDAGraph, Result]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self.pool):
            result = self.function(*arguments)
        return graph, result
