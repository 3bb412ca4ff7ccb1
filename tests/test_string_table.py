"""Strings learned by encoder and decoder."""

import mmap
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_codec import oracle_decode

from fastcomm import Codec, DecodeError, StringTable
from fastcomm.errors import CorruptSegmentError

RECORD = {"kind of task": "index", "row-owner": {"row-owner": 1}, "größe": 2, "x": 3}


def test_a_key_that_is_met_again_is_learned_and_costs_two_bytes():
    table = StringTable()
    codec = Codec(strings=table)
    first, second = codec.encode({"kind of task": 1}), codec.encode({"kind of task": 1})
    assert table.texts == ["kind of task"]
    assert (len(first), len(second)) == (4 + 2 + 1 + 13 + 1, 4 + 2 + 1 + 2 + 1)
    assert codec.decode(first) == codec.decode(second) == {"kind of task": 1}


def test_the_decoder_agrees_with_the_oracle():
    table = StringTable()
    codec = Codec(strings=table)
    for _ in range(3):
        message = codec.encode([RECORD, RECORD])
        assert codec.decode(message) == oracle_decode(message, strings=table.texts) == [RECORD, RECORD]


def test_only_ascii_keys_of_three_bytes_and_more_that_are_no_common_words_are_learned():
    table = StringTable()
    codec = Codec(strings=table)
    for _ in range(5):
        codec.encode([RECORD, {"name": "never a value", "id": 1}])
    assert sorted(table.texts) == ["kind of task", "row-owner"]


def test_when_the_table_is_full_keys_are_written_out():
    table = StringTable(max_strings=2)
    codec = Codec(strings=table)
    for number in range(10):
        for _ in range(3):
            value = {f"a key {number}": number}
            assert codec.decode(codec.encode(value)) == value
    assert len(table) == 2
    assert table.is_full
    assert table.learn("one more") == -1


def test_bytes_are_bounded_too():
    table = StringTable(max_strings=100, max_bytes=10)
    assert table.learn("12345678") == 0
    assert table.learn("abc") == -1
    assert table.learn("ab") == 1
    assert table.is_full


def test_entries_beyond_two_bytes():
    table = StringTable(max_strings=5000)
    for number in range(4000):
        assert table.learn(f"a key {number}") == number
    codec = Codec(strings=table)
    value = {f"a key {number}": number for number in (0, 2047, 2048, 3999)}
    codec.encode(value)
    message = codec.encode(value)
    assert message.count(b"a key") == 0
    assert codec.decode(message) == oracle_decode(message, strings=table.texts) == value


def test_another_table_is_an_error_and_not_another_string():
    codec = Codec(strings=StringTable())
    message = codec.encode({"kind of task": 1})
    for other in (Codec(), Codec(strings=StringTable())):
        with pytest.raises(DecodeError, match="string table 0x"):
            other.decode(message)


def test_an_entry_that_is_not_there_is_a_decode_error():
    table = StringTable()
    codec = Codec(strings=table)
    codec.encode({"kind of task": 1})
    message = codec.encode({"kind of task": 1})
    with pytest.raises(DecodeError, match="entry 7 of a string table"):
        codec.decode(message.replace(b"\xe8\x00", b"\xe8\x07"))


def test_two_handles_of_one_memory_learn_from_each_other():
    memory = mmap.mmap(-1, StringTable.nbytes(100, 1000))
    here, there = StringTable(100, 1000, memory=memory), StringTable(100, 1000, memory=memory)
    assert here.id == there.id
    sender, receiver = Codec(strings=here), Codec(strings=there)
    for _ in range(3):
        assert receiver.decode(sender.encode(RECORD)) == RECORD
    assert there.texts == here.texts == ["row-owner", "kind of task"]
    assert there.learn("kind of task") == 1
    assert there.learn("new") == 2
    assert here.find("new") == 2
    del sender, receiver, here, there
    memory.close()


def test_a_forked_process_reads_what_its_parent_learned_later():
    memory = mmap.mmap(-1, StringTable.nbytes(100, 1000))
    table = StringTable(100, 1000, memory=memory)
    start, show = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(start[0], 1)
        os.write(show[1], repr((len(table), table.texts)).encode())
        os._exit(0)
    table.learn("after the fork")
    os.write(start[1], b"!")
    assert os.read(show[0], 1000) == b"(1, ['after the fork'])"
    os.waitpid(child, 0)
    for fd in (*start, *show):
        os.close(fd)


@pytest.mark.parametrize(
    ("at", "number", "text"),
    [
        (0, 5, "no string table"),
        (4, 9, "no string table"),
        (12, 7, "no string table"),
        (64, 10**6, "says it has"),
    ],
)
def test_memory_that_holds_no_table_is_refused(at, number, text):
    memory = bytearray(StringTable.nbytes(10, 100))
    StringTable(10, 100, memory=memory).learn("abc")
    memory[at : at + 4] = number.to_bytes(4, "little")
    with pytest.raises(CorruptSegmentError, match=text):
        len(StringTable(10, 100, memory=memory))


def test_an_entry_beyond_the_text_is_refused():
    memory = bytearray(StringTable.nbytes(10, 100))
    StringTable(10, 100, memory=memory).learn("abc")
    memory[128:132] = (10**9).to_bytes(4, "little")
    table = StringTable(10, 100, memory=memory)
    with pytest.raises(CorruptSegmentError, match="at 0 to 1000000000 of 100"):
        table.refresh()
    assert (table.learn("def"), table.refused) == (-1, 1)


def test_nothing_is_learned_beyond_the_text_though_the_memory_says_so():
    memory = bytearray(StringTable.nbytes(10, 100) + 64)
    table = StringTable(10, 100, memory=memory)
    table.learn("abc")
    memory[128:132] = (0xFFFFFFF0).to_bytes(4, "little")
    assert table.learn("another") == 1  # where this handle knows that the text ends
    assert not any(memory[-64:])
    with pytest.raises(CorruptSegmentError, match="string 0 of a table is at 0 to 4294967280"):
        len(StringTable(10, 100, memory=memory))


@pytest.mark.parametrize(("strings", "size"), [(0, 10), (10, 0), (2**21, 10), (10, 2**29)])
def test_sizes_that_can_not_be_are_refused(strings, size):
    with pytest.raises(ValueError, match="they must be"):
        StringTable(strings, size)


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match="a table needs"):
        StringTable(10, 100, memory=bytearray(100))


@given(st.lists(st.text(max_size=300).filter(str.isprintable)))
def test_a_table_is_a_list_without_repetitions(texts):
    table, model = StringTable(20, 200), []
    for text in texts:
        size = len(text.encode())
        room = len(model) < 20 and size <= 255 and sum(len(t.encode()) for t in model) + size <= 200
        if text not in model and room:
            model.append(text)
        assert table.learn(text) == (model.index(text) if text in model else -1)
    assert table.texts == model
    assert [table.find(text) for text in model] == [*range(len(model))]


def test_threads_that_learn_agree():
    table = StringTable()
    codecs = [Codec(strings=table) for _ in range(4)]
    wrong = []

    def work(codec, reader):
        for number in range(300):
            value = {f"key {number}": [{f"key {number - 1}": 1}]}
            wrong.extend([value] * (reader.decode(codec.encode(value)) != value))

    threads = [threading.Thread(target=work, args=(codecs[i], codecs[i - 1])) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(table.texts)) == len(table.texts)
