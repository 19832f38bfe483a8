"""Do the tests notice? Small mistakes are put into helpers/, one at a time, and the tests are run.

    .venv/bin/python -m benchmarks.mutants draw [--seed 14] [--count 40] > LIST
    .venv/bin/python -m benchmarks.mutants run LIST [--numbers 3 7] > RESULTS    # a LIST, too

A mutant is known by its text: its line is looked for in the function of that name, in whichever file of helpers/ that
is now. Where it is not found just once, it is gone, and neither killed nor survived. First run the tests that killed it
before, then all fast ones; what only other slow tests notice survives. A test counts if it fails with the mutant and
passes without. All this in a clone of the last commit.
"""

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import ROOT

FAST = ["tests", "-m", "not slow and not large", "-n", "logical", "--dist", "loadscope", "-x"]
PAIRS = ["Lt LtE", "Gt GtE", "Eq NotEq", "In NotIn", "Is IsNot", "Add Sub", "Mult Div", "And Or"]
SWAPS = {getattr(ast, a): getattr(ast, b) for pair in map(str.split, PAIRS) for a, b in (pair, pair[::-1])}


def with_mistake(node: ast.AST) -> ast.AST | None:
    match node:
        case ast.Compare(ops=[op]) | ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            other = SWAPS[type(op)]()
            return type(node)(**vars(node) | ({"ops": [other]} if isinstance(node, ast.Compare) else {"op": other}))
        case ast.Constant(value=bool() | int() | float() as value):
            return ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Return(value=ast.expr()):
            return ast.Return(ast.Constant(None))


def scopes(tree: ast.Module) -> list[tuple[str, int, int]]:
    """(name, first line, line after the last) of the module, whose name is empty, and of all functions in it."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [("", 0, tree.body[-1].end_lineno), *((node.name, node.lineno - 1, node.end_lineno) for node in functions)]


def mutants(file: Path) -> list[dict]:
    """All mutants that change one line of a file, which must be the only one like it in its function."""
    lines, found = file.read_text(encoding="utf-8").split("\n"), []
    tree = ast.parse("\n".join(lines))
    in_texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        wrong = None if id(node) in in_texts else with_mistake(node)  # Python 3.11 misplaces what is in an f-string
        if wrong and node.lineno == node.end_lineno:
            row, raw = node.lineno - 1, lines[node.lineno - 1].encode()  # ast counts bytes
            line = (raw[: node.col_offset] + ast.unparse(wrong).encode() + raw[node.end_col_offset :]).decode()
            name, top, end = min((s for s in scopes(tree) if s[1] <= row < s[2]), key=lambda s: s[2] - s[1])
            if [each.strip() for each in lines[top:end]].count(lines[row].strip()) == 1:
                place = {"file": file.relative_to(ROOT).as_posix(), "function": name}
                found.append(place | {"original": lines[row].strip(), "mutated": line.strip()})
    return found


def locate(root: Path, mutant: dict) -> tuple[Path, int] | None:
    """The file that holds the mutant's original line in a function of its name, and where."""
    name, hits = mutant["function"].rpartition(".")[2], set()
    for file in (root / "helpers").rglob("*.py"):
        lines = (text := file.read_text(encoding="utf-8")).split("\n")
        rows = [row for scope, top, end in scopes(ast.parse(text)) if scope == name for row in range(top, end)]
        hits |= {(file, row) for row in rows if lines[row].strip() == mutant["original"]}
    hits = {hit for hit in hits if hit[0] == root / mutant["file"]} or hits
    return hits.pop() if len(hits) == 1 else None


def failures(root: Path, arguments: list[str]) -> set[str]:
    """The ids of the tests that fail, or the word that the run ended early."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    found = re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", done.stdout, re.M)
    return set(found or ["ended early"] * (done.returncode not in (0, 5)))


def killers(root: Path, mutant: dict) -> list[str] | None:
    """The first tests that notice the mutant, [] if none does, None if it is gone."""
    if (place := locate(root, mutant)) is None:
        return None
    (file, row), sound = place, place[0].read_text(encoding="utf-8")
    lines = sound.split("\n")
    lines[row] = lines[row].replace(mutant["original"], mutant["mutated"])
    names = "|".join(re.findall(r"::(\w+)(?:\[|$)", "\n".join(mutant.get("killed_by") or ()), re.M)) or "(?!)"
    known = [path for path in root.glob("tests/*.py") if re.search(rf"def ({names})\(", path.read_text("utf-8"))]
    named = [*map(str, known), "-k", names.replace("|", " or "), "--maxfail=3"]
    for arguments in [named, FAST] if known else [FAST]:
        file.write_text("\n".join(lines), encoding="utf-8")
        failing = failures(root, arguments)
        file.write_text(sound, encoding="utf-8")
        if failing:
            failing -= failures(root, arguments if "ended early" in failing else [*failing])
        if failing:
            return sorted(failing)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("draw", "run"))
    parser.add_argument("list", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--numbers", type=int, nargs="+", help="these mutants only, counted from 1")
    options = parser.parse_args()
    if options.action == "draw":
        everything = [mutant for path in sorted((ROOT / "helpers").rglob("*.py")) for mutant in mutants(path)]
        listed = {"seed": options.seed, "mutants": random.Random(options.seed).sample(everything, options.count)}
    else:
        listed, lost = json.loads(options.list.read_text(encoding="utf-8")), []
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, folder], check=True)
            for number in options.numbers or range(1, len(listed["mutants"]) + 1):
                mutant = listed["mutants"][number - 1]
                before, now = mutant.get("killed_by"), killers(Path(folder), mutant)
                mutant["killed_by"], state = now, "gone" if now is None else "killed" if now else "survived"
                print(number, state, mutant["file"], mutant["function"], *(now or [])[:1], file=sys.stderr, flush=True)
                lost += [number] if before and now == [] else []
        print(f"killed before and not now: {lost or 'none'}", file=sys.stderr)
    print(json.dumps(listed, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
