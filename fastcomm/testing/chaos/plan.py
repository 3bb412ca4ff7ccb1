"""Plans: from a seed, who lives how long in a round and what ends him."""

import random
from typing import NamedTuple

PRODUCER, CONSUMER, FOUNDER = "producer", "consumer", "founder"

JOINS = ("JOIN_BEFORE_STATE", "JOIN_AFTER_STATE", "REAP_BEFORE_FREE", "LEAVE_BEFORE_FREE")
WAKES = ("WAKE_BEFORE_CLEAR", "WAKE_BEFORE_BUMP", "WAKE_BEFORE_FUTEX")
SLEEPS = ("SLEEP_BEFORE_FLAG", "SLEEP_BEFORE_WAIT")
SENDS = (
    "CLAIM_BEFORE_CAS",
    "CLAIM_AFTER_CAS",
    "PAD_BEFORE_HEADER",
    "WRITE_HALF",
    "COMMIT_BEFORE_HEADER",
    "COMMIT_AFTER_HEADER",
    "HELP_BEFORE_CAS",
)
TAKES = ("CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD", "HELP_BEFORE_CAS")
TABLES = ("TABLE_MID_WRITE", "TABLE_BEFORE_GENERATION")
STRINGS = ("STRING_BEFORE_END", "STRING_BEFORE_COUNT")
CREATES = ("CREATE_BEFORE_RESERVE", "CREATE_BEFORE_MAGIC", "CREATE_AFTER_MAGIC", "UNLINK_BEFORE_REMOVE")

Steps = dict[str, tuple[str, ...]]
STEPS: dict[str, Steps] = {
    "ring": {
        FOUNDER: CREATES,
        PRODUCER: (*SENDS, "BATCH_BETWEEN_HEADERS", *WAKES, *SLEEPS, *JOINS),
        CONSUMER: (*TAKES, *WAKES, *SLEEPS, *JOINS),
    },
    "queue": {
        FOUNDER: CREATES,
        PRODUCER: (*SENDS, "BATCH_BETWEEN_HEADERS", *WAKES, *SLEEPS, *JOINS),
        CONSUMER: (*TAKES, "QUEUE_LOCKED", "QUEUE_ITEM_OPENED", *WAKES, *SLEEPS, *JOINS),
    },
    "bus": {
        FOUNDER: CREATES,
        PRODUCER: (*SENDS, *TABLES, *STRINGS, *WAKES, *SLEEPS, *JOINS),
        CONSUMER: (*TAKES, *TABLES, *WAKES, *SLEEPS, *JOINS),
    },
    "delivery": {
        FOUNDER: CREATES,
        PRODUCER: (*SENDS, "BATCH_BETWEEN_HEADERS", *TABLES, *WAKES, *SLEEPS, *JOINS),
        CONSUMER: (*TAKES, *TABLES, *WAKES, *SLEEPS, *JOINS),
    },
}
"""The hooks that each kind of participant passes."""

# A helper is passed only where somebody else stands between the claim and its header.
COMPANION = {"HELP_BEFORE_CAS": "CLAIM_AFTER_CAS"}

# Few come by these: they are the theme of every third round.
RARE = ("HELP_BEFORE_CAS", "QUEUE_LOCKED", "QUEUE_ITEM_OPENED", *TABLES, *STRINGS)

KILL, HOOK, STOP, LEAVE, LAST = "kill", "hook", "stop", "leave", "last"


class Life(NamedTuple):
    """One process of a round. Times in seconds.

    fate: KILL after `delay`; HOOK: stopped at `hook`, the `countdown`-th time, and `pause` later killed, or
    continued if `goes_on` and killed after `delay`; STOP after `delay` for `pause`, killed after `delay`
    more; LEAVE by itself after `calls` calls; LAST: until the end of the round.
    """

    number: int
    role: str
    place: int
    seed: int
    fate: str
    delay: float = 0.0
    pause: float = 0.0
    hook: str = ""
    countdown: int = 1
    goes_on: bool = False
    calls: int = 0
    inherits: bool = False
    """Whether it uses the handle that it had from before the fork, or opens one."""

    def __str__(self) -> str:
        return f"{self.role} {self.place} (life {self.number}, {self.hook or self.fate})"


class Plan(NamedTuple):
    """A round: its founders, the lives of each place one after the other, and what else was drawn."""

    what: str
    seed: int
    rng: random.Random
    founders: list[Life]
    places: list[list[Life]]
    abandoned: bool
    """All are killed in the end, and the segment is taken over; otherwise they leave."""


def theme_of(steps: Steps, seed: int) -> tuple[str, str]:
    """The role and hook that the round of that seed is about; without hooks none."""
    themes = [(role, hook) for role, hooks in steps.items() for hook in hooks]
    rare = [theme for theme in themes if theme[1] in RARE]
    if not themes:
        return "", ""
    if seed % 3 == 0:
        return rare[seed // 3 % len(rare)]
    return themes[(seed - seed // 3) % len(themes)]


class Drawer:
    """Draws lives. Round by round the theme goes through all steps, so that none is left to chance."""

    def __init__(self, what: str, seed: int, with_hooks: bool) -> None:
        self.rng = random.Random(f"{what} {seed}")
        self.seed = seed
        self.steps: Steps = STEPS[what] if with_hooks else {}
        self.theme = theme_of(self.steps, seed)
        self.count = 0

    def life(self, role: str, place: int, fates: tuple[str, ...]) -> Life:
        rng = self.rng
        self.count += 1
        fate = rng.choice(fates)
        hook = self._hook(role) if fate == HOOK else ""
        if fate == HOOK and not hook:
            fate = KILL
        return Life(
            self.count,
            role,
            place,
            rng.getrandbits(32),
            fate,
            delay=rng.choice((0.003, 0.01, 0.03, 0.06)) * rng.random(),
            pause=rng.choice((0.0, 0.002, 0.02)) * rng.random(),
            hook=hook,
            countdown=1 if role == FOUNDER or hook in RARE else rng.choice((1, 1, 2, 5)),
            goes_on=rng.random() < 0.2,
            calls=rng.randint(1, 30) if fate == LEAVE or hook == "LEAVE_BEFORE_FREE" else 0,
            inherits=rng.random() < 0.5,
        )

    def _hook(self, role: str) -> str:
        theme_role, theme = self.theme
        if self.rng.random() < 0.5:
            choice = [theme] if role == theme_role else []
            if role == PRODUCER and theme in COMPANION:
                choice.append(COMPANION[theme])
            if choice:
                return self.rng.choice(choice)
        hooks = self.steps.get(role)
        return self.rng.choice(hooks) if hooks else ""


FATES = (HOOK, HOOK, HOOK, KILL, KILL, STOP, LEAVE)


def draw(what: str, seed: int, *, with_hooks: bool, producers: int, consumers: int, lives: int) -> Plan:
    """The plan of one round: at most so many producers and consumers, `lives` of each."""
    drawer = Drawer(what, seed, with_hooks)
    rng = drawer.rng
    founders = [drawer.life(FOUNDER, 0, (HOOK, KILL)) for _ in range(3)]
    roles = [PRODUCER] * rng.randint(1, producers) + [CONSUMER] * rng.randint(1, consumers)
    places = [
        [
            *(drawer.life(role, place, FATES) for _ in range(lives)),
            drawer.life(role, place, (LAST,)),
        ]
        for place, role in enumerate(roles)
    ]
    return Plan(what, seed, rng, founders, places, abandoned=rng.random() < 0.3)
