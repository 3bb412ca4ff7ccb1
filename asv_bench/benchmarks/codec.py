"""encode and decode, mirroring fastcomm/_core/codec.pyx; beside them the standard library's json and pickle.

By hand: ``b = Codec(); b.setup("small dict")`` in IPython, then ``%timeit b.time_encode("small dict")``.
"""

import json
import pickle

from fastcomm import decode, encode, encode_into

COUNT = 1000
VALUES = {
    "small dict": {"id": 12345, "ok": True, "name": "sensor"},
    "agent message": {
        "type": "task.result",
        "task": "a81bc81b-dead-4e5d-abff-90865d1e13b1",
        "agent": "indexer-17",
        "status": "done",
        "attempt": 2,
        "elapsed": 0.1375,
        "files": ["src/ring.c", "src/wait.c", "docs/method.md"],
        "totals": {"lines": 18233, "words": 91442, "bytes": 618304},
        "error": None,
    },
    "list of floats": [number / 7 for number in range(100)],
    "long text": "wörter und bytes " * 100,
}


class Codec:
    """Each time is that of COUNT messages."""

    params = tuple(VALUES)
    param_names = ("value",)

    def setup(self, value):
        self.value = VALUES[value]
        self.encoded = encode(self.value)
        self.as_json = json.dumps(self.value)
        self.as_pickle = pickle.dumps(self.value, -1)
        self.buffer = bytearray(8192)

    def repeat(self, function, *arguments):
        for _ in range(COUNT):
            function(*arguments)

    def time_encode(self, value):
        self.repeat(encode, self.value)

    def time_encode_into(self, value):
        self.repeat(encode_into, self.value, self.buffer)

    def time_encode_json(self, value):
        self.repeat(json.dumps, self.value)

    def time_encode_pickle(self, value):
        self.repeat(pickle.dumps, self.value, -1)

    def time_decode(self, value):
        self.repeat(decode, self.encoded)

    def time_decode_json(self, value):
        self.repeat(json.loads, self.as_json)

    def time_decode_pickle(self, value):
        self.repeat(pickle.loads, self.as_pickle)

    def track_bytes(self, value):
        return len(self.encoded)

    def track_bytes_json(self, value):
        return len(self.as_json)

    track_bytes.unit = track_bytes_json.unit = "bytes"


class Large:
    """Memory while a list of a million integers is encoded, and decoded."""

    def setup(self):
        self.numbers = list(range(1_000_000))
        self.encoded = encode(self.numbers)

    def peakmem_encode(self):
        encode(self.numbers)

    def peakmem_decode(self):
        decode(self.encoded)
