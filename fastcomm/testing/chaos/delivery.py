"""What must hold of a bus's deliveries, from the journals of all its agents.

Times are those of the journals: a call took effect at some moment between its two. So a subscription surely
is there from the return of subscribe() to the beginning of unsubscribe(), close(), or the kill; and it may
be there from the beginning of subscribe() until unsubscribe() or close() has returned, or whoever joined
next under the dead one's name has. What is published wholly within the former must arrive, what is
published wholly outside of the latter must not; all else may, once.
"""

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fastcomm.testing.chaos.history import Violation
from fastcomm.testing.chaos.journal import CLOSE, NEVER, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Call, Given

UNBOUNDED = 1 << 40

SUBJECTS = tuple(f"delivery.{first}.{second}" for first in "ab" for second in "xyz")
PATTERNS = ("delivery.>", "delivery.a.*", "delivery.*.x", "delivery.b.y", "*.b.>", "delivery.*.z")
GROUPS = (None, "one", "two")


def matches(pattern: str, subject: str) -> bool:
    """NATS's rules, written down as simply as they can be."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        head = wanted[:-1]
        return len(tokens) > len(head) and all(w in ("*", t) for w, t in zip(head, tokens, strict=False))
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


MATCHED = [frozenset(n for n, subject in enumerate(SUBJECTS) if matches(one, subject)) for one in PATTERNS]
"""The subjects that each pattern matches, by their numbers."""


class Life(NamedTuple):
    """An agent, as its journal and who killed it tell.

    in_hand: how many messages of groups may be gone with it; drops: its inbox drops what it has no room for;
    gone_by: when nobody sends to it any more, whatever it did not do itself.
    """

    number: int
    who: str
    calls: Sequence[Call]
    given: Sequence[Given]
    killed_at: int = NEVER
    gone_by: int = NEVER
    in_hand: int = 0
    drops: bool = False
    complete: bool = False
    counters: dict[str, int] = {}  # noqa: RUF012 - of a complete one


class Interest(NamedTuple):
    """A subscription; surely there from `since` to `until`, perhaps from `earliest` to `latest`."""

    subjects: frozenset[int]
    group: int
    earliest: int
    since: int
    until: int
    latest: int

    def surely(self, call: Call) -> bool:
        return self.since < call.began and call.ended <= self.until

    def perhaps(self, call: Call) -> bool:
        return self.earliest < call.ended and call.began < self.latest


class Delivered(NamedTuple):
    """What was found right. gone: of groups' messages; twice: those that came to two members, as they may."""

    sent: int
    received: int
    gone: int
    twice: int


def interests(life: Life) -> list[Interest]:
    """In the order of its calls of subscribe()."""
    closing = next((call for call in life.calls if call.kind == CLOSE), None)
    until = min(life.killed_at, NEVER if closing is None else closing.began)
    latest = life.gone_by if closing is None or closing.ended == NEVER else closing.ended
    found = [
        Interest(MATCHED[call.what[0]], call.what[1], call.began, call.ended, until, latest)
        for call in life.calls
        if call.kind == SUBSCRIBE
    ]
    for call in life.calls:
        if call.kind == UNSUBSCRIBE:
            which = call.what[0] - 1
            found[which] = found[which]._replace(until=min(until, call.began), latest=min(latest, call.ended))
    return found


