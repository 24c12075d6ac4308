"""Names of the packed file, format version 1.4 (`FORMAT.md`): operators, inputs, metadata keys, versions.

This is their only home: `export/` writes files with these names and `runtime/` reads files by them.
"""

from bitplane.format.levels import LEVEL_SETS, LevelSet

FORMAT_VERSION = "1.4"
"""Major and minor version written; files of any 1.x are read."""
DOMAIN = "bitplane"
DOMAIN_VERSION = 1
OPSET_VERSION = 18
IR_VERSION = 8

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"

PIXEL_CONV = "PixelConv"
BINARY_CONV = "BinaryConv"
TERNARY_CONV = "TernaryConv"
QUATERNARY_CONV = "QuaternaryConv"
FOUR_LEVEL_CONV = "FourLevelConv"
QUANTIZE = "Quantize"
SIGN = "Sign"
CHANNEL_SIGN = "ChannelSign"
PAD_SHORTCUT = "PadShortcut"
NORMALIZE = "Normalize"
FAKE_QUANTIZE = "FakeQuantize"
BIPOLAR = "Bipolar"
BINARY_WEIGHT = "BinaryWeight"
TERNARY_WEIGHT = "TernaryWeight"
QUATERNARY_WEIGHT = "QuaternaryWeight"
FOUR_LEVEL_WEIGHT = "FourLevelWeight"
INT8_WEIGHT = "Int8Weight"

CODERS = (QUANTIZE, SIGN, CHANNEL_SIGN)
"""Operators whose result is codes."""

LOW_BIT_CONV = {"binary": BINARY_CONV, "ternary": TERNARY_CONV, "quaternary": QUATERNARY_CONV}
"""Name of a level set to the convolution on codes whose weights lie in it."""

LOW_BIT_WEIGHT = {"binary": BINARY_WEIGHT, "ternary": TERNARY_WEIGHT, "quaternary": QUATERNARY_WEIGHT}
"""Name of a level set to the operator that unpacks its planes into a float weight."""

CONV_OPERATORS = (*LOW_BIT_CONV.values(), FOUR_LEVEL_CONV)
"""Convolutions on codes."""

WEIGHT_OPERATORS = (*LOW_BIT_WEIGHT.values(), FOUR_LEVEL_WEIGHT)
"""Operators that unpack planes into a float weight."""

LEVELS = {op: LEVEL_SETS[name] for operators in (LOW_BIT_CONV, LOW_BIT_WEIGHT) for name, op in operators.items()}
"""Operator with planes to its level set, where that is always the same; others have it in their attribute `levels`."""

PLANE_NAMES = {
    **{op: levels.plane_names for op, levels in LEVELS.items()},
    **dict.fromkeys((FOUR_LEVEL_CONV, FOUR_LEVEL_WEIGHT), ("sign1", "sign2")),
}
"""Operator with planes to their names; of a convolution the planes follow the codes."""

ACTIVATION_BITS = (1, 2, 4, 8)
CODE_TOPS = tuple(2**bits - 1 for bits in ACTIVATION_BITS)
"""Largest activation codes that have bit-planes."""

META_FORMAT_VERSION = "bitplane.format_version"
META_MODEL = "bitplane.model"
META_METHOD = "bitplane.method"
META_LEVEL_SET = "bitplane.level_set"
META_ACTIVATION_BITS = "bitplane.activation_bits"
META_DATASET = "bitplane.dataset"
META_CLASSES = "bitplane.classes"
META_INPUT = "bitplane.input"
META_ACCURACY = "bitplane.accuracy"
META_PLANES_SHA256 = "bitplane.planes_sha256"
META_WEIGHTS_SHA256 = "bitplane.weights_sha256"
META_CHECKPOINT_SHA256 = "bitplane.checkpoint_sha256"
META_VERIFICATION = "bitplane.verification"
META_FILE_SHA256 = "bitplane.file_sha256"

METADATA_KEYS = (
    META_FORMAT_VERSION,
    META_MODEL,
    META_METHOD,
    META_LEVEL_SET,
    META_ACTIVATION_BITS,
    META_DATASET,
    META_CLASSES,
    META_INPUT,
    META_ACCURACY,
    META_PLANES_SHA256,
    META_WEIGHTS_SHA256,
    META_CHECKPOINT_SHA256,
    META_VERIFICATION,
    META_FILE_SHA256,
)


def low_bit_operator(levels: LevelSet, *, on_codes: bool) -> tuple[str, dict[str, list[int]]]:
    """The operator whose weights lie in a level set, and the attribute that says which set it is.

    Args:
        levels: a set with planes (`LevelSet.packed`).
        on_codes: a convolution on codes; otherwise the operator that unpacks a float weight.
    """
    for name, operator in (LOW_BIT_CONV if on_codes else LOW_BIT_WEIGHT).items():
        if (LEVEL_SETS[name].base, LEVEL_SETS[name].planes) == (levels.base, levels.planes):
            return operator, {}
    return FOUR_LEVEL_CONV if on_codes else FOUR_LEVEL_WEIGHT, {"levels": list(levels.integers[2:])}
