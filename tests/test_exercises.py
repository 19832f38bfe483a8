"""All exercises in one loop: a mistake gets its own hint, solutions pass, stubs do not; and the engine by itself."""

import ast
import copy
import functools
import importlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT

from helpers import GIB, attempt, catalogue, check, checks, lessons
from helpers import language as page_language
from helpers.check import Exercise, equal
from helpers.checkpoint import Checkpoint
from helpers.difference import Raised
from helpers.lessons import balance, l01, l06, l07, l09
from helpers.lessons.l02 import exercises as l02
from helpers.lessons.l03 import exercises as l03
from helpers.lessons.l04 import exercises as l04
from helpers.lessons.l05 import exercises as l05
from helpers.lessons.lA1 import exercises as lA1
from tools.lessons.checks import compare, read_terms
from tools.lessons.source import parse, read_lesson

SOURCES = {path.name[:2]: path for path in sorted((ROOT / "notebooks" / "source").glob("*.py"))}
ROOMS = {
    room.name: importlib.import_module(f"helpers.lessons.{room.name}")
    for room in pkgutil.iter_modules(lessons.__path__)
}
EXERCISES = {
    f"{room}.{key}": value for room, module in ROOMS.items() for key, value in vars(module).items()
    if isinstance(value, Exercise)
}  # fmt: skip
TERMS = read_terms(ROOT / "assets" / "terms.csv")
ENGLISH = os.environ | {"COURSE_LANG": "en"}
IN_LESSONS = [name for name in EXERCISES if ".ex" in name]


@functools.cache
def cells_of(name: str) -> dict[str, str]:
    lesson = read_lesson(SOURCES[name[1:3]])
    return {cell.key: cell.text["en"] for cell in lesson.cells if cell.kind == "code"}


def said(capsys, exercise: Exercise, solution, *more) -> str:
    """What a learner reads after the check, in both languages."""
    capsys.readouterr()
    assert exercise.check(solution, *more) is None
    return capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- rooms and lessons


def defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """The top-level statements that bind a name by a definition or an import."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.asname or name.name.split(".")[0]: node for name in node.names}
    return found


def solution_of(name: str, cell: str):
    """The function that the exercise's cell defines, with the definitions of the lesson that it uses."""
    cells, key = cells_of(name), name.split(".")[1]
    known = {}
    for other, code in cells.items():
        if not re.fullmatch(r"ex\d.*", other):
            known |= defined(parse(code))
    tree, names = parse(cells[cell]), {}

    def provide(node):
        for used in {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {*names, *defined(tree)}:
            if used in known:
                names[used] = None  # on its way
                provide(known[used])
                exec(ast.unparse(known[used]), names)

    provide(tree)
    exec(cells[cell], names)
    return names[next(iter(defined(parse(cells[key]))))]


def test_every_lesson_has_its_room_and_every_exercise_its_check():
    for number, source in SOURCES.items():
        cells, room = read_lesson(source).cells, f"l{number}"
        keys = {cell.key for cell in cells if "exercise" in cell.tags}
        assert keys == {name.split(".")[1] for name in IN_LESSONS if name.startswith(f"{room}.")}, source.name
        code = {cell.key: cell.text["en"] for cell in cells if cell.kind == "code"}
        assert all(f"{room}.{key}.check(" in code[f"{key}-check"] for key in keys), source.name


@pytest.mark.parametrize("name", IN_LESSONS)
def test_the_lessons_solution_is_accepted_and_its_stub_is_not(name, capsys):
    key = name.split(".")[1]
    assert said(capsys, EXERCISES[name], solution_of(name, f"{key}-solution")) == "解出来了！\nSolved!\n"
    zh, en = said(capsys, EXERCISES[name], solution_of(name, key)).splitlines()
    assert (zh, en) == tuple(map("{}{}".format, ("还没有解出来：", "Not solved yet: "), EXERCISES[name].start))


def test_rooms_and_the_engine_are_imported_cheaply():
    """Lessons 01 and 02 run without torch in 2 GB."""
    code = f"import sys, helpers.checks, {', '.join(f'helpers.lessons.{room}' for room in ROOMS)}\n"
    code += "print([name for name in ('torch', 'numpy', 'transformers', 'openai', 'vllm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_notebooks_of_0_1_0_still_find_their_checks(capsys):
    moved = {"lA4.ex1": "03_2", "lA4.ex2": "03_3", "lA2.ex1": "04_3", "lA2.ex2": "04_4"}
    moved |= {"l05.ex3": "05_2", "l08.ex4": "08_1", "l09.ex1": "A1_4"}
    newer = {"l03.ex2", "l05.ex2", "l08.ex1"} | {name for name in IN_LESSONS if name.startswith("lA3")}
    for name in set(IN_LESSONS) - newer:
        room, key = name.split(".")
        old = moved.get(name, f"{room[1:]}_{key[2:]}")
        assert getattr(checks, f"exercise_{old}") == EXERCISES[name].check
    checks.exercise_06_2(solution_of("l06.ex2", "ex2-solution"), MEASURED)
    old = {name: l09.REPORT[name] for name in ("budget", "cases", "right", "tokens")}
    checks.capstone_A1(l09.ROWS, old, l09.choose_budget)
    assert capsys.readouterr().out == 2 * "解出来了！\nSolved!\n"
    with pytest.raises(AttributeError):
        _ = checks.exercise_03_9


# ---------------------------------------------------------------------------------------------- mistakes and hints


def says(hint, texts) -> bool:
    """Whether a hint is what the texts say, whatever stands in their braces."""
    patterns = [re.sub(r"\\\{.*?\\\}", ".+", re.escape(text)) for text in texts]
    return hint is not None and all(re.fullmatch(p, h, re.DOTALL) for p, h in zip(patterns, hint, strict=True))


def faults(exercise: Exercise) -> list[str]:
    """What the author of an exercise did wrong, a sentence each."""
    cases = exercise.named_cases()

    def answers(function):
        return [exercise.answer(function, copy.deepcopy(case)) for case in cases.values()]

    def alike(some, others):
        return all(equal(exercise.same, *pair) for pair in zip(some, others, strict=True))

    right = answers(exercise.right)
    made = exercise.cases() if callable(exercise.cases) else exercise.cases
    found = [] if len(made) == len(cases) else ["two cases have one name"]
    found += [
        f"right raises {answer!r} for {name}"
        for name, answer in zip(cases, right, strict=True)
        if type(answer) is Raised
    ]
    if hint := exercise.diagnose(exercise.right):
        found.append(f"right fails its own case: {hint[1]}")
    known = []
    for number, (wrong, *texts) in enumerate(exercise.mistakes):
        known.append(answers(wrong))
        first = next(n for n, others in enumerate(known) if n == number or alike(known[number], others))
        if alike(known[number], right):
            found.append(f"no case reaches mistake {number}: {texts[1]}")
        elif first != number:
            found.append(f"mistakes {first} and {number} answer alike: {texts[1]}")
        elif not says(hint := exercise.diagnose(wrong), texts):
            found.append(f"mistake {number} is told {hint}, not {texts[1]}")
    return found


@pytest.mark.parametrize("name", EXERCISES)
def test_every_mistake_gets_its_own_hint_and_right_gets_none(name):
    assert EXERCISES[name].mistakes and faults(EXERCISES[name]) == []


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_say_the_same_in_both_languages_with_the_courses_terms(name):
    for zh, en in [EXERCISES[name].start, *(texts for _, *texts in EXERCISES[name].mistakes)]:
        assert compare({"zh": zh, "en": en}, TERMS) == [], en


# Wrong answers that no mistake of the rooms is: their hint is the engine's own.
OTHERS = [
    ("l01.ex1", lambda driver: "gpu", "'579.99': 'cu12' is wanted, not 'gpu'"),
    ("l01.ex1", lambda driver: l01.dependency_set(driver, none="too old"), "None: 'cpu' is wanted, not 'too old'"),
    ("l01.ex2", lambda *case: 38752, "Qwen3-8B, 16 GiB: 0 is wanted, not 38752"),
    ("l01.ex2", lambda *case: 12345, "Qwen3-8B, 24 GiB: 38752 is wanted, not 12345"),
    ("l01.ex3", lambda config, gpus: 7, "Qwen3-8B, 1 GPU: 147456 is wanted, not 7"),
    ("l02.ex1", lambda path: int.from_bytes(path.read_bytes()[:8], "big"), "model.safetensors: 30 is wanted, not"),
    ("l02.ex1", lambda path: 30, "qwen3-tiny: 1896480 is wanted, not 30"),
    ("l02.ex3", lambda folder: ["a"], "is wanted, not ['a']"),
    ("l03.ex1", lambda x, weight, eps: (weight * x)[..., :4], "the shape should be (2, 4, 8), it is (2, 4, 4)"),
    ("l03.ex1", lambda x, weight, eps: 3.0, "a tensor is wanted, this is float"),
    ("l03.ex1", lambda x, weight, eps: x * float("nan"), "there is NaN in the result"),
    ("l03.ex1", lambda x, weight, eps: l03.right_norm(x, weight, eps) > 0, "the dtype should be torch.float32"),
    ("l03.ex2", lambda query, *rest: query, "query (1, 6, 5, 8): the values differ"),
    ("l03.ex2", lambda query, key, *rest: key, "the shape should be (1, 6, 5, 8), it is (1, 2, 5, 8)"),
    ("l03.ex2", lambda query, *rest: query @ rest[0], "RuntimeError"),
    ("l04.ex1", lambda logits, top_k: l04.right_route(logits, 5), "item 1: the shape should be (6, 3), it is (6, 5)"),
    ("l04.ex1", lambda logits, top_k: (..., ...), "three steps"),
    ("l04.ex2", lambda *case: l04.run_experts(*case)[:4], "output: the shape should be (5, 3), it is (4, 3)"),
    ("l04.ex2", lambda *case: 1.0, "output: a tensor is wanted, this is float"),
    ("lA2.ex1", lambda config: (28991029248, 1811939328), "Qwen3-235B-A22B: (227096395776, 14193524736) is wanted"),
    ("lA2.ex2", lambda *case: torch.tensor(balance.load_balancing_loss(*case).item()), "its gradient is lost"),
    ("lA2.ex2", torch.no_grad()(balance.load_balancing_loss), "its gradient is lost"),
    ("lA2.ex2", lambda *case: balance.load_balancing_loss(*case) + 1, "loss: the values differ"),
    ("l05.ex1", lambda system, question: 3, "a text is wanted, this is int"),
    ("l05.ex1", lambda system, question: l05.written(system, question, think="<think>\n</think>\n\n"), "only newlines"),
    ("l05.ex2", lambda probabilities, top_p: 0.5, "a list is wanted, this is float"),
    ("l05.ex2", lambda probabilities, top_p: [1.0], "is wanted, not [1.0]"),
    ("l05.ex3", lambda logits, top_p: logits, "at [0, 0] it should be -inf"),
    ("l05.ex3", lambda logits, top_p: logits[0], "the shape should be (2, 3), it is (3,)"),
    ("l06.ex1", lambda *case: [1, 2, 3], "2 things are wanted, not 3"),
    ("l06.ex1", lambda ids, think, end: ids[ids.index(end) :], "2 things are wanted, not 3"),
    ("l06.ex2", lambda accuracy, share: 16, "32 is wanted, not 16"),
    ("l07.ex1", lambda *case: l07.request(*case, presence_penalty=0), "presence_penalty: 1.5 is wanted, not 0"),
    ("l07.ex1", lambda model, question: question, "a dictionary is wanted, this is str"),
    ("l07.ex2", lambda chunks: l07.read_stream(chunks, names=["nothing"]), "append thought and answer"),
    ("l07.ex2", lambda chunks: "text", "2 things are wanted, this is str"),
    ("l07.ex3", lambda deltas: {}, "a list is wanted, this is dict"),
    ("l07.ex3", lambda deltas: [], "join id, name and arguments"),
    ("l08.ex1", lambda start, moments, tokens: 0.5, "2 things are wanted, this is float"),
    ("l08.ex1", lambda start, moments, tokens: (..., ...), "then the time from first to last piece"),
    ("l09.ex1", lambda measured, allowed_loss: 32, "allowed_loss=0.1: 48 is wanted, not 32"),
    ("lA1.ex1", lambda *numbers: hash(f"{sorted(numbers)}") % 8 == 0, "the built-in hash of a string differs"),
    ("lA1.ex1", lambda *numbers: hash(bytes(n % 99 for n in sorted(numbers))) % 8 == 0, "the built-in hash"),
    ("lA1.ex1", lambda *numbers: hash(("sum", *sorted(numbers))) % 8 == 0, "the built-in hash of a string differs"),
    ("lA1.ex2", lambda *case: 5, "a list is wanted, this is int"),
    ("lA1.ex2", lambda ids, start, silent: [-100] * (len(ids) - 1), "[-100, -100, 14, 15, -100, 17] is wanted, not"),
    ("lA1.ex3", lambda load, probabilities: 1.0, "is wanted, not 1.0"),
    ("lA4.ex1", lambda query, *rest: query, "2 things are wanted, this is Tensor"),
    ("lA4.ex1", lambda *case: (..., ...), "a norm and a rotation"),
    ("lA4.ex2", lambda config: 147456, "Qwen3-0.6B: 114688 is wanted, not 147456"),
]


@pytest.mark.parametrize(("name", "wrong", "hint"), OTHERS, ids=[f"{name}: {hint}" for name, _, hint in OTHERS])
def test_any_other_wrong_answer_gets_a_general_hint(name, wrong, hint, capsys):
    printed = said(capsys, EXERCISES[name], wrong)
    assert hint in printed and len(printed.splitlines()) == 2


def choose_first(logits, top_k):
    scores, ids = logits.topk(top_k)
    return [scores.softmax(-1), ids]


ALSO_RIGHT = [
    ("l01.ex2", lambda *case: float(l01.largest_context(*case))),
    ("l03.ex1", lambda x, weight, eps: l03.right_norm(x.double(), weight.double(), eps)),
    ("l04.ex1", choose_first),
    ("l07.ex1", lambda *case: l07.request(*case, max_tokens=8, seed=1)),
    ("lA1.ex1", lambda *numbers: sum(n**5 for n in numbers) * 2654435761 % 2**32 >> 29 == 5),
    ("lA1.ex1", lambda *numbers: hash(tuple(sorted(numbers))) // 64 % 8 == 0),
    ("lA1.ex2", lambda *case: torch.tensor(lA1.make_targets(*case))),
    ("lA1.ex3", lambda load, probabilities: len(load) * torch.dot(load, probabilities.mean(0))),
]


@pytest.mark.parametrize(("name", "solution"), ALSO_RIGHT, ids=[name for name, _ in ALSO_RIGHT])
def test_other_right_answers_are_accepted(name, solution):
    assert EXERCISES[name].diagnose(solution) is None


MEASURED = {17: 0.15, 34: 0.4, 51: 0.65, 68: 0.6, None: 1.0}


def test_a_measurement_of_the_learner_is_a_case_of_06_2(capsys):
    def knows_the_tables(accuracy, share):
        return l06.choose_budget(accuracy, share) if 17 not in accuracy else 34

    assert "Solved!" in said(capsys, l06.ex2, knows_the_tables)
    assert "17: 0.15" in said(capsys, l06.ex2, knows_the_tables, MEASURED)
    assert "Solved!" in said(capsys, l06.ex2, l06.choose_budget, MEASURED)


def test_references_are_those_of_the_helpers():
    """What a room computes itself, against the code that the course uses elsewhere."""
    for name, (card, _, _, limit) in l01.ex2.cases.items():
        config = l01.CONFIGS[name.split(",")[0].removeprefix("Qwen3-")] | {"max_position_embeddings": limit}
        assert l01.largest_context(*l01.ex2.cases[name]) == catalogue.fits(config, card).max_context
    for config, gpus in l01.ex3.cases.values():
        assert catalogue.fits(config, 80 * GIB, 1, gpus=gpus).kv_cache == l01.kv_bytes_per_card(config, gpus)
    assert l02.count(l02.TINY) == catalogue.parameters(Checkpoint(l02.TINY.parent).config)


@pytest.mark.parametrize(
    ("name", "keys", "printed"),
    [
        ("l03", ["ex2"], ("your attention\n", "the reference answer\n")),
        ("l04", ["ex1", "ex2"], [f"router: {who}\nloop: {who}\n" for who in ("yours", "the reference answer")]),
        ("l07", ["ex2"], ("Yours:\n", "The reference answer:\n")),
        ("l08", ["ex1"], ("your function\n", "the reference answer\n")),
        ("lA3", ["ex2"], ("gather: yours\n", "gather: the reference answer\n")),
    ],
)
def test_a_lesson_goes_on_with_yours_or_ours_and_says_which(name, keys, printed, capsys, monkeypatch):
    monkeypatch.setattr(page_language, "LANGUAGE", "en")
    room = ROOMS[name]
    before = ("gather", room.ex2) if name == "lA3" else ()
    right = [getattr(room, key).right for key in keys]
    own = [lambda *case, solution=solution: solution(*case) for solution in right]
    for given, wanted, text in ((own, own, printed[0]), ([lambda *case: ...] * len(own), right, printed[1])):
        taken = room.yours_or_ours(*before, *given)
        assert (taken if isinstance(taken, list) else [taken]) == wanted and capsys.readouterr().out == text


# ---------------------------------------------------------------------------------------------- the engine


def toy(right=lambda numbers: [2 * n for n in numbers], mistakes=(), cases=(([1, 2],), ([3],), ([],)), **more):
    return Exercise(right, list(cases), ("每个数乘 2。", "double each number."), list(mistakes), **more)


ADDS = lambda numbers: [n + 2 for n in numbers], "这是加，不是乘。", "this adds instead of multiplying."
SQUARES = lambda numbers: [n**2 for n in numbers], "这是平方。", "these are squares."


def adds_but_squares_three(numbers):
    return SQUARES[0](numbers) if numbers == [3] else ADDS[0](numbers)


def test_all_cases_are_tried_before_a_mistake_is_named():
    exercise = toy(mistakes=[ADDS, SQUARES])
    assert exercise.diagnose(ADDS[0]) == ADDS[1:] and exercise.diagnose(SQUARES[0]) == SQUARES[1:]
    zh, en = exercise.diagnose(adds_but_squares_three)
    assert en == "[1, 2]: [2, 4] is wanted, not [3, 4]. double each number."
    assert zh == "[1, 2]：应该得到 [2, 4]，得到的是 [3, 4]。每个数乘 2。"


def test_a_solution_is_taken_once_it_is_right_and_until_then_the_reference():
    exercise = Exercise(toy().right, lambda *more: [([1, 2],), *((case,) for case in more)], toy().start, [ADDS])

    def right_for_small_numbers(numbers):
        return [2 * n if n < 9 else n for n in numbers]

    assert exercise.yours_or_ours(right_for_small_numbers) is right_for_small_numbers
    assert exercise.yours_or_ours(right_for_small_numbers, [9]) is exercise.right  # a case that a lesson adds
    for wrong in (ADDS[0], lambda numbers: ..., lambda numbers: numbers[9]):
        assert exercise.yours_or_ours(wrong) is exercise.right


@pytest.mark.parametrize(
    ("mistakes", "right", "fault"),
    [
        ([ADDS, SQUARES], None, None),
        ([(lambda numbers: [n + n for n in numbers], "甲", "a")], None, "no case reaches mistake 0: a"),
        ([ADDS, (lambda numbers: [2 + n for n in numbers], "乙", "b")], None, "mistakes 0 and 1 answer alike: b"),
        ([ADDS], lambda numbers, seen=[]: seen.append(1) or len(seen), "right fails its own case: "),
        ([ADDS], lambda numbers: [2 * float("nan") for n in numbers], "right fails its own case: "),
        ([ADDS], lambda numbers: ..., "right fails its own case: double each number."),
        ([ADDS], lambda numbers: [2 * n for n in number], "right raises NameError for [1, 2]"),  # noqa: F821
        (
            [ADDS],
            lambda numbers: [numbers.pop() * 2 for _ in numbers[:]][::-1],
            "the function changes what it is given",
        ),
    ],
)
def test_an_authors_faults_are_found(mistakes, right, fault):
    """What ``test_every_mistake_gets_its_own_hint_and_right_gets_none`` would say of a room with such an exercise."""
    found = faults(toy(mistakes=mistakes, **({"right": right} if right else {})))
    assert (found == []) if fault is None else any(fault in sentence for sentence in found), found


def test_cases_that_look_alike_in_short_need_names():
    long, other = list(range(50)), list(range(49)) + [0]
    assert faults(toy(cases=[(long,), (other,)])) == ["two cases have one name"]
    named = Exercise(toy().right, {"a": (long,), "b": (other,)}, toy().start)
    assert faults(named) == []


def test_two_mistakes_that_only_one_case_tells_apart_need_that_case():
    assert "answer alike" in faults(toy(mistakes=[ADDS, SQUARES], cases=[([2],), ([-1],)]))[0]
    assert faults(toy(mistakes=[ADDS, SQUARES])) == []


def loops(numbers):
    while True:
        pass


def loops_and_catches_all(numbers):
    while True:
        try:
            raise ValueError
        except Exception:  # as learners write it
            continue


@pytest.mark.parametrize("endless", [loops, loops_and_catches_all])
def test_a_loop_that_never_ends_is_ended(endless, capsys, monkeypatch):
    monkeypatch.setattr(attempt, "SECONDS", 0.1)
    printed = said(capsys, toy(mistakes=[ADDS]), endless)
    assert printed.splitlines()[1].startswith("Not solved yet: not done after 0.1 seconds: is there a loop")


def waits(numbers):
    """As an attempt does that a busy machine gives no processor."""
    time.sleep(0.3)
    return [2 * n for n in numbers]


@pytest.mark.parametrize(("most", "solved"), [(1000, True), (1, False)])
def test_who_gets_little_of_a_processor_has_more_time_but_not_for_ever(most, solved, capsys, monkeypatch):
    monkeypatch.setattr(attempt, "SECONDS", 0.1)
    monkeypatch.setattr(attempt, "MOST", most)
    printed = said(capsys, toy(), waits if solved else lambda numbers: time.sleep(600))
    assert ("Solved!" in printed) == solved and ("not done after 0.1 seconds" in printed) != solved


def test_an_answer_that_never_ends_is_no_answer(capsys, monkeypatch):
    def numbers_for_ever(numbers):
        while True:
            yield 1

    monkeypatch.setattr(attempt, "SECONDS", 0.1)
    assert "a list is wanted, this is generator" in said(capsys, toy(), numbers_for_ever)
    listed = toy(ask=lambda solution, numbers: list(solution(numbers)))
    assert "is there a loop that never ends" in said(capsys, listed, loops_in_its_answer)


def loops_in_its_answer(numbers):
    while True:
        yield from ()


def test_the_timer_of_others_goes_on(capsys):
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600)
        assert "Solved!" in said(capsys, toy(), toy().right)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < left <= 3600
        signal.raise_signal(signal.SIGALRM)
        assert rang == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def no_timer():
    """The timer of the test's own timeout is set aside."""
    others = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *others)


