"""The level sets that weights can be trained to: those of the packed format, and a user's own."""

from bitplane.format.levels import LEVEL_SETS, LevelSet
from bitplane.train.tables import Table

WEIGHT_LEVELS: Table[str, LevelSet] = Table("weights", LEVEL_SETS, LevelSet)
"""Level sets by the names that `weights` and `layer_weights` take."""


def register_level_set(levels: LevelSet) -> None:
    """Let `weights` and `layer_weights` name a level set of your own, in every process that calls this first.

    Args:
        levels: the set, under its own name. `bitplane.level_set` makes one of plain numbers, which the packed format holds as
            a sum of at most two planes. Any other symmetric set can be trained; its layers are exported as ordinary
            convolutions.

    Raises:
        ConfigError: the name cannot be used or is taken.
    """
    WEIGHT_LEVELS.register(levels.name, levels)
