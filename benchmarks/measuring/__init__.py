"""How things are measured: one file a kind of measurement, and what they share (timing, statistics, the machine's state)."""
