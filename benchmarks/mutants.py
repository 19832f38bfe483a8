"""Do the tests notice? Small mistakes are put into helpers/, one at a time, and the tests that may notice are run.

A mutant is known by its text (file, function, lines before and after), not by its place: where code has moved, it is
looked for in the function of that name, then anywhere. The tests run in a clone of the last commit. Linux only.

    .venv/bin/python -m benchmarks.mutants draw [--seed 14] [--count 40] [--files REGEX] > LIST
    .venv/bin/python -m benchmarks.mutants run LIST [--out RESULTS] [--numbers 3 7]      # RESULTS is a LIST, too
"""

import argparse
import ast
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SWAPS = {ast.Lt: "< <=", ast.LtE: "<= <", ast.Gt: "> >=", ast.GtE: ">= >", ast.Eq: "== !=", ast.NotEq: "!= =="}
SWAPS |= {ast.In: "in not_in", ast.NotIn: "not_in in", ast.Is: "is is_not", ast.IsNot: "is_not is", ast.And: "and or"}
SWAPS |= {ast.Or: "or and", ast.Add: "+ -", ast.Sub: "- +", ast.Mult: "* /", ast.Div: "/ *", ast.FloorDiv: "// *"}
MESSAGES = re.compile(r"\w*Error|Hint|print|warn|add_argument")  # calls whose arguments are texts
LOOKS = {"alpha", "capsize", "dpi", "fontsize", "indent", "linewidth", "rotation", "stacklevel"}
FAST, SLOW = "not slow and not network and not gpu", "slow and not network and not gpu"
SILENCE = 400  # seconds: a test that takes longer hangs
HANGS = "hangs or crashes"
PYTEST = [sys.executable, "-m", "pytest", "-v", "-rfE", "-o", "addopts=", "-p", "no:cacheprovider"]
PYTEST += ["-o", f"faulthandler_timeout={SILENCE}", "-o", "faulthandler_exit_on_timeout=true"]


