"""Every ordering between processes has two ends, and zbuf.h says at each which the other is.

A comment there that says ``SYNC <label> (<order>; pairs with <function>)`` belongs to the function that follows it.
This file holds those comments to the code, to each other, and to the essay that opens the header. Its own checker is
tested too: by headers from which one end, one order or one word was taken away.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.project import ROOT

HEADER = (ROOT / "shared" / "zbuf.h").read_text()
LABELS = ["assign", "acknowledge", "store_len", "sleep", "state", "prologue", "ledger"]

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_END = re.compile(r"SYNC (\w+) \(([\w ]+); pairs with (\w+)\)")
_FUNCTION = re.compile(r"\s*static inline [\w ]+?\**(\w+)\([^)]*\)\n\{\n(.*?)\n\}", re.DOTALL)
_FENCE = re.compile(r"__atomic_thread_fence\(__ATOMIC_(\w+)\)")
_ACCESS = re.compile(r"__atomic_(load|store)_n\(&\w+->(\w+).*?__ATOMIC_(\w+)\)", re.DOTALL)

_OPERATIONS = {
    "release": {("store", "RELEASE")},
    "acquire": {("load", "ACQUIRE")},
    "full fence": {("fence", "SEQ_CST")},
    "sequence write": {("fence", "RELEASE"), ("store", "RELEASE")},
    "sequence read": {("load", "ACQUIRE"), ("fence", "ACQUIRE")},
}
_SIDES = [["acquire", "release"], ["full fence", "full fence"], ["sequence read", "sequence write"]]


@dataclass(frozen=True)
class End:
    """One end of an ordering."""

    label: str
    order: str
    partner: str
    function: str
    body: str

    def operations(self) -> set[tuple[str, str]]:
        """(operation, order) of what orders anything in its function."""
        found = {("fence", order) for order in _FENCE.findall(self.body)}
        found |= {(operation, order) for operation, _, order in _ACCESS.findall(self.body)}
        return {(operation, order) for operation, order in found if order != "RELAXED"}

    def fields(self) -> set[str]:
        return {field for _, field, _ in _ACCESS.findall(self.body)}


def words(comment: str) -> str:
    """A comment's text on one line."""
    return " ".join(re.sub(r"^[ /]*\*+/?", "", comment, flags=re.MULTILINE).split())


def essay(text: str) -> str:
    opening = _COMMENT.search(text)
    return words(opening.group()) if opening else ""


def ends(text: str) -> Iterator[End]:
    for comment in _COMMENT.finditer(text):
        function = _FUNCTION.match(text, comment.end())
        for label, order, partner in _END.findall(words(comment.group())):
            yield End(label, order, partner, *(function.groups() if function else ("nothing", "")))


def functions(text: str) -> dict[str, str]:
    return dict(_FUNCTION.findall(text))


def problems(text: str) -> list[str]:
    """What is wrong with the labels of a header, a line each."""
    found = list(ends(text))
    return [*essay_problems(text, found), *pair_problems(found), *end_problems(found), *unlabelled(text, found)]


def essay_problems(text: str, found: list[End]) -> Iterator[str]:
    named = set(re.findall(r"SYNC (\w+)", essay(text)))
    used = {end.label for end in found}
    for label in sorted(named ^ used):
        yield f"SYNC {label} is in {'the essay only' if label in named else 'the code only'}"
    for label in sorted(set(re.findall(r"SYNC (\w+)", text)) - used):
        yield f"SYNC {label} is mentioned, and has no ends"


def pair_problems(found: list[End]) -> Iterator[str]:
    for label in sorted({end.label for end in found}):
        pair = [end for end in found if end.label == label]
        if sorted(end.order for end in pair) not in _SIDES:
            yield f"SYNC {label} has the ends {sorted(end.order for end in pair)}"
        elif [end.partner for end in pair] != [end.function for end in reversed(pair)]:
            yield f"SYNC {label}: {' and '.join(f'{end.function} names {end.partner}' for end in pair)}"
        elif pair[0].order != "full fence" and pair[0].fields() != pair[1].fields():
            yield f"SYNC {label}: {pair[0].function} and {pair[1].function} touch different fields"