def test_no_timer_is_left_behind(no_timer, capsys, monkeypatch):
    monkeypatch.setattr(attempt, "SECONDS", 0.1)
    handler = signal.getsignal(signal.SIGALRM)
    said(capsys, toy(), loops)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0) and signal.getsignal(signal.SIGALRM) == handler


def test_beside_the_main_thread_it_checks_without_a_timer():
    hints = []
    thread = threading.Thread(target=lambda: hints.append(toy(mistakes=[ADDS]).diagnose(ADDS[0])))
    thread.start()
    thread.join()
    assert hints == [ADDS[1:]]


def test_what_is_printed_is_cut(capsys, monkeypatch):
    def prints(numbers):
        print("checking", numbers)
        return [2 * n for n in numbers]

    def floods(numbers):
        while True:
            print("checking", numbers)

    assert said(capsys, toy(), prints) == "checking [1, 2]\nchecking [3]\nchecking []\n解出来了！\nSolved!\n"
    monkeypatch.setattr(attempt, "SECONDS", 0.1)
    flood, zh, en = said(capsys, toy(), floods).rsplit("\n", 3)[:3]
    assert flood.startswith("checking [1, 2]\n") and flood.endswith(" …") and len(flood) < 400 and "loop" in en


def test_a_changed_input_reaches_nobody_else_and_is_named(capsys):
    def pops(numbers):
        return [2 * numbers.pop(0) for _ in range(len(numbers))]

    exercise = toy(mistakes=[ADDS])
    assert said(capsys, exercise, pops).endswith(
        "Not solved yet: the function changes what it is given: change a copy.\n"
    )
    assert exercise.cases[0] == ([1, 2],)

    def clears(numbers):
        answer = [n + 2 for n in numbers]
        numbers.clear()
        return answer

    assert exercise.diagnose(clears) == ADDS[1:]  # the answers are known, and come first
    zeroed = toy(right=lambda x: 2 * x, cases=[(torch.ones(3),)])
    assert "change a copy" in said(capsys, zeroed, lambda x: x.mul_(2).clone())


