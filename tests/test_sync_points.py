"""scripts/check_sync_points.py: what it accepts, and that each kind of mistake is found."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_sync_points import CORE, README, VERIFICATION, check  # noqa: E402

pytestmark = pytest.mark.no_sanitizer("reads sources, runs nothing")

CODE = """
cdef inline void publish(uint32_t *word) noexcept nogil:
    # SYNC thing-made (release): the thing
    fc_store_release_u32(word, 1)


cdef inline uint32_t look(uint32_t *word) noexcept nogil:
    # SYNC thing-made (acquire)
    return fc_load_acquire_u32(word)


cdef inline void raise_flag(uint32_t *flag) noexcept nogil:
    # SYNC flag-seen (A)
    fc_store_seqcst_u32(flag, 1)


cdef inline uint32_t see_flag(uint32_t *flag) noexcept nogil:
    # SYNC flag-seen (B)
    return fc_load_seqcst_u32(flag)


cdef inline void keep(uint32_t *word) noexcept nogil:
    # NO SYNC: for the compiler
    fc_store_release_u32(word, 1)
"""
POINTS = """
# The core

## Sync points

| sync point | what it gives |
| --- | --- |
| `thing-made` | the thing |
| `flag-seen` | the flag |

## More

| `other` | no sync point |
| --- | --- |
| `another` | none either |
"""
ROWS = """
## The orders, one by one

| sync point | end | where | what turns red |
| --- | --- | --- | --- |
| `thing-made` | release | `words.publish` | TSan: publish and look |
| `thing-made` | acquire | `words.look` | TSan: publish and look |
| `flag-seen` | A | `words.raise_flag` | model: `flag_sb A_RELEASE` |
| `flag-seen` | B | `words.see_flag` | model: `flag_sb B_ACQUIRE` |
| `none` | release | `words.keep` | argued: nobody looks |
"""
MODELS = {"flag_sb A_RELEASE", "flag_sb B_ACQUIRE"}


def problems(root: Path, code: str = CODE, points: str = POINTS, rows: str = ROWS) -> list[str]:
    for path, text in ((CORE / "words.pxd", code), (README, points), (VERIFICATION, rows)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return [str(problem) for problem in check(root, MODELS)]


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def test_orders_that_all_have_both_ends_and_a_row_are_accepted(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    # SYNC thing-made (acquire)\n", "", "without a comment"),
        ("    # SYNC thing-made (acquire)\n", "    # SYNC thing-made (acquire)\n\n",
         "above no ordered access"),
        ("    # SYNC thing-made (acquire)\n", "    # SYNC thing-made: acquires\n", "without a comment"),
        ("    # NO SYNC: for the compiler\n", "    # NO SYNC:\n", "without a comment"),
        ("thing-made (acquire)", "thing-made (release)", "can't be the release end"),
        ("thing-made (acquire)", "thing-mode (acquire)", "thing-mode has the ends ['acquire']"),
        ("thing-made (acquire)", "thing-mode (acquire)", "there is no sync point 'thing-mode'"),
        ("# SYNC thing-made (acquire)", "# NO SYNC: none", "thing-made has the ends ['release']"),
        ("flag-seen (B)", "flag-seen (A)", "flag-seen has the ends ['A']"),
        ("flag-seen (B)", "thing-made (acquire)", "seq_cst, and the A or B end of no sync point"),
        ("return fc_load_acquire_u32(word)", "return fc_load_relaxed_u32(word)", "above no ordered access"),
        ("fc_store_release_u32(word, 1)\n\n\ncdef inline uint32_t look",
         "fc_exchange_acqrel_u32(word, 1)\n\n\ncdef inline uint32_t look",
         "no sync point for the acquire of this access"),
        ("return fc_load_acquire_u32(word)", "return fc_load_acquire_u32(word) + fc_load_acquire_u32(word)",
         "two ordered accesses on one line"),
        ("return fc_load_acquire_u32(word)",
         "fc_load_acquire_u32(word)\n    # SYNC thing-made (acquire)\n    return fc_load_acquire_u32(word)",
         "thing-made (acquire) in words.look twice"),
        ("cdef inline uint32_t look", "cdef inline uint32_t see",
         "words.see has no row in docs/verification.md"),
        ("cdef inline uint32_t look", "cdef inline uint32_t see", "words.look is not in the code"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_code_is_found(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(tmp_path, code=changed(CODE, old, new))
    assert [problem for problem in found if expected in problem], found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("| `flag-seen` | the flag |\n", "", "flag-seen has no row in fastcomm/_core/README.md"),
        ("`flag-seen`", "`flag-set`", "flag-set has no end in the code"),
        ("# The core", "# The core, with SYNC thing-mode", "there is no sync point 'thing-mode'"),
    ],
)
def test_a_mistake_in_the_table_of_sync_points_is_found(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    found = problems(tmp_path, points=changed(POINTS, old, new))
    assert [problem for problem in found if expected in problem], found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("| `none` | release | `words.keep` | argued: nobody looks |\n", "", "words.keep has no row"),
        ("argued: nobody looks", "nothing", "a row has the form"),
        ("argued: nobody looks", "hoped: nobody looks", "a row has the form"),
        ("model: `flag_sb B_ACQUIRE`", "model: `flag_sb C`", "has no broken variant 'flag_sb C'"),
        ("model: `flag_sb B_ACQUIRE`", "TSan: raise and see", "TSan can't see what seq_cst adds"),
        ("| `thing-made` | acquire | `words.look`", "| `thing-made` | release | `words.publish`",
         "has two rows"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_table_of_orders_is_found(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(tmp_path, rows=changed(ROWS, old, new))
    assert [problem for problem in found if expected in problem], found


def test_a_core_without_any_ordered_access_is_a_problem(tmp_path: Path) -> None:
    assert "no ordered access was found" in problems(tmp_path, code="")[-1]


def test_two_sites_of_one_name_in_different_files_are_told(tmp_path: Path) -> None:
    (tmp_path / CORE).mkdir(parents=True)
    (tmp_path / CORE / "words.pyx").write_text(CODE)
    assert [problem for problem in problems(tmp_path) if "stands at" in problem]


def test_the_script_says_yes_to_this_tree() -> None:
    if not (ROOT / README).exists():
        pytest.skip("the tests stand without the sources here, beside an installed fastcomm")
    command = [sys.executable, str(ROOT / "scripts" / "check_sync_points.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
