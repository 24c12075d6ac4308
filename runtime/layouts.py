"""How values lie in memory: codes in bit-planes, bytes or fours inside a halo, features channels-last."""

from dataclasses import dataclass

ALIGN = 64
"""Bytes of a cache line, and of the widest vector."""

BLOCK = 16
"""Channels of an epilogue vector; features and weights are padded to multiples of it."""

BYTES, FOURS = 8, 2
"""Bits of a code where codes lie side by side (`CodesLayout.code_bits`)."""


def round_up(size: int, unit: int = ALIGN) -> int:
    """The next multiple of `unit`; by default whole cache lines."""
    return -(-size // unit) * unit


def pad_channels(channels: int) -> int:
    """Channels of features in memory: the next multiple of 16."""
    return round_up(channels, BLOCK)


@dataclass(frozen=True)
class CodesLayout:
    """Codes in memory, [plane][H + 2 halo][W + 2 halo][words].

    Attributes:
        channels: bits of a pixel in one plane that mean something.
        height: rows without halo.
        width: pixels of a row without halo.
        planes: planes of bits; 1 where a pixel's codes lie side by side.
        halo: zero pixels around.
        bits: bits of a word.
        code_bits: bits of a code in a word: 1 in bit-planes, 8 where a byte is a code ("bytes"), 2 where a byte holds four
            codes of 1 or 2 bits, the first lowest ("fours").
    """

    channels: int
    height: int
    width: int
    planes: int
    halo: int
    bits: int
    code_bits: int = 1

    @property
    def words(self) -> int:
        """Words of a pixel."""
        return -(-self.channels // self.bits)

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.words * self.bits // 8

    @property
    def row(self) -> int:
        """Bytes of a row with its halo."""
        return (self.width + 2 * self.halo) * self.pixel

    @property
    def plane(self) -> int:
        """Bytes between two planes."""
        return round_up((self.height + 2 * self.halo) * self.row)

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.planes * self.plane

    def at(self, y: int, x: int) -> int:
        """Byte offset of pixel (y, x), which may lie in the halo."""
        return (y + self.halo) * self.row + (x + self.halo) * self.pixel


@dataclass(frozen=True)
class FeaturesLayout:
    """Float32 features [H][W][channels], channels a multiple of 16."""

    channels: int
    height: int
    width: int

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.channels * 4

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.width * self.pixel

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.height * self.row


Layout = CodesLayout | FeaturesLayout


def pixels_layout(channels: int, height: int, width: int, halo: int) -> CodesLayout:
    """Uint8 pixels, channels last, inside a halo: a pixel is `channels` words of 8 bits."""
    return CodesLayout(8 * channels, height, width, 1, halo, 8, BYTES)


def haloed_features(layout: FeaturesLayout, halo: int) -> CodesLayout:
    """Features as words of 32 bits, inside a halo."""
    return CodesLayout(32 * layout.channels, layout.height, layout.width, 1, halo, 32)