def edits(tree: ast.Module, raw: bytes):
    """(kind, start, end, new text) of every mutation of a module; offsets count bytes, as those of ast do."""
    starts = [0, *(match.end() for match in re.finditer(b"\n", raw))]

    def span(node):
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def swapped(kind, operator, left, right):
        is_text = any(isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", 0), str) for n in (left, right))
        if type(operator) in SWAPS and not (kind == "arithmetic" and is_text):
            old, new = (text.replace("_", " ") for text in SWAPS[type(operator)].split())
            start = raw.index(old.encode(), span(left)[1], span(right)[0])
            yield kind, start, start + len(old), new

    nodes, defaults = [tree], set()
    while nodes:
        node = nodes.pop()
        children = list(ast.iter_child_nodes(node))
        match node:
            case ast.JoinedStr() | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if MESSAGES.fullmatch(name):
                continue
            case ast.keyword(arg=name) if name in LOOKS:
                continue
            case ast.FunctionDef(args=arguments, body=body):  # neither decorators nor annotations
                values = [value for value in (*arguments.defaults, *arguments.kw_defaults) if value]
                defaults.update(map(id, values))
                children = values + body
            case ast.ClassDef(body=children):
                pass
            case ast.AnnAssign(value=value):
                children = [value] if value else []
            case ast.Compare(left=left, ops=[operator, *_], comparators=[right, *_]):
                yield from swapped("comparison", operator, left, right)
            case ast.BinOp(left=left, op=operator, right=right):
                yield from swapped("arithmetic", operator, left, right)
            case ast.BoolOp(op=operator, values=[left, right, *_]):
                yield from swapped("and/or", operator, left, right)
            case ast.Constant(value=bool() | int() | float() as value):
                new = repr(not value if isinstance(value, bool) else value + 1)
                yield "default" if id(node) in defaults else "constant", *span(node), new
            case ast.Return(value=ast.expr()):
                yield "return", span(node)[0], span(node)[0] + len("return"), "return None;"
            case ast.Raise():
                yield "raise", span(node)[0], span(node)[0], "if False: "
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                (start, end), text = span(test), ast.get_source_segment(raw.decode(), test)
                yield "condition", start, end, f"not ({text})"
                if isinstance(node, ast.If) and not node.orelse:
                    yield "body", start, end, f"({text}) and False"
        nodes += children


def scopes(tree, prefix=""):
    """(qualified name, first line, line after the last) of all functions and classes."""
    for node in ast.iter_child_nodes(tree):
        inner = prefix
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node.lineno - 1, node.end_lineno
            inner = f"{prefix}{node.name}."
        yield from scopes(node, inner)


def find(lines: list[str], text: str) -> list[int]:
    """Where the lines of ``text`` begin among ``lines``, whatever the indentation."""
    lines, wanted = [line.strip() for line in lines], [line.strip() for line in text.split("\n")]
    return [at for at in range(len(lines)) if lines[at : at + len(wanted)] == wanted]


def mutants(file: Path) -> list[dict]:
    """All mutants of a file; their text takes as many lines as make it the only one in its function."""
    text, found = file.read_text(encoding="utf-8"), []
    raw, lines, tree = text.encode(), text.split("\n"), ast.parse(text)
    functions = [("", 0, len(lines)), *scopes(tree)]
    for kind, start, end, new in edits(tree, raw):
        after = (raw[:start] + new.encode() + raw[end:]).decode().split("\n")
        low, high = raw.count(b"\n", 0, start), raw.count(b"\n", 0, end) + 1
        name, top, bottom = min((s for s in functions if s[1] <= low and high <= s[2]), key=lambda s: s[2] - s[1])
        while len(find(lines[top:bottom], "\n".join(lines[low:high]))) > 1 and high < bottom:
            high += 1
        old, new = (textwrap.dedent("\n".join(each[low:high])) for each in (lines, after))
        if len(find(lines[top:bottom], old)) == 1:
            place = {"file": file.relative_to(ROOT).as_posix(), "function": name}
            found.append({"kind": kind} | place | {"original": old, "mutated": new})
    return found


def draw(seed: int, count: int, files: str) -> dict:
    """One mutant a file, then more where there is more; at most one a function, all kinds equally likely."""
    dice, drawn = random.Random(seed), []
    paths = [path for path in sorted((ROOT / "helpers").rglob("*.py")) if re.search(files, path.name)]
    pools = [pool for pool in map(mutants, paths) if pool]
    while len(drawn) < count:
        first = pools[len(drawn)] if len(drawn) < len(pools) else None
        pool = first or dice.choices(pools, [len(pool) for pool in pools])[0]
        kind = dice.choice(sorted({mutant["kind"] for mutant in pool}))
        mutant = dice.choice([mutant for mutant in pool if mutant["kind"] == kind])
        if all((mutant["file"], mutant["function"]) != (other["file"], other["function"]) for other in drawn):
            drawn.append(mutant)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {"seed": seed, "commit": commit.strip(), "mutants": drawn}


def locate(root: Path, mutant: dict) -> tuple[Path, int] | None:
    """The file that now holds a mutant's original lines and the first of them; None if that is not clear."""
    name, ranked = mutant["function"], ([], [], [])
    for file in [*sorted((root / "helpers").rglob("*.py")), *sorted((root / "tools").rglob("*.py"))]:
        text = file.read_text(encoding="utf-8")
        lines = text.split("\n")
        for scope, top, bottom in [("", 0, len(lines)), *scopes(ast.parse(text))]:
            same = scope.rpartition(".")[2] == name.rpartition(".")[2]
            rank = 0 if same and file == root / mutant["file"] else 1 if same else 2
            ranked[rank].extend((file, top + at) for at in find(lines[top:bottom], mutant["original"]))
    best = next((set(hits) for hits in ranked if hits), set())
    return best.pop() if len(best) == 1 else None


def put_in(file: Path, line: int, mutant: dict) -> None:
    lines, old = file.read_text(encoding="utf-8").split("\n"), mutant["original"].split("\n")
    margin = len(lines[line]) - len(lines[line].lstrip()) - (len(old[0]) - len(old[0].lstrip()))
    lines[line : line + len(old)] = textwrap.indent(mutant["mutated"], " " * margin).split("\n")
    ast.parse("\n".join(lines))
    file.write_text("\n".join(lines), encoding="utf-8")


def tests_for(root: Path, file: Path) -> tuple[list[str], list[str], list[str]]:
    """A module's own test files, those that use it or whose lesson does, and the names of those lessons."""
    stem = file.stem if file.stem != "__init__" else file.parent.name
    uses = re.compile(rf"^\s*(from|import)\b.*\b{stem}\b|helpers[./](\w+[./])*{stem}\b|\b{stem}\.py\b", re.M)
    tests, sources = sorted(root.glob("tests/test_*.py")), root.glob("notebooks/source/*.py")
    lessons = sorted(path.stem for path in sources if uses.search(path.read_text(encoding="utf-8")))
    near = [path for path in tests if stem in path.stem or file.parent.name in path.stem]
    users = [path for path in tests if uses.search(path.read_text(encoding="utf-8"))]
    users += [path for path in tests if path.stem in [f"test_lesson_{lesson[:2]}" for lesson in lessons]]
    return [str(path) for path in near], [str(path) for path in {*near, *users}], lessons


def fails(root: Path, arguments: list[str]) -> dict[str, str]:
    """Ids of the tests that fail or hang, with what they say; every process of the run is ended."""
    log, mark = root / "build" / "pytest.log", f"MUTANTS={root}"
    log.parent.mkdir(exist_ok=True)
    own = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MUTANTS": str(root)}
    command = [*PYTEST, f"--basetemp={root}/build/tests", *arguments]
    try:
        with log.open("w") as out:
            status = subprocess.run(command, cwd=root, env=os.environ | own, stdout=out, stderr=out).returncode
    finally:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
    text = log.read_text(errors="replace")
    found = dict(re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - (.*))?$", text, re.M))
    if status not in (0, 5) and not found:  # it ended in the middle of a test, or before any
        last = ["tests/conftest.py", *re.findall(r"^(tests/\S+::.+?) ", text, re.M)][-1]
        found = {last: HANGS}
    return found


def failing_with(root: Path, mutants: list[dict], arguments: list[str]) -> dict[str, str]:
    """As :func:`fails`, while all of the mutants are in place."""
    sound = {}
    try:
        for mutant in mutants:
            file, line = locate(root, mutant)
            sound.setdefault(file, file.read_text(encoding="utf-8"))
            put_in(file, line, mutant)
        return fails(root, arguments)
    finally:
        for file, text in sound.items():
            file.write_text(text, encoding="utf-8")


def judge(root: Path, mutants: list[dict], arguments: list[str], sure: bool = False) -> None:
    """Runs tests with all of the mutants at once, then with halves of them: each gets those that fail with it alone.

    A test counts if it failed twice with the mutant and passed without.
    """
    failing = failing_with(root, mutants, arguments)
    if failing and not sure:
        wrong = fails(root, list(failing))
        failing = {test: says for test, says in failing.items() if test not in wrong}
    if failing and sure and len(mutants) == 1:
        mutants[0] |= {"killed_by": list(failing), "says": next(iter(failing.values()))}
    elif failing:
        for half in (mutants[: len(mutants) // 2], mutants[len(mutants) // 2 :]):
            if half:
                judge(root, half, list(failing), sure=True)


def alone(root: Path, mutant: dict) -> None:
    """The tests that killed it before, in whichever file they are by now, then the fast ones of its module."""
    names = {name for test in mutant.get("killed_by") or () for name in re.findall(r"::(\w+)(?:\[|$)", test)}
    known = re.compile(rf"def ({'|'.join(sorted(names)[:5])})\(")
    files = [str(path) for path in root.glob("tests/test_*.py") if known.search(path.read_text(encoding="utf-8"))]
    place = locate(root, mutant)
    mutant |= {"killed_by": [] if place else None, "says": ""}
    if place and names and files:
        judge(root, [mutant], [*files, "-m", "not network", "-k", " or ".join(sorted(names)[:5])])
    if place and not mutant["killed_by"] and (own := tests_for(root, place[0])[0]):
        judge(root, [mutant], [*own, "-m", FAST, "--maxfail=6"])


def together(root: Path, mutants: list[dict]):
    """All fast tests for those that are left, then the slow ones that use a module of theirs; yields as it goes on."""
    rest = [mutant for mutant in mutants if mutant["killed_by"] == []]
    sets = [tests_for(root, locate(root, mutant)[0]) for mutant in rest]
    users, lessons = (sorted({name for each in sets for name in each[place]}) for place in (1, 2))
    for arguments in (
        ["tests", "-m", FAST],
        [*users, "-m", SLOW, "--deselect=tests/test_lessons.py"],
        ["tests/test_lessons.py", "-k", " or ".join(lessons)],
    ):
        while rest := [mutant for mutant in rest if not mutant["killed_by"]]:
            judge(root, rest, arguments)
            yield from rest
            if not any(mutant["says"] == HANGS for mutant in rest):  # where one hung, the tests after it did not run
                break


def table(mutants: list[dict]) -> None:
    print("| no. | file | function | original -> mutated | killed by |\n|-|-|-|-|-|")
    for number, mutant in enumerate(mutants, 1):
        change = " -> ".join(f"`{' ⏎ '.join(mutant[side].split(chr(10)))}`" for side in ("original", "mutated"))
        killed = mutant.get("killed_by")
        by = "<br>".join(killed[:3]) + f" and {len(killed) - 3} more" * (len(killed) > 3) if killed else None
        by = by or ("survived" if killed == [] else "not found")
        cells = [str(number), mutant["file"], mutant["function"], change.replace("|", "\\|"), by]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing, running = commands.add_parser("draw"), commands.add_parser("run")
    drawing.add_argument("--seed", type=int, default=14)
    drawing.add_argument("--count", type=int, default=40)
    drawing.add_argument("--files", default="", help="a regular expression for their names")
    running.add_argument("list", type=Path)
    running.add_argument("--out", type=Path, help="where the list goes with its results, after every mutant")
    running.add_argument("--numbers", type=int, nargs="+", help="these mutants only, counted from 1")
    options = parser.parse_args()
    if options.command == "draw":
        drawn = draw(options.seed, options.count, options.files)
        print(json.dumps(drawn, ensure_ascii=False, indent=1))
        return
    listed = json.loads(options.list.read_text(encoding="utf-8"))
    chosen = [listed["mutants"][number - 1] for number in options.numbers or range(1, len(listed["mutants"]) + 1)]
    before = [bool(mutant.get("killed_by")) for mutant in listed["mutants"]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves no process and no clone behind
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        subprocess.run(["git", "-c", "advice.detachedHead=", "clone", "--quiet", "--shared", ROOT, folder], check=True)
        root = Path(folder)
        for mutant in itertools.chain((alone(root, mutant) or mutant for mutant in chosen), together(root, chosen)):
            print(1 + listed["mutants"].index(mutant), mutant["killed_by"], mutant["says"], file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    table(listed["mutants"])
    killed = [mutant.get("killed_by") for mutant in listed["mutants"]]
    lost = [n for n, (was, now) in enumerate(zip(before, killed, strict=True), 1) if was and not now]
    counts = sum(map(bool, killed)), killed.count([]), killed.count(None)
    print("\n{} killed, {} survived, {} not found.".format(*counts), f"Killed before and not now: {lost or 'none'}.")


if __name__ == "__main__":
    main()
