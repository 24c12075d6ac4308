"""Workers take turns; energy is that of a call."""

from bitplane.benchmarks.measuring import machine
from bitplane.benchmarks.measuring.rounds import Measured, Turns, take_turn


class Worker:
    def ask(self, message):
        assert message == {"do": "turn", "seconds": 0.01, "least": 3}
        return {"ms": [1.0, 1.0, 1.0], "warm": 2}


def test_energy_is_divided_by_every_call_of_a_turn(monkeypatch):
    counter = iter([0, 10_000])  # microjoules
    monkeypatch.setattr(machine, "energy_uj", lambda: next(counter))
    found = Measured()
    take_turn(found, "a", Worker(), Turns(1, 0.01))
    assert found.energy == {"a": [2.0]}  # millijoules of a call
    assert found.times == {"a": [[1.0, 1.0, 1.0]]}


def test_a_counter_that_wraps_around_gives_no_energy(monkeypatch):
    counter = iter([10_000, 0])
    monkeypatch.setattr(machine, "energy_uj", lambda: next(counter))
    found = Measured()
    take_turn(found, "a", Worker(), Turns(1, 0.01))
    assert found.energy == {}