def end_problems(found: list[End]) -> Iterator[str]:
    for end in found:
        if end.operations() != _OPERATIONS.get(end.order):
            yield f"SYNC {end.label}: {end.function} says {end.order} and does {sorted(end.operations())}"


def unlabelled(text: str, found: list[End]) -> Iterator[str]:
    labelled = {end.function for end in found}
    for function, body in functions(text).items():
        if function not in labelled and re.search("__ATOMIC_(?!RELAXED)", body):
            yield f"{function} orders something and has no label"


# ---- the header -----------------------------------------------------------------------------------------------------


def test_every_ordering_has_two_ends_that_name_each_other() -> None:
    assert problems(HEADER) == []


def test_the_labels_are_those_of_the_protocol() -> None:
    assert sorted({end.label for end in ends(HEADER)}) == sorted(LABELS)
    assert sorted(re.findall(r"SYNC (\w+)", essay(HEADER))) == sorted(LABELS)


def test_sleep_is_fenced_at_both_ends_and_the_others_are_not() -> None:
    fenced = [end.label for end in ends(HEADER) if end.order == "full fence"]
    assert fenced == ["sleep", "sleep"]


# ---- the checker ----------------------------------------------------------------------------------------------------


def without_end(label: str, which: int) -> str:
    """The header without the first or the second end of a label: the comment goes, the code stays."""
    begin = [match.start() for match in re.finditer(rf"SYNC {label} \(", HEADER)][which]
    return HEADER[:begin] + HEADER[HEADER.index(")", begin) + 1 :]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("label", LABELS)
def test_checker_misses_an_end_that_is_dropped(label: str, which: int) -> None:
    end = [end for end in ends(HEADER) if end.label == label][which]
    found = problems(without_end(label, which))
    assert any(problem.startswith(f"SYNC {label} has the ends") for problem in found)
    assert f"{end.function} orders something and has no label" in found


@pytest.mark.parametrize("label", LABELS)
def test_checker_misses_a_label_that_the_essay_does_not_name(label: str) -> None:
    opening = re.sub(rf"SYNC {label}\b", "", HEADER[: HEADER.index("#ifndef")])
    assert f"SYNC {label} is in the code only" in problems(opening + HEADER[HEADER.index("#ifndef") :])


def test_checker_objects_to_a_label_that_only_the_essay_names() -> None:
    assert "SYNC drain is in the essay only" in problems(HEADER.replace("SYNC ledger.", "SYNC ledger, SYNC drain."))


def test_checker_objects_to_a_field_whose_label_does_not_exist() -> None:
    text = HEADER.replace("(p) SYNC store_len */", "(p) SYNC stored */")
    assert "SYNC stored is mentioned, and has no ends" in problems(text)


@pytest.mark.parametrize(
    "function",
    [
        "zbuf_assign",
        "zbuf_assigned",
        "zbuf_acknowledge",
        "zbuf_acknowledged",
        "zbuf_store",
        "zbuf_stored",
        "zbuf_sleep",
        "zbuf_fence_sleepers",
        "zbuf_set_state",
        "zbuf_state",
    ],
)
@pytest.mark.parametrize("order", ["RELAXED", "CONSUME"])
def test_checker_objects_to_an_order_that_is_not_the_comment_s(function: str, order: str) -> None:
    body = functions(HEADER)[function]
    weakened = re.sub("__ATOMIC_(RELEASE|ACQUIRE|SEQ_CST)", f"__ATOMIC_{order}", body)
    assert weakened != body
    assert any(f" {function} says " in problem for problem in problems(HEADER.replace(body, weakened)))


def test_checker_objects_to_ends_that_touch_different_fields() -> None:
    body = functions(HEADER)["zbuf_assigned"]
    found = problems(HEADER.replace(body, body.replace("kernel_gen", "kernel_len")))
    assert "SYNC assign: zbuf_assign and zbuf_assigned touch different fields" in found