class Reader:
    """A life as a receiver: its interests, and what it was given by which of them."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.interests = interests(life)
        self.direct: dict[int, list[int]] = defaultdict(list)  # by author: sequence numbers as they came
        self.sorted: dict[tuple[int, int], list[int]] = defaultdict(list)  # by group (0: none) and author
        for author, sequence, number in life.given:
            if number == 0:
                self.direct[author].append(sequence)
            self.sorted[self._group(author, sequence, number), author].append(sequence)
        for (group, author), came in self.sorted.items():
            came.sort()
            twice = [one for one, other in itertools.pairwise(came) if one == other]
            if twice and not group:
                raise Violation(f"doubled: {life.who} was given {twice[:10]} of author {author} twice")

    def _group(self, author: int, sequence: int, number: int) -> int:
        if number == 0:
            return 0
        if number > len(self.interests) or self.interests[number - 1].group == 0:
            raise Violation(
                f"misdelivered: {self.life.who} was given {sequence} of author {author} by its subscription "
                f"{number}, which is of no group"
            )
        return self.interests[number - 1].group

    def concerned(self, group: int, author: int, subject: int) -> bool:
        return (group, author) in self.sorted or any(
            one.group == group and subject in one.subjects for one in self.interests
        )

    def came(self, group: int, author: int, call: Call) -> list[int]:
        """Of what that call sent: what was given by subscriptions of the group (0: none), in the order of
        sending.
        """
        first, count, *_ = call.what
        there = self.sorted.get((group, author), [])
        return there[bisect.bisect_left(there, first) : bisect.bisect_left(there, first + count)]

    def of(self, group: int, call: Call) -> list[Interest]:
        subject = call.what[2]
        return [one for one in self.interests if one.group == group and subject in one.subjects]


class Oracle:
    """Checks the lives of one round. Violation. `discarded`: what inboxes counted so, of all."""

    def __init__(self, lives: Sequence[Life], discarded: int) -> None:
        self.lives = lives
        self.discarded = discarded
        self.readers = [Reader(life) for life in lives]
        self.sent = {
            life.number: [call for call in life.calls if call.kind == PUBLISH and call.what[1]]
            for life in lives
        }
        self.priorities = {author: list(self._priorities(calls)) for author, calls in self.sent.items()}
        self.concerned: dict[tuple[int, int, int], list[Reader]] = {}
        self.missing_by_filter: Counter[int] = Counter()
        self.missing_by_drop: Counter[int] = Counter()
        self.gone = self.twice = self.twice_at_rest = 0

    def check(self) -> Delivered:
        for reader in self.readers:
            self._check_invented(reader)
            self._check_order(reader)
        for author, calls in self.sent.items():
            for call in calls:
                self._check_call(author, call)
        for reader in self.readers:
            self._check_counters(reader)
        self._check_groups()
        received = sum(len(life.given) for life in self.lives)
        sent = sum(call.what[1] for calls in self.sent.values() for call in calls)
        return Delivered(sent, received, self.gone, self.twice)

    # -------------------------------------------------------------------------------------- one agent's view

    def _check_invented(self, reader: Reader) -> None:
        for author, sequence, _ in reader.life.given:
            calls = self.sent.get(author)
            if not calls or not 1 <= sequence < calls[-1].what[0] + calls[-1].what[1]:
                raise Violation(f"invented: {reader.life.who} was given {sequence} of author {author}")

    def _check_order(self, reader: Reader) -> None:
        """By publisher and priority, of what came by no group."""
        for author, came in reader.direct.items():
            priorities = self.priorities[author]
            last: dict[int, int] = {}
            for sequence in came:
                priority = priorities[sequence]
                if sequence < last.get(priority, 0):
                    raise Violation(
                        f"out of order: {reader.life.who} was given {sequence} of author {author} after "
                        f"{last[priority]}, both of priority {priority}"
                    )
                last[priority] = sequence

    @staticmethod
    def _priorities(calls: list[Call]) -> Iterator[int]:
        """By sequence number, which goes on without a gap from one call to the next."""
        yield -1
        for call in calls:
            yield from itertools.repeat(call.what[3], call.what[1])

    # ----------------------------------------------------------------------------------- one call of publish

    def _check_call(self, author: int, call: Call) -> None:
        count = call.what[1]
        least = most = came = 0
        for reader in self._concerned(0, author, call):
            surely, perhaps = self._check_direct(reader, author, call)
            least += count * (surely and not reader.life.drops)
            most += count * perhaps
            came += len(reader.came(0, author, call))
        for group in range(1, len(GROUPS)):
            surely, perhaps, given = self._check_group(group, author, call)
            least += count * surely
            most += count * perhaps
            came += given
        if call.ended == NEVER:
            return
        if not (0 if call.full else least) <= call.result <= most:
            raise Violation(
                f"miscounted: {self._describe(author, call)} said that it reached {call.result}, expected "
                f"{least} to {most}"
            )
        if came > call.result:
            raise Violation(
                f"miscounted: {self._describe(author, call)} said that it reached {call.result}, {came} came"
            )

    def _concerned(self, group: int, author: int, call: Call) -> list[Reader]:
        key = group, author, call.what[2]
        if key not in self.concerned:
            self.concerned[key] = [reader for reader in self.readers if reader.concerned(*key)]
        return self.concerned[key]

    def _check_direct(self, reader: Reader, author: int, call: Call) -> tuple[bool, bool]:
        """(whether it surely was an inbox that the call had to reach, whether it may have been)"""
        life, mine = reader.life, reader.of(0, call)
        came = reader.came(0, author, call)
        perhaps = any(one.perhaps(call) for one in mine)
        if came and not perhaps:
            raise Violation(
                f"misdelivered: {life.who} was given {came[:10]} of {self._describe(author, call)}"
            )
        holding = [one for one in mine if one.surely(call)]
        first, count, *_ = call.what
        if not holding:
            return False, perhaps
        kept = any(one.until == min(life.killed_at, self._closing(life)) for one in holding)
        if kept and not life.drops and came != list(range(first, first + len(came))):
            raise Violation(
                f"lost: {life.who} was given {came[:10]} of {self._describe(author, call)}, not those before"
            )
        if call.full or call.ended == NEVER or len(came) == count:
            return True, perhaps
        if life.drops:
            self.missing_by_drop[life.number] += (count - len(came)) * kept
        elif not kept:
            self.missing_by_filter[life.number] += count - len(came)
        elif life.complete or self._later(reader, author, call):
            raise Violation(
                f"lost: {life.who} had subscribed, was there and was given {came[:10]} of "
                f"{self._describe(author, call)}"
            )
        return True, perhaps

    def _later(self, reader: Reader, author: int, call: Call) -> bool:
        """Whether it was given something of that author and priority that was sent later."""
        if reader.life.drops:
            return False
        there, priorities = reader.sorted.get((0, author), []), self.priorities[author]
        behind = there[bisect.bisect_left(there, call.what[0] + call.what[1]) :]
        return any(priorities[sequence] == call.what[3] for sequence in behind)

    def _closing(self, life: Life) -> int:
        return next((call.began for call in life.calls if call.kind == CLOSE), NEVER)

    def _check_group(self, group: int, author: int, call: Call) -> tuple[bool, bool, int]:
        """(whether the group surely had a member, whether it may have, how many messages it was given that
        must have been counted)
        """
        first, count, *_ = call.what
        readers = self._concerned(group, author, call)
        members = [(reader, one) for reader in readers for one in reader.of(group, call)]
        surely = any(one.surely(call) for _, one in members)
        perhaps = any(one.perhaps(call) for _, one in members)
        drops = any(reader.life.drops for reader, _ in members)
        came: Counter[int] = Counter()
        for reader in readers:
            mine = reader.came(group, author, call)
            came.update(mine)
            if mine and not any(one.latest > call.began for one in reader.of(group, call)):
                raise Violation(
                    f"misdelivered: {reader.life.who} was given {mine[:10]} by the group {GROUPS[group]!r}, "
                    f"of {self._describe(author, call)}"
                )
        if came and not perhaps:
            raise Violation(f"misdelivered: the group {GROUPS[group]!r} had no member and was given {came}")
        departed = [one for _, one in members if one.latest > call.began and one.until != NEVER]
        if surely and not drops and call.ended != NEVER and not call.full and len(came) < count:
            if not departed:
                raise Violation(
                    f"lost: nobody of the group {GROUPS[group]!r}, which no member left, was given "
                    f"{[n for n in range(first, first + count) if not came[n]][:10]} of "
                    f"{self._describe(author, call)}"
                )
            self.gone += count - len(came)
        for sequence, times in came.items():
            if times > 1:
                self._check_twice(sequence, times, departed, author, call, group)
        # Who reaps may have passed on what its publisher counts as not delivered.
        return surely and not drops, perhaps, 0 if departed else len(came)

    def _check_twice(
        self, sequence: int, times: int, departed: list[Interest], author: int, call: Call, group: int
    ) -> None:
        """A publisher may pass a message on beside who reaps if a member went while it published."""
        self.twice += times - 1
        went = [one for one in departed if one.until < call.ended and call.began < one.latest]
        self.twice_at_rest += max(0, times - 1 - len(went))
        if not departed:
            raise Violation(
                f"doubled: the group {GROUPS[group]!r}, which no member left, was given {sequence} of "
                f"{self._describe(author, call)} {times} times"
            )

    def _describe(self, author: int, call: Call) -> str:
        first, count, subject, priority = call.what
        return (
            f"author {author}'s publish of {count} messages from {first} on to {SUBJECTS[subject]!r}, "
            f"priority {priority}, which {'was full and ' if call.full else ''}reached {call.result} from "
            f"{call.began} to {call.ended}"
        )

    # ---------------------------------------------------------------------------------------------- all of it

    def _check_counters(self, reader: Reader) -> None:
        life, counters = reader.life, reader.life.counters
        if not life.complete:
            return
        published = sum(call.result for call in self.sent[life.number])
        kept = counters["received"] - counters["unwanted"] - counters["pending"]
        for what, expected, got in (
            ("received - unwanted - pending", len(life.given), kept),
            ("delivered", published, counters["delivered"]),
            ("pending", 0, counters["pending"]),
        ):
            if expected != got:
                raise Violation(f"counters: expected {what} of {life.who} to be {expected}; {counters}")
        for what, at_least, got in (
            ("unwanted", self.missing_by_filter[life.number], counters["unwanted"]),
            ("refused", self.missing_by_drop[life.number], counters["refused"]),
            ("refused", counters["lost"], counters["refused"]),
        ):
            if got < at_least:
                raise Violation(
                    f"lost: {life.who} counts {got} {what}, expected at least {at_least}; {counters}"
                )

    def _check_groups(self) -> None:
        allowed = self.discarded + sum(life.in_hand for life in self.lives)
        if self.gone > allowed:
            raise Violation(
                f"lost: {self.gone} messages of groups came to nobody; expected at most {allowed}, of which "
                f"{self.discarded} were discarded by inboxes and the others in the hands of the killed"
            )
        reapers = sum(life.killed_at != NEVER for life in self.lives)
        if self.twice_at_rest > reapers:
            raise Violation(
                f"doubled: {self.twice_at_rest} messages of groups came to two members though none left "
                f"while they were published; expected at most {reapers}, one for each killed reaper"
            )


def check_delivery(lives: Iterable[Life], discarded: int) -> Delivered:
    """All that must hold of these lives. Violation."""
    return Oracle(list(lives), discarded).check()