def picks(rows):
    return rows[0]["shape"]


def test_an_exception_is_an_answer():
    given = [([{"shape": 1}],), ([{}],), ([],)]
    lost = (lambda rows: rows[0]["shape"] if rows else 0, "可能没有 shape。", "there may be no shape.")
    empty = (lambda rows: rows[0].get("shape", 0), "可能一行也没有。", "there may be no row.")
    both = (picks, "两样都可能没有。", "either may be missing.")
    exercise = toy(right=lambda rows: rows[0].get("shape", 0) if rows else 0, mistakes=[lost, empty, both], cases=given)
    assert faults(exercise) == []
    assert exercise.diagnose(lambda rows: [row["shape"] for row in rows][0]) == both[1:]
    assert exercise.diagnose(lambda rows: rows and rows[0]["size"])[1].startswith(
        "[{'shape': 1}]: your code raised KeyError"
    )


def test_right_may_raise_too(capsys):
    def strict(numbers):
        if not numbers:
            raise ValueError("nothing to double")
        return [2 * n for n in numbers]

    def lax(numbers):
        return [2 * n for n in numbers]

    exercise = toy(right=strict)
    assert "Solved!" in said(capsys, exercise, strict)
    assert "[]: ValueError is wanted, not []" in said(capsys, exercise, lax)


