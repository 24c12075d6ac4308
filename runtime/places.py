"""Where every value of a plan lies: the layout of codes and features, their place in the arena, and the constants.

An arena is the memory of one image: a row of zeros that stands in for a missing residual, a scratch part for each thread, and
the tensors, which share memory as their lives allow. Constants are the weights and what epilogues need, packed once.
"""

from dataclasses import dataclass, field

from bitplane.runtime.arena import BYTES, FOURS, Arena, CodesLayout, Constants, FeaturesLayout, round_up
from bitplane.runtime.cost import Estimate, codes_cost, store_cost
from bitplane.runtime.errors import ModelError
from bitplane.runtime.kernels.shapes import SCRATCH_BYTES, is_narrow, tiles_for
from bitplane.runtime.kernels.target import Cpu
from bitplane.runtime.memory import memory_limit
from bitplane.runtime.model import Conv, MaxPool, Model
from bitplane.runtime.packing import four_bound, pad_channels, word_bits

CLASSES = 64
"""Classes of a block of the classifier; 16 where there are no more."""

MAX_BYTES = 1 << 32
"""Most bytes of constants and of one arena; a model that asks for more is refused before the arena is allocated."""


@dataclass
class Places:
    """The memory of a plan as it is made.

    Attributes:
        model: what is planned.
        threads: that may share one image; each has its own scratch part.
        reuse: whether values share memory.
        cpu: the processor.
        codes: layout and arena offset of every tensor of codes.
        features: layout and arena offset of every stored tensor of features.
        estimates: layer name to what its convolution would cost by each product.
        zeros: offset of a row of zeros.
        scratch: offset of the scratch parts.
        scratch_part: bytes of one.
    """

    model: Model
    threads: int
    reuse: bool
    cpu: Cpu
    codes: dict[str, tuple[CodesLayout, int]] = field(default_factory=dict[str, tuple[CodesLayout, int]])
    features: dict[str, tuple[FeaturesLayout, int]] = field(default_factory=dict[str, tuple[FeaturesLayout, int]])
    estimates: dict[str, Estimate] = field(default_factory=dict[str, Estimate])

    def __post_init__(self) -> None:
        self.arena, self.constants, self._available = Arena(self.reuse), Constants(), memory_limit()
        self._readers: dict[str, list[Conv]] = {}
        for node in self.model.nodes:
            if isinstance(node, Conv):
                self._readers.setdefault(node.source, []).append(node)
        widest = max(pad_channels(t.shape[0]) for t in self.model.tensors.values())
        self.zeros = self.arena.reserve(widest * 4)
        self.scratch_part = round_up(self._scratch_bytes())
        self.scratch = self.arena.reserve(self.threads * self.scratch_part)

    def take(self, name: str) -> None:
        """Give a tensor a place."""
        tensor = self.model.tensors[name]
        if tensor.kind == "codes":
            layout = self.layout(name)
            self.codes[name] = (layout, self.arena.take_codes(layout))
        elif tensor.kind == "features":
            c, h, w = tensor.shape
            features = FeaturesLayout(pad_channels(c), h, w)
            self.features[name] = (features, self.arena.take_features(features))

    def give(self, name: str) -> None:
        """Let others have a tensor's place."""
        if name in self.codes:
            self.arena.give_codes(*self.codes[name])
        elif name in self.features:
            self.arena.give_features(*self.features[name])

    def check_size(self) -> None:
        """Refuse a plan that no machine, or not this one, has memory for."""
        values, constants = self.arena.size, self.constants.size
        if values + constants > MAX_BYTES:
            raise ModelError(
                f"{self.model.label}: needs {values} bytes for values and {constants} for constants,"
                f" more than {MAX_BYTES} together; use smaller images"
            )
        if self.threads * values + constants > self._available:
            raise ModelError(
                f"{self.model.label}: needs {values} bytes for values of each of {self.threads} threads and {constants} for"
                f" constants, this process can have {self._available}; use smaller images or fewer threads"
            )

    def layout(self, name: str) -> CodesLayout:
        """Layout of codes: word size and halo by the convolutions that read them."""
        tensor = self.model.tensors[name]
        readers = self._readers.get(name, [])
        channels, height, width = tensor.shape
        halo = max((p for n in readers for p in n.pads), default=0)
        sums = max((n.weight_shape[1] * n.weight_shape[2] * channels * (2**tensor.bits - 1) for n in readers), default=0)
        layouts = {"popcount": CodesLayout(channels, height, width, tensor.bits, halo, word_bits(channels, sums))}
        if tensor.bits > 1:
            layouts["dot"] = CodesLayout(8 * pad_channels(channels), height, width, 1, halo, 8, BYTES)
        if tensor.bits <= 2 and is_narrow(self.cpu) and all(self._fits_look_up(n, tensor.bits) for n in readers):
            layouts["look_up"] = CodesLayout(2 * pad_channels(channels), height, width, 1, halo, 8, FOURS)
        costs: dict[str, list[float]] = {product: [] for product in layouts}
        for n in readers:
            size = self.model.tensors[n.output].shape[1:]
            for product, layout in layouts.items():
                stored = store_cost(layout, channels) / len(readers)  # once, for all of them
                costs[product].append(codes_cost(n, layout, tensor.bits, *size, self.cpu) + stored)
            self.estimates[n.name] = Estimate(**{product: found[-1] for product, found in costs.items()})
        return layouts[min(layouts, key=lambda product: sum(costs[product]))]

    @staticmethod
    def _fits_look_up(conv: Conv, bits: int) -> bool:
        """Whether 16 bits hold a look-up tile's sum, with one value to spare for "never"."""
        _, kh, kw, c = conv.weight_shape
        return four_bound(conv.op, bits) * kh * kw * pad_channels(c) // 4 < 2**15 - 1

    def _scratch_bytes(self) -> int:
        widths = [t.shape[2] for t in self.model.tensors.values()]
        channels = [(pad_channels(t.shape[0]) + CLASSES) * 4 for t in self.model.tensors.values()]
        pooled = [m.output for m in self.model.nodes if isinstance(m, MaxPool)]
        rows = [pad_channels(t.shape[0]) * t.shape[2] * 4 for t in (self.model.tensors[name] for name in pooled)]
        return max(SCRATCH_BYTES, max(widths) * max(t.group for t in tiles_for(self.cpu)) * 4, *channels, *rows)
