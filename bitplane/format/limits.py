"""The largest sizes that a packed file may ask for (`FORMAT.md`, Reading a file from a stranger).

They are checked in exact integer arithmetic before anything of that size is allocated.
"""

MAX_FILE = 1 << 30
"""Bytes of the largest file read."""
MAX_NODES = 1 << 16
"""Most nodes, constants, functions or metadata entries of a file."""
MAX_ELEMENTS = 1 << 28
"""Most elements of a tensor of one image, and of all weights together, unpacked, with their channels padded."""
MAX_CHANNELS = 1 << 20
"""Most channels of a tensor: a file can ask for them without holding a weight for each."""
MAX_STRIDE = 1 << 16
"""Largest stride."""
MAX_SIDE = 1 << 14
"""Pixels of a side, and channels, of an image."""
MAX_WORK = 1 << 42
"""Most operations (multiply-adds, comparisons of a pool, elements of anything else) that one image may take: some minutes."""
MAX_MEMORY = 1 << 32
"""Most bytes of constants and of one arena."""
PIXEL_WEIGHT_LIMIT = 64
"""Largest magnitude of a `PixelConv` weight: 2 * 255 * 64 fits 16 bits."""
LEVEL_LIMIT = 64
"""Largest integer of a level set of `FourLevelConv`, for the same reason."""
