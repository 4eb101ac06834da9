"""How cameras take turns on one network."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from stremn_ros.stream.worker import Worker

TIMEOUT = 60.0


class Clock:
    """Time that passes only in jobs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Client:
    """Has `left` pieces of work that take `cost` seconds each (of the clock)."""

    def __init__(self, name, clock, done, cost=1.0, left=0):
        self.name, self.clock, self.done = name, clock, done
        self.cost, self.left = cost, left
        self.error = None

    def has_work(self):
        return self.left > 0

    def has_urgent(self):
        return False

    def take_work(self):
        self.left -= 1
        return self._work

    def _work(self):
        self.clock.now += self.cost
        self.done.append(self.name)
        if self.error is not None:
            raise self.error


class Rig:
    def __init__(self):
        self.clock, self.done, self.complaints = Clock(), [], []
        self.worker = Worker(self.complaints.append, self.clock)

    def client(self, name, **options):
        made = Client(name, self.clock, self.done, **options)
        self.worker.add(made)
        return made

    def give(self, **counts):
        """Work for clients, all at one time; waits until all of it is done."""
        expected = len(self.done) + sum(counts.values())
        with self.worker.condition:
            for client in list(self.worker._spent):
                client.left += counts.get(client.name, 0)
            self.worker.condition.notify_all()
        end = time.monotonic() + TIMEOUT
        while len(self.done) < expected:
            assert time.monotonic() < end, self.done
            time.sleep(0.001)


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.worker.close()


def test_equal_clients_take_turns(rig):
    rig.client("a")
    rig.client("b")
    rig.client("c")
    rig.give(a=3, b=3, c=3)
    assert [sorted(rig.done[n : n + 3]) for n in (0, 3, 6)] == [["a", "b", "c"]] * 3


def test_a_client_whose_work_takes_long_gets_no_more_time_than_another(rig):
    rig.client("slow", cost=5.0)
    rig.client("quick", cost=1.0)
    rig.give(slow=4, quick=20)
    # while both have work, about five quick pieces for each slow one
    places = [n for n, name in enumerate(rig.done) if name == "slow"]
    between = [second - first - 1 for first, second in itertools.pairwise(places)]
    assert between == [5, 5, 5]


def test_who_had_nothing_to_do_saves_up_no_time(rig):
    rig.client("busy")
    rig.client("idle")
    rig.give(busy=50)
    rig.done.clear()
    rig.give(busy=10, idle=10)
    # one piece may come first, but no row of them
    assert "idle idle idle" not in " ".join(rig.done[:19])
    assert rig.done[:10].count("busy") >= 4


def test_one_that_comes_later_takes_its_share_from_then_on(rig):
    rig.client("first")
    rig.give(first=30)
    rig.client("second")
    rig.done.clear()
    rig.give(first=10, second=10)
    assert rig.done[:10].count("first") >= 4


def test_a_job_that_fails_is_told_and_the_others_go_on(rig):
    broken = rig.client("broken")
    rig.client("sound")
    broken.error = MemoryError("no more")
    rig.give(broken=2, sound=2)
    assert sorted(rig.done) == ["broken", "broken", "sound", "sound"]
    assert rig.complaints == ["MemoryError: no more"] * 2


def test_removing_waits_for_the_job_in_hand_and_begins_no_other(rig):
    entered, go_on = threading.Event(), threading.Event()
    client = rig.client("a")
    rest = client._work

    def held():
        entered.set()
        assert go_on.wait(TIMEOUT)
        rest()

    client._work = held
    with rig.worker.condition:
        client.left = 2
        rig.worker.condition.notify_all()
    assert entered.wait(TIMEOUT)
    remover = threading.Thread(target=rig.worker.remove, args=(client,))
    remover.start()
    remover.join(0.05)
    assert remover.is_alive()
    go_on.set()
    remover.join(TIMEOUT)
    assert not remover.is_alive()
    assert (rig.done, client.left) == (["a"], 1)
    rig.worker.remove(client)  # again is no harm
