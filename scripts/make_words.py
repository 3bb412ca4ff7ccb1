"""Write fastcomm/_core/include/fc_words.h: the static table of words that messages name by number.

    python scripts/make_words.py WHEEL...       wheels of google-api-python-client and botocore

The corpus is the descriptions of web APIs that these packages carry: Google's discovery documents and AWS's
service models. A word is the name of a field of a JSON object, and its weight is the share of the APIs in its
package that have it; names found in one package alone count half. A table that was released is never changed:
another table is another version of the format.
"""

import argparse
import collections
import gzip
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

WORDS = 512
LONGEST = 31
HEADER = Path(__file__).resolve().parent.parent / "fastcomm" / "_core" / "include" / "fc_words.h"


def google_fields(document: object) -> Iterator[str]:
    """Names of the properties in a discovery document, wherever in it."""
    if isinstance(document, dict):
        properties = document.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in document.values():
            yield from google_fields(value)


def aws_fields(model: dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]) -> Iterator[str]:
    """Names of structure members as they are sent."""
    for shape in model.get("shapes", {}).values():
        for name, member in shape.get("members", {}).items():
            yield member.get("locationName", name)


def fields_by_api(wheel: zipfile.ZipFile) -> dict[str, set[str]]:
    """API -> names; versions of an API count as one."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for path in wheel.namelist():
        if "/discovery_cache/documents/" in path and path.endswith(".json"):
            api = Path(path).name.split(".")[0]
            found[api].update(google_fields(json.loads(wheel.read(path))))
        elif path.endswith("/service-2.json.gz"):
            api = path.split("/")[2]
            found[api].update(aws_fields(json.loads(gzip.decompress(wheel.read(path)))))
    return found


def rank(wheels: list[Path]) -> list[str]:
    weights: dict[str, list[float]] = collections.defaultdict(list)
    for path in wheels:
        with zipfile.ZipFile(path) as wheel:
            apis = fields_by_api(wheel)
        counts = collections.Counter(name for names in apis.values() for name in names)
        print(f"{path.name}: {len(apis)} APIs, {len(counts)} names", file=sys.stderr)
        for name, count in counts.items():
            if name.isidentifier() and name.isascii() and 2 <= len(name) <= LONGEST:
                weights[name].append(count / len(apis))
    share = {name: sum(found) * (0.5 if len(found) == 1 else 1) for name, found in weights.items()}
    return sorted(share, key=lambda name: (-share[name], name))[:WORDS]


def hash_of(word: bytes) -> int:
    """As fc_word_hash in the header."""
    number = 2166136261
    for byte in word:
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    return number


def index_of(words: list[bytes], size: int) -> list[int]:
    """Open addressing: word number + 1 by hash, 0 is empty."""
    index = [0] * size
    for number, word in enumerate(words):
        slot = hash_of(word) % size
        while index[slot]:
            slot = (slot + 1) % size
        index[slot] = number + 1
    return index


def rows(values: list[object], width: int) -> str:
    lines = []
    for start in range(0, len(values), width):
        lines.append("    " + " ".join(f"{value}," for value in values[start : start + width]))
    return "\n".join(lines)


def header(words: list[str], sources: list[str]) -> str:
    encoded = [word.encode() for word in words]
    size = 4 * len(words)
    return f"""/* Written by scripts/make_words.py from {", ".join(sources)}; do not edit.
 *
 * The static table of version 1 of the wire format. Readers know a word by its number here for ever.
 */
#ifndef FC_WORDS_H
#define FC_WORDS_H

#include <stdint.h>

#define FC_WORDS {len(words)}
#define FC_WORD_INDEX {size}

static const struct {{
    uint8_t length;
    char text[{LONGEST}];
}} fc_words[FC_WORDS] = {{
{rows([f'{{{len(word)}, "{word}"}}' for word in words], 4)}
}};

/* Word number + 1 by fc_word_hash, linear probing; 0: none. */
static const uint16_t fc_word_index[FC_WORD_INDEX] = {{
{rows([*index_of(encoded, size)], 16)}
}};

static inline uint32_t fc_word_hash(const uint8_t *text, int length)
{{
    uint32_t number = 2166136261u;    /* FNV-1a */
    for (int i = 0; i < length; i++)
        number = (number ^ text[i]) * 16777619u;
    return number;
}}

#endif
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheels", metavar="WHEEL", type=Path, nargs="+")
    parser.add_argument("--show", action="store_true", help="print the words and write nothing")
    options = parser.parse_args()
    words = rank(options.wheels)
    if options.show:
        print(*words)
        return
    HEADER.write_text(header(words, sorted("-".join(path.name.split("-")[:2]) for path in options.wheels)))


if __name__ == "__main__":
    main()
