"""Columns of the instruction table that the walker reads, one int64 row an instruction, and the values they take.

`bitplane.runtime.instructions` writes them: a field of an instruction goes into the column of its name, so a column means the
same in every instruction. Addresses are byte offsets: into the arena (A), or into the constants (C). Unused columns are 0.
Strides are in bytes.
"""

OP = 0  # one of the OP_ values
TILE = 1  # index into `shapes.TILES`
SOURCE_KIND = 2  # what the epilogue reads: one of the FROM_ values
SOURCE = 3  # A: first tap of output pixel (0, 0)
SOURCE_PLANE = 4  # stride between bit-planes
SOURCE_PLANES = 5  # number of bit-planes
SOURCE_ROW = 6  # stride between kernel rows
SOURCE_STEP_Y = 7  # stride between output rows
SOURCE_STEP_X = 8  # stride between output pixels
KERNEL_ROWS = 9
KERNEL_WORDS = 10  # words of one kernel row
WEIGHTS = 11  # C: lane-packed weights
WEIGHTS_GROUP = 12  # stride between channel groups
GROUPS = 13  # channel groups
HEIGHT = 14  # output rows
WIDTH = 15  # output pixels of a row
MODE = 16  # one of the MODE_ values
LIMITS = 17  # C: accumulator thresholds of the modes MODE_ONE, MODE_TWO and MODE_FOURS
LIMITS_GROUP = 18
CODES = 19  # A: output codes, pixel (0, 0)
CODES_PLANE = 20
CODES_ROW = 21
CODES_PIXEL = 22
CODES_PLANES = 23
VECTORS = 24  # vectors of 16 output channels in a group
OFFSET = 25  # C: int32, added to the accumulator
SCALE = 26  # C: float32
BIAS = 27  # C: float32
RESIDUAL = 28  # A: float32 features
RESIDUAL_ROW = 29
RESIDUAL_PIXEL = 30
FEATURES = 31  # A: float32 features
FEATURES_ROW = 32
FEATURES_PIXEL = 33
RELU = 34
QUANT = 35  # one of the QUANT_ values
LEVELS = 36  # C: float32 thresholds
LEVELS_STRIDE = 37  # stride between thresholds of one channel
STEP = 38  # C: float32, the quantizer's step
SCRATCH = 39  # A: of the first thread: rows of accumulators, a row of a pool, or means and logits
STORE = 40  # whether features are written
CHANNELS = 41
SOURCE_HEIGHT = 42
SOURCE_WIDTH = 43
PAD_TOP = 44
PAD_LEFT = 45
STRIDE_Y = 46
STRIDE_X = 47
KERNEL_WIDTH = 48
SOURCE_CHANNELS = 49
GROUP_CHANNELS = 50  # rows of the weight matrix in a group
MEAN = 51  # C: float32
STD = 52  # C: float32
LOW = 53  # C: float32, smallest and largest value of a quantizer, one after the other
SPAN = 54  # words whose sums narrow lanes hold, for tiles that count in narrow lanes
TABLE = 55  # C: tables of a look-up tile, 16 bytes for each value of a byte of codes
BAND = 56  # of a convolution: rows of the pool in the next row of the table that run at a time (0: none); of that pool: -1
SCRATCH_PART = 57  # bytes of one thread's scratch
PRELU = 58  # whether negative features are multiplied by a slope
SLOPE = 59  # C: float32
BAND_ROWS = 60  # rows of a convolution's features that a thread keeps, where BAND is not 0
FRONT = 61  # zero channels put in front
CLASSES = 62
IS_INT8 = 63  # whether a classifier's weights are int8, with a float32 unit of each class
UNIT = 64  # C: float32
NORMALIZES = 65  # whether the input is pixels, which have a mean and a standard deviation
ROW_BYTES = 66
BY_SIGN = 67  # whether a quantizer chooses one of two values by the sign
CLIP = 68  # whether features are clipped
CLIP_LIMITS = 69  # C: float32, smallest and largest feature
SIGN1 = 70  # of plane pairs: what the sums over the two sign planes count, in twice the accumulator
SIGN2 = 71
FIELDS = 72

ARGUMENTS = 11
"""Arguments of the walker, all int64."""

# Words of the memory that the threads of a call share, int64: of the whole, and of one mailbox.
ARRIVALS = 0  # at barriers
DONE = 16  # helpers that have walked to the end
MAILBOXES = 32  # the first mailbox
MAILBOX = 32  # words of one: its sequence number, ARGUMENTS arguments, and
MAIL_TAKEN = 16  # the sequence number of the last arguments taken

OP_IMAGE = 0
OP_CONV = 1
OP_ELEMENTWISE = 2
OP_MAX_POOL = 3
OP_PAD_SHORTCUT = 4
OP_CLASSIFIER = 5
OP_LOAD = 6
OP_FAKE_QUANTIZE = 7
OP_AVERAGE_POOL = 8
OP_OUTPUT = 9

FROM_ACCUMULATORS = 0
FROM_PLANE_PAIRS = 1
FROM_FEATURES = 2
FROM_SUMS = 3  # float32 products, bias to be added
SOURCES = (FROM_ACCUMULATORS, FROM_PLANE_PAIRS, FROM_FEATURES, FROM_SUMS)

MODE_ROW = 0  # accumulators go through a scratch row to the float epilogue
MODE_ONE = 1  # one threshold in registers: 1-bit codes
MODE_TWO = 2  # three thresholds in registers: 2-bit codes
MODE_FOURS = 3  # the same, four codes a byte
MODE_POOL = 4  # accumulators are stored as features are, for the max pool in the next row

QUANT_NONE = 0
QUANT_ONE = 1  # one float threshold
QUANT_TWO = 2  # three float thresholds
QUANT_DIVIDE = 3  # divide by the step and round
QUANT_BYTES = 4  # the same, one byte a code instead of planes
QUANT_FOURS = 5  # three float thresholds, four codes a byte
QUANTS = (QUANT_NONE, QUANT_ONE, QUANT_TWO, QUANT_DIVIDE, QUANT_BYTES, QUANT_FOURS)
