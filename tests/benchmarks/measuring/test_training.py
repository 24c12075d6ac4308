from bitplane.benchmarks.measuring.training import measure_training
from bitplane.train.methods import METHODS


def test_every_method_is_measured_beside_the_step_it_is_part_of():
    rows = {r.part: r for r in measure_training(batch_size=4, rounds=1)}
    assert set(rows) == {"forward and backward", "forward and backward, bfloat16", "plain optimizer", *METHODS}
    whole = rows["forward and backward"].ms + rows["plain optimizer"].ms
    for name in METHODS:
        assert rows[name].ms > 0
        assert rows[name].added == (rows[name].ms - rows["plain optimizer"].ms) / whole
