"""AffinityProfile: what scripts/tune_affinity.py measured on one machine, kept as TOML.

schema = 1
machine = "AMD EPYC: packages 1, nodes 1, caches 1, cores 2, CPUs 2"
fingerprint = "0f3c..."                # of the machine's topology; another machine refuses the profile
places = ["0", "1"]                    # the recommended plan: lists of CPUs, one for each worker in turn
cpus = [0, 1]                          # the CPUs of the matrix
one_way_ns = [[0, 251], [251, 0]]      # from the CPU of the row to that of the column
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from fastcomm._topology import Topology, format_cpus, parse_cpus
from fastcomm.errors import AffinityProfileError, InvalidCpusError

SCHEMA = 1


class AffinityProfile(NamedTuple):
    """places: sets of CPUs for workers in turn. one_way_ns: a row for each of `cpus`, 0 on its diagonal."""

    machine: str
    fingerprint: str
    places: tuple[frozenset[int], ...]
    cpus: tuple[int, ...]
    one_way_ns: tuple[tuple[float, ...], ...]

    @classmethod
    def of(
        cls,
        topology: Topology,
        places: tuple[frozenset[int], ...],
        cpus: tuple[int, ...],
        one_way_ns: tuple[tuple[float, ...], ...],
    ) -> AffinityProfile:
        """What was measured on the machine of that topology."""
        return cls(describe(topology), fingerprint(topology), places, cpus, one_way_ns)

    def write(self, path: str | os.PathLike[str]) -> None:
        """As TOML. OSError."""
        rows = ",\n".join(f"    [{', '.join(f'{value:.0f}' for value in row)}]" for row in self.one_way_ns)
        places = ", ".join(f'"{format_cpus(place)}"' for place in self.places)
        text = (
            "# Written by scripts/tune_affinity.py.\n"
            f"schema = {SCHEMA}\n"
            f"machine = {_quoted(self.machine)}\n"
            f'fingerprint = "{self.fingerprint}"\n'
            f"places = [{places}]\n"
            f"cpus = [{', '.join(map(str, self.cpus))}]\n"
            f"one_way_ns = [\n{rows},\n]\n"
        )
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AffinityProfile:
        """AffinityProfileError if the file is missing or is no profile."""
        import tomllib  # few agents have a profile

        try:
            with open(path, "rb") as file:
                content = tomllib.load(file)
        except OSError as failed:
            raise AffinityProfileError(
                f"no affinity profile can be read from {os.fspath(path)!r}: {failed.strerror}; "
                "scripts/tune_affinity.py writes one"
            ) from failed
        except ValueError as failed:  # no TOML, or no UTF-8
            raise AffinityProfileError(f"{os.fspath(path)!r} is no TOML: {failed}") from failed
        try:
            return _from_toml(content)
        except (KeyError, TypeError, InvalidCpusError, AffinityProfileError) as failed:
            raise AffinityProfileError(
                f"{os.fspath(path)!r} is no affinity profile of schema {SCHEMA}: {failed}"
            ) from failed

    def places_on(self, topology: Topology) -> tuple[frozenset[int], ...]:
        """The places, without CPUs that this process may not use; those it may use besides come last, a place
        each. AffinityProfileError if the profile is of another machine.
        """
        if self.fingerprint != fingerprint(topology):
            raise AffinityProfileError(
                f"the affinity profile was measured on {self.machine!r} (fingerprint {self.fingerprint}), "
                f"this is {describe(topology)!r} ({fingerprint(topology)}); run scripts/tune_affinity.py here"
            )
        known = frozenset().union(*self.places)
        others = sorted(topology.allowed - known, key=topology.position)
        usable = [place & topology.allowed for place in self.places]
        return (*filter(None, usable), *(frozenset({cpu}) for cpu in others))


def describe(topology: Topology) -> str:
    """The processor and the numbers of its parts, for people."""
    parts = (
        ("packages", topology.packages),
        ("nodes", topology.nodes),
        ("caches", topology.caches),
        ("cores", topology.cores),
        ("CPUs", topology.online),
    )
    counts = ", ".join(f"{what} {len(part)}" for what, part in parts)
    return f"{topology.model or 'unknown processor'}: {counts}"


def fingerprint(topology: Topology) -> str:
    """Of what a measurement depends on: the processor and who shares what; not the limits of a process."""
    import hashlib

    partitions = (topology.packages, topology.nodes, topology.caches, topology.cores)
    text = repr((topology.model, [[format_cpus(part) for part in parts] for parts in partitions]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _from_toml(content: dict[str, Any]) -> AffinityProfile:
    if content["schema"] != SCHEMA:
        raise AffinityProfileError(f"its schema is {content['schema']}")
    if not all(isinstance(place, str) for place in content["places"]):
        raise AffinityProfileError(f"places is {content['places']}; each must be a list of CPUs like '0-3'")
    places = tuple(frozenset(parse_cpus(place)) for place in content["places"])
    if not places or not all(places):
        raise AffinityProfileError(f"places is {content['places']}; each must name a CPU")
    if len(frozenset().union(*places)) < sum(map(len, places)):
        raise AffinityProfileError(f"places is {content['places']}; two of them have a CPU in common")
    cpus, matrix = tuple(content["cpus"]), tuple(map(tuple, content["one_way_ns"]))
    if any(len(row) != len(cpus) for row in (matrix, *matrix)):
        raise AffinityProfileError(f"one_way_ns has not {len(cpus)} rows and columns, as cpus has")
    return AffinityProfile(content["machine"], content["fingerprint"], places, cpus, matrix)


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
