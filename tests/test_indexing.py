"""The parts of the demo's job without processes: cutting texts, the accounts, latencies, the comparison."""

import json
import mmap
import os
from collections import Counter, deque
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcomm.cli.indexing import IndexingError
from fastcomm.cli.indexing.accounting import Batch, Ledger, Tally
from fastcomm.cli.indexing.corpus import (
    LONGEST_WORD,
    PYTHON_SUFFIXES,
    WORD,
    Piece,
    count_words,
    deal,
    discover,
    pieces,
    standard_library,
)
from fastcomm.cli.indexing.latency import LatencyCounts, bucket_of, upper_bound
from fastcomm.cli.indexing.memory import own_inherited_pages, private_bytes, resident_bytes
from fastcomm.cli.indexing.outcome import LostBatch, Outcome
from fastcomm.cli.indexing.plan import WORDS_BYTES, kill_points, split
from fastcomm.cli.indexing.report import lost_lines, verify
from fastcomm.cli.indexing.roles import addressed, flattened, merge

LIMIT = 300  # the least that holds a word of 64 characters of 4 bytes

fragments = st.sampled_from(
    ["word", "_x1 ", "\n", "\r\n", " ", "été", "漢字", "😀", "\x00", "\u2028", "a" * 63, "b" * 65, "." * 200]
)
texts = st.lists(fragments | st.text(max_size=8), max_size=60).map("".join)


class TestPieces:
    @given(texts)
    def test_words_of_pieces_are_the_words_of_the_text(self, text: str) -> None:
        words = [
            word for piece in pieces(text, LIMIT) for word in WORD.findall(text[piece.start : piece.end])
        ]
        assert words == WORD.findall(text)

    @given(texts)
    def test_pieces_are_contiguous_and_fit(self, text: str) -> None:
        cut = list(pieces(text, LIMIT))
        assert "".join(text[piece.start : piece.end] for piece in cut) == text
        assert all(0 < len(text[piece.start : piece.end].encode()) <= LIMIT for piece in cut)

    @given(texts)
    def test_line_numbers_are_those_of_the_text(self, text: str) -> None:
        for piece in pieces(text, LIMIT):
            content = text[piece.start : piece.end]
            assert piece.first_line == text.count("\n", 0, piece.start) + 1
            assert piece.last_line == piece.first_line + content.removesuffix("\n").count("\n")

    def test_a_run_longer_than_the_longest_word_is_cut_at_its_multiples(self) -> None:
        text = "x" * (3 * LIMIT + 5)
        words = [
            word for piece in pieces(text, LIMIT) for word in WORD.findall(text[piece.start : piece.end])
        ]
        assert [len(word) for word in words] == [LONGEST_WORD] * (len(text) // LONGEST_WORD) + [
            len(text) % LONGEST_WORD
        ]


