"""The level sets that weights can be trained to: those of the packed format, and a user's own."""

from bitplane.format.levels import LEVEL_SETS, LevelSet
from bitplane.train.tables import Table

WEIGHT_LEVELS: Table[str, LevelSet] = Table("weights", LEVEL_SETS)
"""Level sets by the names that `weights` and `layer_weights` take."""


def register_level_set(levels: LevelSet) -> None:
    """Let `weights` and `layer_weights` name a level set of your own, in every process that calls this first.

    Args:
        levels: the set, under its own name. Any symmetric set can be trained. The packed format has planes for its own three
            only: layers of another set are exported as ordinary convolutions.

    Raises:
        ConfigError: the name is taken.
    """
    WEIGHT_LEVELS.register(levels.name, levels)
