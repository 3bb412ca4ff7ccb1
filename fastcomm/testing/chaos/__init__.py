"""The kill campaign: processes that use rings, queues and buses are killed and stopped, and an oracle checks
what the others were given.

    python -m fastcomm.testing.chaos --minutes 10 --seed 1 --what all

A campaign is a row of rounds, each with a seed of its own: the first has the campaign's, the next one more.
A round forks producers and consumers of one RingBuffer, Queue or Bus, and lets each live as its plan says:
killed (SIGKILL) at a random moment; on the debug build also at a fault hook, a named step of the protocol;
stopped (SIGSTOP) and continued; or gone by itself after some calls. Another takes its place. Before, founders
are killed as they create and remove the same segment. In the end all leave, or all are killed.

What must hold, and is checked in every round:

1. What put(), put_many() or publish() returned from arrives exactly once; on a bus, at every live subscriber.
2. In the order of its producer.
3. Whole: sizes of 0, 1, around the borders of cells, several cells, items that travel in a file.
4. What a killed call was sending arrives at most once, whole or not at all; of a batch the first part.
5. What a killed get() was taking is gone with it or comes to the next consumer, once; nothing else is lost.
   What was looked at with peek() and not given back comes again.
6. Whoever is only stopped loses nothing and is not fenced: any exception that isn't foreseen ends the
   campaign.
7. Nobody hangs: once the faults are over every producer gets something sent, and all leave when asked to.
8. A subscriber that joins again under its name gets nothing that was meant for its predecessor.
9. Counters agree: claims given up, items discarded, tasks unfinished, participants; the strings that a bus
   has learned are whole, each once.
10. On a bus whose agents subscribe and unsubscribe as they like: what was published while a subscription was
   there comes by it, what was published before or after does not; of a group one member gets each message,
   or it was discarded and counted, or in the hands of a killed member; it comes to two only as the groups'
   guarantee says (fastcomm/_heirs.py); publish() has reached as many as there were.
11. Nothing is left in the directory of segments: no file, FIFO or item.

The same seed gives the same plan: shapes, lives, faults, sizes, order of calls. Which step a call is at when
it is hit, and which of two calls is first, is up to the scheduler of the system: a violation need not come
again at the first attempt.
"""

from fastcomm.testing.chaos.campaign import Campaign as Campaign
from fastcomm.testing.chaos.history import Violation as Violation

__all__ = ["Campaign", "Violation"]