class TestCorpus:
    def test_standard_library_has_python_sources_only_and_no_installed_packages(self) -> None:
        corpus = standard_library()
        assert any(path.endswith(os.path.join("", "argparse.py")) for path in corpus.paths)
        assert all(path.endswith(".py") and "site-packages" not in path for path in corpus.paths)

    def test_other_suffixes_hidden_and_installed_directories_are_left_out(self, tmp_path: Path) -> None:
        for name in ("a.py", "b.bin", ".git/c.py", "site-packages/d.py", "sub/e.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        found = [os.path.relpath(path, tmp_path) for path in discover(tmp_path, PYTHON_SUFFIXES).paths]
        assert found == ["a.py", "sub/e.py"]

    @pytest.mark.parametrize("name", ["missing", "empty"])
    def test_missing_or_empty_directory_is_an_error_that_names_it(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(IndexingError, match=name):
            discover(tmp_path / name)

    def test_bytes_that_are_not_utf8_are_counted_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "latin.txt").write_bytes(b"caf\xe9 cr\xe8me caf\xe9")
        assert count_words(discover(tmp_path)) == {"caf": 2, "cr": 1, "me": 1}

    def test_deal_gives_every_file_to_one_hand_and_balances_bytes(self) -> None:
        corpus = standard_library()
        hands = deal(corpus, 4)
        assert sorted(n for hand in hands for n in hand) == list(range(len(corpus.paths)))
        weights = [sum(corpus.sizes[n] for n in hand) for hand in hands]
        assert max(weights) - min(weights) <= max(corpus.sizes)


class TestPlan:
    @pytest.mark.parametrize("agents", [4, 5, 7, 10, 24, 25, 100, 500])
    def test_split_fills_every_role_and_adds_up(self, agents: int) -> None:
        roles = split(agents)
        assert roles.agents == agents
        assert min(roles.readers, roles.owners, roles.aggregators) >= 1
        assert roles.tokenizers >= roles.readers

    def test_split_refuses_fewer_agents_than_roles(self) -> None:
        with pytest.raises(IndexingError, match="3 agents"):
            split(3)

    def test_kill_points_are_all_given_out_inside_the_run_and_repeat_with_the_seed(self) -> None:
        points = kill_points(10, 4, seed=7)
        assert sorted(map(len, points)) == [2, 2, 3, 3]
        assert all(0 < point < 1 for one in points for point in one)
        assert points == kill_points(10, 4, seed=7) != kill_points(10, 4, seed=8)


class Simulation:
    """A reader, tokenizers and owners over queues in order of commitment; a tokenizer may die at any step."""

    OWNERS = 3

    def __init__(self, rng: Random, batches: list[str], kills: int) -> None:
        self.rng = rng
        self.batches = batches
        self.unsent = deque(enumerate(batches))
        self.kills = kills
        self.ledger = Ledger(window=2)
        self.tallies = [Tally() for _ in range(self.OWNERS)]
        self.to_owner: list[deque] = [deque() for _ in range(self.OWNERS)]
        self.to_reader: deque = deque()
        self.inboxes: dict[str, deque] = {}
        self.programs: dict = {}
        self.lost: list[Batch] = []
        self.started = 0
        for _ in range(3):
            self.start()

    def start(self) -> None:
        self.started += 1
        name = f"tokenizer-{self.started}"
        self.inboxes[name] = deque()
        self.programs[name] = self.tokenizer(name)
        self.ledger.join(name)

    def tokenizer(self, name: str):
        inbox, group = self.inboxes[name], 0
        while True:
            taken = [inbox.popleft() for _ in range(min(len(inbox), 1 + self.rng.randrange(2)))]
            if taken:
                group += 1
                for owner, words in addressed((text for _, text in taken), self.OWNERS):
                    for word in words:
                        self.to_owner[owner].append((name, group, [word]))
                        yield
                self.to_reader.append(("done", name, group, [number for number, _ in taken]))
            yield

    def read(self) -> None:
        if self.to_reader and (not self.unsent or self.rng.random() < 0.5):
            self.hear(*self.to_reader.popleft())
            return
        tokenizer = self.ledger.take_credit() if self.unsent else None
        if tokenizer is None:
            return
        if tokenizer not in self.inboxes:
            self.ledger.return_credit(tokenizer)
            return
        number, text = self.unsent.popleft()
        self.inboxes[tokenizer].append((number, text))
        self.ledger.assign(tokenizer, number, Batch(number, Piece(0, len(text), 1, 1)))

    def hear(self, event: str, name: str, *details) -> None:
        if event == "done":
            self.ledger.done(name, *details)
            return
        last_group, lost = self.ledger.die(name)
        self.lost += lost
        self.settle(name, last_group)

    def settle(self, name: str, last_group: int) -> None:
        for queue in self.to_owner:
            queue.append((name, last_group, None))

    def own(self, index: int) -> None:
        if self.to_owner[index]:
            name, group, words = self.to_owner[index].popleft()
            if words is None:
                self.tallies[index].settle(name, group)
            else:
                self.tallies[index].add(name, group, words)

    def kill(self) -> None:
        if self.kills:
            self.kills -= 1
            victim = self.rng.choice(sorted(self.programs))
            del self.programs[victim], self.inboxes[victim]
            self.to_reader.append(("died", victim))
            self.start()

    def step(self) -> None:
        choice = self.rng.randrange(20)
        if choice == 0:
            self.kill()
        elif choice < 6:
            self.read()
        elif choice < 12:
            self.own(self.rng.randrange(self.OWNERS))
        else:
            next(self.programs[self.rng.choice(sorted(self.programs))])

    def run(self) -> Counter[str]:
        while self.unsent or self.ledger.outstanding or self.to_reader:
            self.step()
        for name, group in self.ledger.verdicts():
            self.settle(name, group)
        for index in range(self.OWNERS):
            while self.to_owner[index]:
                self.own(index)
        return sum((tally.counts for tally in self.tallies), Counter())


class TestAccounts:
    @settings(max_examples=300, deadline=None)
    @given(
        st.randoms(use_true_random=False),
        st.lists(st.text("abcd ", max_size=30), max_size=25),
        st.integers(0, 8),
    )
    def test_counted_plus_lost_is_the_plain_count_whenever_tokenizers_die(
        self, rng: Random, batches: list[str], kills: int
    ) -> None:
        simulation = Simulation(rng, batches, kills)
        counted = simulation.run()
        lost = Counter(word for batch in simulation.lost for word in WORD.findall(batches[batch.file]))
        assert counted + lost == Counter(word for text in batches for word in WORD.findall(text))
        assert all(tally.unsettled == 0 for tally in simulation.tallies)

    def test_words_of_an_unfinished_group_are_thrown_away_at_the_verdict(self) -> None:
        tally = Tally()
        tally.add("t", 1, ["kept"])
        tally.add("t", 2, ["part"])
        tally.add("t", 2, ["ial"])
        tally.settle("t", 1)
        assert (tally.counts, tally.discarded, tally.unsettled) == ({"kept": 1}, 2, 0)

    def test_a_verdict_that_covers_the_held_group_counts_it(self) -> None:
        tally = Tally()
        tally.add("t", 5, ["done"])
        tally.settle("t", 5)
        assert (tally.counts, tally.discarded) == ({"done": 1}, 0)

    def test_an_owner_holds_one_group_of_a_tokenizer_apart_however_many_come(self) -> None:
        tally = Tally()
        for group in range(1, 1001):
            tally.add("t", group, ["w"])
        assert (tally.counts["w"], tally.unsettled) == (999, 1)

    def test_no_credit_is_given_beyond_the_window_or_to_the_dead(self) -> None:
        ledger = Ledger(window=2)
        ledger.join("a")
        ledger.join("b")
        taken = [ledger.take_credit() for _ in range(5)]
        assert sorted(filter(None, taken)) == ["a", "a", "b", "b"]
        ledger.assign("a", 1, Batch(0, Piece(0, 1, 1, 1)))
        assert ledger.die("a") == (0, [Batch(0, Piece(0, 1, 1, 1))])
        ledger.return_credit("a")
        assert ledger.take_credit() is None

    def test_the_victim_is_busy_if_anybody_is_and_never_spared(self) -> None:
        ledger = Ledger(window=1)
        for name in "abc":
            ledger.join(name)
        ledger.assign("b", 1, Batch(0, Piece(0, 1, 1, 1)))
        assert ledger.choose_victim(Random(1), set()) == "b"
        assert ledger.choose_victim(Random(1), {"b", "c"}) == "a"
        assert ledger.choose_victim(Random(1), {"a", "b", "c"}) is None


class TestMessages:
    @given(st.lists(texts, max_size=4), st.integers(1, 7))
    def test_every_word_goes_to_one_owner_and_messages_stay_small(
        self, batch: list[str], owners: int
    ) -> None:
        sent = list(addressed(iter(batch), owners))
        assert Counter(word for _, words in sent for word in words) == Counter(
            word for text in batch for word in WORD.findall(text)
        )
        part_of = {word: owner for owner, words in sent for word in words}
        assert all(part_of[word] == owner for owner, words in sent for word in words)
        largest = WORDS_BYTES + 4 * LONGEST_WORD + 2
        assert all(sum(len(word.encode()) + 2 for word in words) <= largest for _, words in sent)

    @given(st.dictionaries(st.text(min_size=1, max_size=64), st.integers(1, 10**9), max_size=200))
    def test_counts_survive_being_flattened_and_merged(self, plain: dict[str, int]) -> None:
        merged: Counter[str] = Counter()
        for flat in flattened(Counter(plain)):
            merge(merged, flat)
        assert merged == plain


class TestLatency:
    @given(st.integers(0, 1 << 60))
    def test_a_bucket_is_at_most_a_sixteenth_above_the_value(self, ns: int) -> None:
        assert ns <= upper_bound(bucket_of(ns)) <= ns + ns // 16
        assert bucket_of(upper_bound(bucket_of(ns))) == bucket_of(ns)

    @given(st.lists(st.integers(0, 10**10), min_size=1), st.floats(0.01, 1.0))
    def test_percentile_is_that_of_the_sorted_list_within_its_bucket(
        self, values: list[int], share: float
    ) -> None:
        counts = LatencyCounts()
        for value in values:
            counts.record(value)
        exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
        assert bucket_of(counts.percentile(share)) == bucket_of(exact)
        assert counts.percentile(1.0) == counts.largest == max(values)

    def test_what_one_takes_another_puts(self) -> None:
        one, other = LatencyCounts(), LatencyCounts()
        for ns in (1, 50, 50, 10**9):
            one.record(ns)
        other.record(7)
        other.put(one.take())
        assert (one.total, one.largest, other.total, other.largest) == (0, 0, 5, 10**9)


def touch(pages: mmap.mmap) -> None:
    for offset in range(0, len(pages), mmap.PAGESIZE):
        pages[offset] = 1


@pytest.mark.no_sanitizer("measures private memory, of which a sanitizer has terabytes")
class TestMemory:
    def test_private_bytes_leaves_out_the_excluded_file_and_nothing_else(self, tmp_path: Path) -> None:
        path, size = str(tmp_path / "segment"), 4 << 20
        with open(path, "w+b") as file:
            file.truncate(size)
            with mmap.mmap(file.fileno(), size, flags=mmap.MAP_SHARED) as pages:
                pages.write(b"x" * size)
                with_file, without = private_bytes(), private_bytes(path)
        assert size <= with_file - without < size + (1 << 20)

    def test_owned_pages_do_not_count_as_growth_when_written_and_new_ones_do(self) -> None:
        """In a forked child: pages of the parent are written, then new ones."""
        size = 8 << 20
        inherited, untouched = (mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE) for _ in range(2))
        touch(inherited)
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            own_inherited_pages()
            grown = [private_bytes()]
            for pages in (inherited, untouched):
                touch(pages)
                grown.append(private_bytes())
            os.write(writable, repr([after - before for before, after in pairwise(grown)]).encode())
            os._exit(0)
        os.close(writable)
        with open(readable) as answer:
            rewritten, new = json.loads(answer.read())
        os.waitpid(child, 0)
        inherited.close()
        untouched.close()
        assert rewritten < size // 8
        assert new >= size

    def test_resident_bytes_counts_only_what_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with open(path, "wb") as file:
            file.truncate(64 << 20)
        assert resident_bytes(str(path)) < 1 << 20


class TestVerification:
    def outcome(self, counts: Counter[str], lost: list[LostBatch]) -> Outcome:
        return Outcome(counts, lost)

    def test_counted_plus_lost_lines_equal_the_plain_count(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one two\nthree two\n")
        corpus = discover(tmp_path)
        lost = [LostBatch("tokenizer-1", 0, Piece(8, 18, 2, 2))]
        check = verify(corpus, self.outcome(Counter(one=1, two=1), lost))
        assert (check.words, check.lost_words, check.differences) == (4, 2, {})
        assert lost_lines(corpus, lost) == ["a.txt:2-2 (tokenizer-1)"]

    def test_every_differing_word_is_named_with_both_counts(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one two two")
        check = verify(discover(tmp_path), self.outcome(Counter(one=1, two=1, four=1), []))
        assert check.differences == {"four": (1, 0), "two": (1, 2)}
