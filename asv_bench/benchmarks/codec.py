"""encode and decode, mirroring fastcomm/_core/codec.pyx; beside them the standard library's json and pickle.

By hand: ``b = Messages(); b.setup("small dict")`` in IPython, then ``%timeit b.time_encode("small dict")``.
"""

import json
import pickle

import numpy as np

from fastcomm import Codec, decode, encode, encode_into

COUNT = 1000
FRESH = 250
TREES = {
    "small dict": {"id": 12345, "ok": True, "name": "sensor"},
    "seed message": {
        "id": "test-123",
        "type": "task.assignment",
        "data": {"taskId": "456", "payload": "test data"},
    },
    "agent message": {
        "type": "task.result",
        "task": "a81bc81b-dead-4e5d-abff-90865d1e13b1",
        "agent": "indexer-17",
        "status": "done",
        "attempt": 2,
        "elapsed": 0.1375,
        "files": ["src/ring.c", "src/wait.c", "docs/method.md"],
        "totals": {"lines": 18233, "words": 91442, "bytes": 618304},
        "host": {"name": "node-3", "load": 0.75, "cores": 16},
        "trace": "0af7651916cd43dd8448eb211c80319c",
        "parent": "b7ad6b7169203331",
        "warnings": [],
        "retry": False,
        "error": None,
        "note": "completed without warnings after one retry",
    },
    "dict of 1,000": {f"key-{number}": number * 1000 for number in range(1000)},
    "list of floats": [number / 7 for number in range(100)],
    "long text": "wörter und bytes " * 100,
}
VALUES = TREES | {
    "1 MiB of bytes": bytes(1 << 20),
    "512x512 float32": np.arange(512 * 512, dtype=np.float32).reshape(512, 512),
}


def repeat(function, *arguments):
    for _ in range(COUNT):
        function(*arguments)


def for_each(function, inputs):
    for _ in range(COUNT // FRESH):
        for one in inputs:
            function(one)


class Messages:
    """The same one again and again. Each time is that of COUNT messages."""

    params = tuple(VALUES)
    param_names = ("value",)

    def setup(self, name):
        self.value = VALUES[name]
        self.encoded = encode(self.value)
        self.as_pickle = pickle.dumps(self.value, -1)
        self.buffer = bytearray(2 << 20)

    def time_encode(self, name):
        repeat(encode, self.value)

    def time_encode_into(self, name):
        repeat(encode_into, self.value, self.buffer)

    def time_encode_pickle(self, name):
        repeat(pickle.dumps, self.value, -1)

    def time_decode(self, name):
        repeat(decode, self.encoded)

    def time_decode_pickle(self, name):
        repeat(pickle.loads, self.as_pickle)

    def track_bytes(self, name):
        return len(self.encoded)

    track_bytes.unit = "bytes"


class Json:
    params = tuple(TREES)
    param_names = ("value",)

    def setup(self, name):
        self.value = TREES[name]
        self.as_json = json.dumps(self.value)

    def time_encode_json(self, name):
        repeat(json.dumps, self.value)

    def time_decode_json(self, name):
        repeat(json.loads, self.as_json)

    def track_bytes_json(self, name):
        return len(self.as_json)

    track_bytes_json.unit = "bytes"


def fresh(value, number):
    """The same keys as other objects; other text in the values."""
    if isinstance(value, str):
        return f"{value[:-3]}{number:03}"
    if isinstance(value, dict):
        return {"".join(list(key)): fresh(item, number) for key, item in value.items()}
    return [fresh(item, number) for item in value] if isinstance(value, list) else value


class FreshMessages:
    """Another one each time, with and without interning. Each time is that of COUNT messages."""

    params = (("seed message", "agent message"), (True, False))
    param_names = ("value", "interning")

    def setup(self, name, interning):
        self.codec = Codec(interning=interning)
        self.values = [fresh(TREES[name], number) for number in range(FRESH)]
        self.encoded = [self.codec.encode(value) for value in self.values]

    def time_encode(self, name, interning):
        for_each(self.codec.encode, self.values)

    def time_decode(self, name, interning):
        for_each(self.codec.decode, self.encoded)


class Large:
    """Memory while a list of a million integers is encoded, and decoded."""

    def setup(self):
        self.numbers = list(range(1_000_000))
        self.encoded = encode(self.numbers)

    def peakmem_encode(self):
        encode(self.numbers)

    def peakmem_decode(self):
        decode(self.encoded)