def test_checker_objects_to_an_end_that_names_another_partner() -> None:
    text = HEADER.replace("(acquire; pairs with zbuf_assign)", "(acquire; pairs with zbuf_store)")
    assert "SYNC assign: zbuf_assign names zbuf_assigned and zbuf_assigned names zbuf_store" in problems(text)


def test_checker_objects_to_an_end_without_a_function() -> None:
    text = HEADER.replace("static inline uint32_t zbuf_assigned(", "static uint32_t zbuf_assigned(")
    assert any("nothing says acquire" in problem for problem in problems(text))


# ---- everything else ------------------------------------------------------------------------------------------------

_SOURCES = [
    path
    for folder in ("shared", "producer", "consumer")
    for pattern in ("*.pyx", "*.pxd", "*.h", "*.c")
    for path in sorted((ROOT / folder).rglob(pattern))
    if path != ROOT / "shared" / "zbuf.h"
]
_ATOMIC = re.compile(r"__atomic_|__sync_|__ATOMIC_|\batomic_|_Atomic|stdatomic|std::atomic|memory_order|libcpp\.atomic")
_ORDERED_FIELD = re.compile(r"(?:\.|->)(kernel_gen|store_len|sleeping|passed_gen)\b")
# The flags by which a thread stops a loop of its own process, in no shared memory: these lines, there and nowhere else.
_PRIVATE_FLAG = re.compile(r"\s*#define (raise_flag|lower_flag|is_raised)\(flag\) __atomic_(load|store)_n\(flag, .*\)")


_OF_ONE_PROCESS = {"mapping.h"}
"""Files whose atomic operations are between the threads of one process and its signal handler, in no shared memory."""


def stray_atomics(name: str, text: str) -> list[str]:
    """Atomic operations of a file other than zbuf.h, and plain accesses to what zbuf.h orders: a line each."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#") or "#define" in line]
    return [
        line.strip()
        for line in lines
        if (
            name not in _OF_ONE_PROCESS
            and _ATOMIC.search(line)
            and not (name == "spin.h" and _PRIVATE_FLAG.fullmatch(line))
        )
        or _ORDERED_FIELD.search(line)
    ]


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.name)
def test_shared_fields_are_touched_through_the_header_only(path: Path) -> None:
    assert stray_atomics(path.name, path.read_text()) == []


def test_the_sources_that_share_memory_are_among_those_looked_at() -> None:
    assert {"layout.pyx", "descriptor.pyx", "pump.pyx", "turn.pyx", "buffer.pyx", "segment_reader.pyx"} <= {
        path.name for path in _SOURCES
    }


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("producer/ring/pump.pyx", {"&self._flag"}),
        ("consumer/reading/segment_reader.pyx", {"&self._hung_up", "&self._interrupted"}),
    ],
)
def test_loops_use_private_flags_for_their_own_only(path: str, flags: set[str]) -> None:
    uses = re.findall(r"\b(?:raise_flag|lower_flag|is_raised)\(([^)]*)\)", (ROOT / path).read_text())
    assert set(uses) == flags


@pytest.mark.parametrize(
    "line",
    [
        "    #define raise_flag(flag) __atomic_store_n(&ack->sleeping, 1, __ATOMIC_SEQ_CST)",
        "    __atomic_thread_fence(__ATOMIC_SEQ_CST);",
        "    __sync_synchronize();",
        "    if header.kernel_gen != gen:",
        "    return ack->sleeping;",
    ],
)
@pytest.mark.parametrize("name", ["spin.h", "segment_reader.pyx"])
def test_an_access_that_goes_around_the_header_is_found(name: str, line: str) -> None:
    assert stray_atomics(name, f"first\n{line}\nlast\n") == [line.strip()]


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.name)
def test_labels_that_other_files_mention_exist(path: Path) -> None:
    assert set(re.findall(r"\bSYNC (\w+)", path.read_text())) <= set(LABELS)
