"""Delivery among processes that come, go, are killed and stopped: an oracle says what each must get."""

import pytest
from peers import Peer, joined

from fastcomm import Bus
from fastcomm.testing.chaos import Campaign

SEEDS = range(3)  # each theme once: agents of no group, members of groups, both
SLICE = 0.6  # seconds, longer than the scan of all participants takes to come round


@pytest.mark.timeout(300)
def test_of_random_agents_is_as_the_oracle_says() -> None:
    """A violation says which seed it was and how to repeat it; longer: -m fastcomm.testing.chaos."""
    campaign = Campaign("delivery", seed=SEEDS.start)
    campaign.with_hooks = False
    with campaign.prepared():
        for _ in SEEDS:
            campaign.run_round()
    assert campaign.rounds["delivery"] == len(SEEDS)
    assert campaign.tally.random_kills > 10
    assert campaign.tally.stops > 0
    assert campaign.checked["received"] > 2_000


class TestStoppedAgents:
    """By SIGSTOP, somewhere outside of a claim."""

    def test_are_not_taken_for_dead_and_delay_nobody_who_does_not_need_their_inbox(self, bus: Bus) -> None:
        with Peer(joined(bus.name, "stopped", "theirs")) as peer, bus.join("a") as a, bus.join("b") as b:
            b.subscribe("ours")
            peer.stop()
            for i in range(2000):
                a.publish("ours", i)
                assert b.receive(60).data == i
            for name in ("c", "d"):  # looks after the dead
                bus.join(name).close()
            with pytest.raises(Exception, match="no message came within"):
                b.receive(SLICE)
            assert next(one.alive for one in bus.agents() if one.name == "stopped")
            assert a.publish("theirs", "kept") == 1
            peer.go_on()
            assert peer.do("agent.receive(60).data") == "kept"
            assert peer.do("agent.publish('ours', 1)") == 1

    def test_that_waited_for_an_inbox_do_not_deliver_to_its_next_owner(self, small_bus: Bus) -> None:
        with Peer(joined(small_bus.name, "stopped")) as peer, small_bus.join("other") as other:
            other.subscribe("full")
            former = small_bus.join("former")
            former.subscribe("full")
            peer.do("while True:\n  try: agent.publish('full', bytes(100), timeout=0)\n  except Full: break")
            slot = former._slot
            peer.send("agent.publish('full', bytes(99) + b'!', timeout=60)")
            while other.receive(60).data[-1] == 0:  # it waits for the former's inbox now
                pass
            peer.stop()
            former.close()
            with small_bus.join("next") as following:
                assert following._slot == slot
                following.subscribe(">")
                peer.go_on()
                assert peer.result() == 1
                assert following.try_receive() is None
                assert peer.do("agent.publish('full', 'new')") == 2
                assert following.receive(60).data == other.receive(60).data == "new"


class TestSubscribingWhileMessagesFlow:
    def test_loses_and_doubles_nothing_for_those_who_were_there(self, bus: Bus) -> None:
        """An agent changes its other subscriptions all the time, which match the same subject."""
        count = 5000
        with Peer(joined(bus.name, "publisher")) as peer, bus.join("reader") as reader:
            reader.subscribe("x")
            peer.send(f"[agent.publish('x', i, timeout=60) for i in range({count})] == [1] * {count}")
            got: list[int] = []
            while len(got) < count:
                with reader.subscribe(">"), reader.subscribe("*"):
                    got += [message.data for message in reader.receive_many(20, 60)]
            assert got == list(range(count))
            assert peer.result()
            assert reader.try_receive() is None
            stats = reader.stats()
            assert (stats.received, stats.unwanted, stats.lost) == (count, 0, 0)