def test_an_error_shows_the_learners_own_line():
    """In IPython, where a cell is compiled under a name of its own and may call a function of another cell."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in (
    "from helpers.check import Exercise\\ndef double(n):\\n    return 2 * n",
    "def broken(numbers):\\n    first = numbers[0]  # fine\\n    return [double(first), numbers['x']]",
    "def calls(numbers):\\n    return double()",
    "toy = Exercise(lambda numbers: [2], [([1],)], ('', ''))\\ntoy.check(broken)\\ntoy.check(calls)\\ntoy.check(3)",
):
    assert shell.run_cell(cell).success
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=ENGLISH)
    first, second, third = done.stdout.splitlines()
    assert "TypeError: list indices must be integers" in first
    assert first.endswith("(line 3: return [double(first), numbers['x']])")
    assert "missing 1 required positional argument" in second and second.endswith("(line 2: return double())")
    assert third.endswith("'int' object is not callable")


@pytest.mark.parametrize(
    ("solution", "hint"),
    [
        (lambda numbers: None, " ".join((check.NOTHING[1], "double each number."))),
        (lambda numbers: ..., "double each number."),
        (lambda numbers: [...], "double each number."),
        (lambda numbers: "24", "a list is wanted, this is str."),
        (lambda numbers: torch.tensor(numbers) * 2, "a list is wanted, this is Tensor."),
        (lambda numbers: [2 * n for n in numbers] + ["x" * 10**6], "[1, 2]: [2, 4] is wanted, not [2, 4, 'xxx"),
        (lambda numbers: {}["x" * 10**6], "[1, 2]: your code raised KeyError: 'xxx"),
        (lambda numbers: sys.exit(), "[1, 2]: your code raised SystemExit"),
        (lambda numbers: spiteful(), "a list is wanted, this is Spiteful."),
        (lambda: [], "takes 0 positional arguments but 1 was given"),
        (None, "'NoneType' object is not callable"),
    ],
)
def test_whatever_a_solution_does_ends_in_one_sentence(solution, hint, capsys):
    zh, en = said(capsys, toy(mistakes=[ADDS]), solution).splitlines()
    assert zh.startswith("还没有解出来：") and f"Not solved yet: {hint}" in en or hint in en
    assert len(zh) < 400 and len(en) < 400


def spiteful():
    class Spiteful:
        __eq__ = __repr__ = __iter__ = __len__ = lambda *_: 1 / 0

    return Spiteful()


def test_a_function_of_another_shape_than_the_lessons_own(capsys):
    printed = said(
        capsys, toy(right=lambda x: {"a": (x, x.sum())}, cases=[(torch.ones(2, 3),)]), lambda x: {"a": (x, x)}
    )
    assert "a: item 2: the shape should be (), it is (2, 3)." in printed


def test_ctrl_c_passes(no_timer):
    def interrupted(numbers):
        raise KeyboardInterrupt

    others = signal.setitimer(signal.ITIMER_REAL, 0)  # that of this test's own timeout
    try:
        with pytest.raises(KeyboardInterrupt):
            toy().check(interrupted)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)


@pytest.mark.parametrize(
    ("language", "expected"), [("zh", "还没有解出来：每个数乘 2。\n"), ("en", "Not solved yet: double each number.\n")]
)
def test_a_hint_speaks_the_pages_language(language, expected, capsys, monkeypatch):
    monkeypatch.setattr(page_language, "LANGUAGE", language)
    assert said(capsys, toy(), lambda numbers: ...) == expected


def test_the_engines_own_sentences_have_the_courses_terms():
    for zh, en in (check.NOTHING, check.CHANGED, check.TOO_LONG):
        assert compare({"zh": zh, "en": en}, TERMS) == []


def test_without_tensors_torch_stays_out():
    code = "import sys\nfrom helpers.check import Exercise\nExercise(len, [('ab',)], ('', '')).check(len)\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=ENGLISH)
    assert done.stdout == "Solved!\nFalse\n"
