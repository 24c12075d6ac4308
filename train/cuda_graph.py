"""A training step's forward and backward pass as a CUDA graph.

Networks for 32x32 images launch hundreds of kernels a step that each run for a few microseconds: launched one by one they
leave the device idle most of the time. A graph launches them at once. The optimizer's step stays outside: its learning rate
and sharpness change every step, and its few launches overlap the graph that runs meanwhile.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

WARMUP = 3
"""Passes before capture, in which libraries choose algorithms and allocate workspaces; torch's guide to CUDA graphs has 3."""


class GraphedPass:
    """Record `compute` once and replay it for every batch.

    The parameters' gradients are tensors of the graph, overwritten by each replay: nothing may set them to None or replace
    them between passes.

    Args:
        compute: computes gradients of a batch, int64 labels [B] of uint8 images [B, C, H, W], and returns a float32 tensor.
            Must not wait for the device, nor look at numbers that change between batches.
        model: the module whose buffers `compute` changes.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> None:
        self.compute = compute
        self.model = model
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images = self.labels = self.result = torch.empty(0)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run the pass on a batch; the result is overwritten by the next pass."""
        if self.graph is None or images.shape != self.images.shape:
            self._capture(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        assert self.graph is not None
        self.graph.replay()
        return self.result

    def forget(self) -> None:
        """Record again at the next batch: `compute` does other operations from now on."""
        self.graph = None

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self.forget()
        self.images, self.labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        kept = {k: v.clone() for k, v in self.model.named_buffers()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self.compute(self.images, self.labels)
        torch.cuda.current_stream().wait_stream(stream)
        # Gradients that the capture itself allocates belong to the graph's memory.
        for p in self.model.parameters():
            p.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.result = self.compute(self.images, self.labels)
        with torch.no_grad():
            for k, v in self.model.named_buffers():
                v.copy_(kept[k])
        self.graph = graph
