"""Graph to steps: which nodes run as one kernel, and in what order.

A convolution (or a lone Add, Relu or PRelu) takes into its epilogue, as far as each value has one reader, an Add whose other
operand is already computed, a Relu or PRelu, and one quantizer; a max pool takes one quantizer, and runs with the convolution
before it where it alone reads that. Features are stored only where something besides the quantizer reads them. Whatever does
not fit runs as a step of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.model import (
    Add,
    AveragePool,
    Classifier,
    Conv,
    FakeQuantize,
    FloatConv,
    Load,
    MaxPool,
    Model,
    Node,
    Output,
    PadShortcut,
    PRelu,
    Quantizer,
    Relu,
    sources,
)


@dataclass(frozen=True)
class Step:
    """Nodes that run as one kernel.

    Attributes:
        head: the node that makes the value.
        residual: features added to it.
        relu: whether it is rectified after that.
        slope: float32 [C], what it is multiplied by where it is negative then, or None.
        stored: name under which the features are kept, if anything reads them.
        quantizer: makes codes of it.
        pool: the max pool that alone reads what this convolution stores, and runs band by band with it.
    """

    head: Node
    residual: str | None = None
    relu: bool = False
    slope: NDArray[np.float32] | None = None
    stored: str | None = None
    quantizer: Quantizer | None = None
    pool: "Step | None" = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors the step reads."""
        first = sources(self.head)[:1]
        return first if self.residual is None else (*first, self.residual)

    @property
    def writes(self) -> tuple[str, ...]:
        """Tensors the step makes."""
        if self.pool is not None:
            return self.pool.writes
        out = () if self.stored is None else (self.stored,)
        return out if self.quantizer is None else (*out, self.quantizer.output)


def schedule(nodes: tuple[Node, ...]) -> list[Node]:
    """Put every `PadShortcut` right after its producer: the Add that reads it can then join the convolution's epilogue."""
    early: dict[str, list[Node]] = {}
    for node in nodes:
        if isinstance(node, PadShortcut):
            early.setdefault(node.source, []).append(node)
    out: list[Node] = []

    for node in nodes:
        if isinstance(node, PadShortcut):
            continue
        pending: list[Node] = [node]  # a stack, not recursion: a file may chain any number of shortcuts
        while pending:
            out.append(pending.pop())
            pending.extend(reversed(early.get(out[-1].output, ())))
    return out


def lower(model: Model, merge: bool = True) -> list[Step]:
    """The steps of a model, in the order they run.

    Args:
        model: a checked model.
        merge: False gives every node a step of its own, for tracing.
    """
    order = schedule(_without_pool(model.nodes) if merge else model.nodes)
    readers = _readers(order)
    ready: set[str] = {model.input_name}
    merged: set[str] = set()
    steps: list[Step] = []
    for node in order:
        if node.output in merged:
            continue
        step = _grow(node, readers, ready, merge)
        merged.update(step[1])
        ready.update(step[0].writes)
        steps.append(step[0])
    return steps


def _readers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {node.output: [] for node in nodes}
    for node in nodes:
        for name in sources(node):
            readers.setdefault(name, []).append(node)
    return readers


def _without_pool(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes with every pool that only a classifier reads left to the classifier, which takes the mean itself."""
    readers, pools = _readers(nodes), {n.output: n for n in nodes if isinstance(n, AveragePool)}
    alone = {name for name in pools if all(isinstance(r, Classifier) for r in readers[name])}
    return tuple(
        replace(n, source=pools[n.source].source) if isinstance(n, Classifier) and n.source in alone else n
        for n in nodes
        if n.output not in alone
    )


def _grow(node: Node, readers: dict[str, list[Node]], ready: set[str], merge: bool) -> tuple[Step, list[str]]:
    """The step that starts at `node`, and the outputs of the nodes merged into it."""
    if isinstance(node, Quantizer):
        return Step(node, quantizer=node), []
    if isinstance(node, Classifier | Output):
        return Step(node), []
    if isinstance(node, MaxPool):
        quantizer = next((r for r in readers[node.output] if isinstance(r, Quantizer)), None) if merge else None
        stored = node.output if quantizer is None or len(readers[node.output]) > 1 else None
        return Step(node, stored=stored, quantizer=quantizer), [] if quantizer is None else [quantizer.output]
    if isinstance(node, PadShortcut | Load | FakeQuantize | AveragePool):
        return Step(node, stored=node.output), []
    residual = node.sources[1] if isinstance(node, Add) else None
    relu, slope = isinstance(node, Relu), node.slope if isinstance(node, PRelu) else None
    value, merged = node.output, list[str]()
    while merge and len(readers[value]) == 1 and not relu and slope is None:
        (reader,) = readers[value]
        if isinstance(reader, Add) and residual is None and isinstance(node, Conv | FloatConv):
            other = reader.sources[1] if reader.sources[0] == value else reader.sources[0]
            if other not in ready:
                break
            residual = other
        elif isinstance(reader, Relu):
            relu = True
        elif isinstance(reader, PRelu):
            slope = reader.slope
        else:
            break
        value = reader.output
        merged.append(value)
    quantizer = next((r for r in readers[value] if isinstance(r, Quantizer)), None) if merge else None
    others = [r for r in readers[value] if r is not quantizer]
    if quantizer is not None:
        merged.append(quantizer.output)
    stored = value if others or quantizer is None else None
    step = Step(node, residual, relu, slope, stored, quantizer)
    plain = residual is None and slope is None and quantizer is None
    alone = others[0] if merge and plain and len(others) == 1 else None
    if isinstance(alone, MaxPool) and isinstance(node, Conv | FloatConv):
        pool, more = _grow(alone, readers, ready, merge)
        return replace(step, pool=pool), [*merged, alone.output, *more]
    return step, merged
