"""The typed graph of a packed file, and the checks of the whole file that make it."""
