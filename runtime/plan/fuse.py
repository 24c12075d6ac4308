"""Graph to steps: which nodes run as one kernel, and in what order.

A convolution (or a lone Add or activation) takes into its epilogue, as far as each value has one reader, an Add whose other
operand is already computed, an activation, and one quantizer; a max pool takes one quantizer, and runs with the convolution
before it where it alone reads that. Features are stored only where something besides the quantizer reads them. Whatever does
not fit runs as a step of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitplane.runtime.model.graph import Model
from bitplane.runtime.operators.add import Add
from bitplane.runtime.operators.base import Activation, Convolution, Node, Quantizer, Standalone
from bitplane.runtime.operators.gemm import Classifier
from bitplane.runtime.operators.global_average_pool import GlobalAveragePool
from bitplane.runtime.operators.max_pool import MaxPool
from bitplane.runtime.operators.pad_shortcut import PadShortcut


@dataclass(frozen=True, eq=False)
class Step:
    """Nodes that run as one kernel.

    Attributes:
        head: the node that makes the value.
        source: what the head reads first.
        residual: features added to it.
        activation: what is applied to it after that.
        stored: name under which the features are kept, if anything reads them.
        quantizer: makes codes of it.
        pool: the max pool that alone reads what this convolution stores, and runs with it.
    """

    head: Node
    source: str
    residual: str | None = None
    activation: Activation | None = None
    stored: str | None = None
    quantizer: Quantizer | None = None
    pool: "Step | None" = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors the step reads."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def writes(self) -> tuple[str, ...]:
        """Tensors the step makes for others."""
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


def fuse(model: Model, merge: bool = True) -> list[Step]:
    """The steps of a model, in the order they run.

    Args:
        model: a checked model.
        merge: False gives every node a step of its own, for tracing.
    """
    order = schedule(_pool_in_classifier(model.nodes) if merge else model.nodes)
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
        for name in node.reads:
            readers.setdefault(name, []).append(node)
    return readers


def _pool_in_classifier(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes with every pool that only a classifier reads left to the classifier, which takes the mean itself."""
    readers, pools = _readers(nodes), {n.output: n for n in nodes if isinstance(n, GlobalAveragePool)}
    alone = {name for name in pools if all(isinstance(r, Classifier) for r in readers[name])}
    return tuple(
        replace(n, source=pools[n.source].source) if isinstance(n, Classifier) and n.source in alone else n
        for n in nodes
        if n.output not in alone
    )


def _grow(node: Node, readers: dict[str, list[Node]], ready: set[str], merge: bool) -> tuple[Step, list[str]]:
    """The step that starts at `node`, and the outputs of the nodes merged into it."""
    if isinstance(node, Quantizer):
        return Step(node, node.source, quantizer=node), []
    if isinstance(node, Standalone):
        return Step(node, node.source, stored=node.output), []
    if isinstance(node, MaxPool):
        quantizer, stored, merged = _end(node.output, readers, merge)
        return Step(node, node.source, stored=stored, quantizer=quantizer), merged
    step, value, merged = _grow_epilogue(node, readers, ready, merge)
    quantizer, stored, more = _end(value, readers, merge)
    step, merged = replace(step, stored=stored, quantizer=quantizer), [*merged, *more]
    reader = readers[value][0] if merge and len(readers[value]) == 1 else None
    if isinstance(reader, MaxPool) and isinstance(node, Convolution) and _can_follow_a_pool(step):
        pool, more = _grow(reader, readers, ready, merge)
        return replace(step, pool=pool), [*merged, reader.output, *more]
    return step, merged


def _grow_epilogue(node: Node, readers: dict[str, list[Node]], ready: set[str], merge: bool) -> tuple[Step, str, list[str]]:
    """The step of a convolution, Add or activation with what follows it, the value it ends in, and what was merged."""
    residual = node.other if isinstance(node, Add) else None
    activation = node if isinstance(node, Activation) else None
    value, merged = node.output, list[str]()
    while merge and len(readers[value]) == 1 and activation is None:
        (reader,) = readers[value]
        if isinstance(reader, Add) and residual is None and isinstance(node, Convolution):
            other = reader.other if reader.source == value else reader.source
            if other not in ready:
                break
            residual = other
        elif isinstance(reader, Activation):
            activation = reader
        else:
            break
        value = reader.output
        merged.append(value)
    return Step(node, node.source, residual, activation), value, merged


def _end(value: str, readers: dict[str, list[Node]], merge: bool) -> tuple[Quantizer | None, str | None, list[str]]:
    """The quantizer that joins, the name under which features stay, and what was merged."""
    quantizer = next((r for r in readers[value] if isinstance(r, Quantizer)), None) if merge else None
    others = [r for r in readers[value] if r is not quantizer]
    return quantizer, value if others or quantizer is None else None, [] if quantizer is None else [quantizer.output]


def _can_follow_a_pool(step: Step) -> bool:
    """Whether the largest of a window may be taken before the activation."""
    is_monotone = step.activation is None or step.activation.is_monotone
    return is_monotone and step.residual is None and step.quantizer is None
