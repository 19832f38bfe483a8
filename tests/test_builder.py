"""The builder turns one source into two notebooks, and refuses what would make them differ, leak or go stale."""

import ast
import csv
import json
import re
from xml.etree import ElementTree

import nbformat
import pytest
from conftest import ROOT, TOY
from IPython.core.inputtransformer2 import TransformerManager

from helpers import design
from tools.art import way
from tools.lessons import build, pages
from tools.lessons.source import (
    INSIDE,
    SERVED,
    lesson_names,
    read_lesson,
    split_languages,
    stations_of,
    way_picture,
    way_words,
    without_comments,
)

LESSONS = sorted(path.stem for path in (ROOT / "notebooks" / "source").glob("*.py"))


def run(course, *arguments) -> int:
    return build.main(["--root", str(course.root), *arguments])


def add(course, cell: str, name: str = "99_toy") -> None:
    course.write(TOY + "\n" + cell, name)


def keep_outputs(course, outputs: list[dict]) -> None:
    """Gives the cell ``answer`` recorded outputs, as a recording would."""
    lesson = read_lesson(course.root / "notebooks" / "source" / "99_toy.py")
    versions = {"Python": "3.11.7", "torch": "2.13.0+cpu"}
    recorded = {"code_hash": lesson.code_hash, "date": "2026-01-31", "device": "CPU", "versions": versions}
    entry = (2, [nbformat.from_dict(output) for output in outputs])
    read = {cell.key: (None, []) for cell in lesson.code_cells} | {"answer": entry}
    recorded["outputs_hash"] = build.outputs_hash(read)
    recordings = dict.fromkeys(("zh", "en"), (read, recorded))
    build.write_all(build.built_files(course.root, lesson, recordings))


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def picture(**data: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": data}


# --- what is built


def test_both_notebooks_come_from_one_source(course):
    add(
        course,
        '# %% key="ex1" tags=["exercise", "extra"]\ndef double(x):\n    return ...\n\n\n'
        '# %% key="ex1-solution" tags=["solution"]\ndef double(x):  # noqa: F811\n    # zh: 两倍\n    # en: twice\n'
        '    """Not ```fenced``` <b>."""\n    return 2 * x\n\n\n'
        '# %% key="ex1-check"\nprint(double(2))\n\n# %% key="shell"\n# !echo hello\n',
    )
    assert run(course) == 0
    zh, en = (nbformat.read(course.notebook(lang), as_version=4) for lang in ("zh", "en"))
    nbformat.validate(zh)
    keys = ["title", "setup", "why", "answer", "ex1", "ex1-check", "ex1-solution", "shell"]
    assert [cell.id for cell in zh.cells] == [cell.id for cell in en.cells] == keys
    zh, en = ({cell.id: cell for cell in notebook.cells} for notebook in (zh, en))
    assert zh["title"].source.startswith("# 99 · 玩具\n\n[English](../en/99_toy.ipynb)")
    assert en["title"].source.startswith("# 99 · A toy\n\n[中文](../zh/99_toy.ipynb)")
    assert zh["answer"].source.startswith("# 只有中文版有这一行\nanswer = 6 * 7  # one comment")
    assert en["answer"].source.startswith("# only the English notebook has this line\nanswer = 6 * 7")
    assert zh["ex1"].metadata.tags == ["exercise", "extra"]
    assert zh["shell"].source == "!echo hello"
    for answers, summary, comment in ((zh, "参考答案", "两倍"), (en, "Reference answer", "twice")):
        code = f'def double(x):\n    # {comment}\n    """Not ```fenced``` <b>."""\n    return 2 * x'
        folded = f"<details><summary>{summary}</summary>\n\n````python\n{code}\n````\n\n</details>"
        assert (answers["ex1-solution"].cell_type, answers["ex1-solution"].source) == ("markdown", folded)


def test_building_again_changes_nothing(course):
    assert run(course) == run(course, "--check") == 0
    before = course.notebook().read_bytes()
    assert before.endswith(b"}\n")
    assert run(course) == 0
    assert course.notebook().read_bytes() == before


def test_language_comments_are_found_by_the_tokenizer():
    string, shell = 'text = """\n# zh: in a string\n"""\nif text:\n', '    !echo "# en: shell\n'
    code = string + "    # zh: 一\n    # zh: 二\n    # en: one\n" + shell
    assert split_languages(code) == {
        "zh": string + "    # 一\n    # 二\n" + shell,
        "en": string + "    # one\n" + shell,
    }


@pytest.mark.parametrize("code", ["# zh: 一\nx = 1\n# en: one", "# en: one\n# zh: 一", "# zh: 一", "x = 1  # zh: 一"])
def test_a_comment_without_its_twin_is_refused(code):
    with pytest.raises(ValueError, match="comment"):
        split_languages(code)


def test_code_without_comments_keeps_strings():
    code = 'a = "# no"  # yes\n\n# whole line\n%timeit f()  # kept: not Python\nb = f"{a}#"'
    assert without_comments(code) == 'a = "# no"\n%timeit f()  # kept: not Python\nb = f"{a}#"'


def test_index_lists_the_lessons(course):
    index = course.root / "notebooks" / "README.md"
    index.write_text("\n".join(["before", *pages.INDEX, "after", ""]), encoding="utf-8")
    assert run(course) == 0
    assert "| [99 · 玩具](zh/99_toy.ipynb) | [99 · A toy](en/99_toy.ipynb) |" in index.read_text(encoding="utf-8")
    assert run(course, "--check") == 0
    course.write(TOY.replace("99 · A toy", "99 · Another toy"))
    assert run(course, "--check") == 1
    assert run(course) == run(course, "--check") == 0
    assert "[99 · Another toy]" in index.read_text(encoding="utf-8")


# --- sources that are refused: nothing is written

BROKEN = {
    "English missing": (TOY.replace('lang="en" key="why"', 'lang="zh" key="again"'), "cell 'why': the English text"),
    "English missing at the end": (TOY + '\n# %% [markdown] lang="zh" key="z"\n# 完\n', "cell 'z': the English text"),
    "Chinese missing": (TOY + '\n# %% [markdown] lang="en" key="z"\n# End\n', "cell 'z': the Chinese text is missing"),
    "duplicate key": (TOY + '\n# %% key="answer"\nx = 1\n', "cell 'answer': another cell has this key"),
    "key of a text twice": (
        TOY + '\n# %% [markdown] lang="zh" key="why"\n# 一\n\n# %% [markdown] lang="en" key="why"\n# One\n',
        "cell 'why': another cell has this key",
    ),
    "no key": (TOY + "\n# %%\nx = 1\n", 'it starts "x = 1" and has no usable key'),
    "text without a language": (TOY + '\n# %% [markdown] key="z"\n# Hello\n', "cell 'z'"),
    "code with a language": (TOY + '\n# %% lang="zh" key="z"\nx = 1\n', "cell 'z': code is shared"),
    "unknown tag": (TOY + '\n# %% key="z" tags=["solutoin"]\nx = 1\n', "unknown tag 'solutoin'"),
    "unknown attribute": (TOY + '\n# %% key="z" sav="a"\nx = 1\n', "unknown attribute 'sav'"),
    "tags differ": (TOY.replace('lang="en" key="why"', 'lang="en" key="why" tags=["extra"]'), "cell 'why'"),
    "facts differ": (TOY.replace('lang="en" key="why"', 'lang="en" key="why" facts="3"'), "different tags or facts"),
    "no Python": (TOY + '\n# %% key="z"\nx = = 1\n', "cell 'z'"),
    "comment without twin": (TOY.replace("# en: only", "# only"), "cell 'answer'"),
    "no title": (TOY.replace("title", "head"), "the first cell must be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_source(case, course, capsys):
    course.write()
    source, message = BROKEN[case]
    course.write(source, "98_broken")
    assert run(course) == run(course, "--check") == 1
    error = capsys.readouterr().err
    assert "98_broken.py" in error and message in error
    assert not (course.root / "notebooks" / "zh").exists()


def test_bad_file_name_and_unknown_lesson(course, capsys):
    assert run(course, "42") == 1
    assert "No such lesson: 42" in capsys.readouterr().err
    course.write(TOY, "toy")
    assert run(course) == 1
    assert "toy.py: the name must look like" in capsys.readouterr().err


# --- rules that --check adds


def problems(course, capsys) -> str:
    """What --check says about a freshly built course; the build itself does not mind."""
    assert run(course) == 0
    assert run(course, "--check") == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# ## Why", "# ### Why", "heading levels differ"),
        ("After `softmax`", "After `sigmoid`", "inline code differ"),
        ("After `softmax`", "After softmax", "inline code differ"),
        ("../en/99_toy.ipynb", "../en/98_toy.ipynb", "links differ"),
        ("to $1$", "to 1", "formula count differ"),
        ("the 3 rows", "the 4 rows", "numbers differ"),
        ("the 3 rows", "the rows", "numbers differ"),
        ("3 行的和", "您的 3 行的和", "您"),
        ("# ## Why", "# # Why", "headings of level 1"),
        ("the 3 rows", "the 3 rows ![x](https://example.org/x.png)", "needs a network"),
        ("import sys\n", "\n".join(f"a{i} = {i}" for i in range(9)), "more than 8 lines"),
        ('key="setup"', 'key="start"', "no setup cell"),
        ("# one comment", "# 不分语言的注释", "is Chinese in both notebooks"),
        ("import sys\n", f"import sys\nx = '{'a' * 83}'\n", "has 89 columns"),
        ("import sys\n", f"# zh: {'宽' * 44}\n# en: wide\nimport sys\n", "has 90 columns"),
    ],
)
def test_pair_and_form_rules(old, new, message, course, capsys):
    assert old in TOY
    source = TOY.replace(old, new)
    if message == "headings of level 1":
        source = source.replace("# ## 为什么", "# # 为什么")
    course.write(source)
    assert message in problems(course, capsys)


def test_languages_may_differ_in_what_is_theirs(course):
    add(
        course,
        '# %% [markdown] lang="zh" key="free"\n# 共 12,000 次，`x` 和 `x`：<https://a.org/zh/b>，[说明](../README.zh.md)\n'
        "#\n# ```bash\n# # 启动\n# ls\n# ```\n\n"
        '# %% [markdown] lang="en" key="free"\n# `x`, 12000 times: <https://a.org/en/b>, [read me](../README.md)\n'
        "#\n# ```bash\n# # start\n# ls\n# ```\n",
    )
    assert run(course) == run(course, "--check") == 0


def test_terms(course, capsys):
    terms = course.root / "assets" / "terms.csv"
    terms.parent.mkdir()
    terms.write_text("zh,en,avoid,note\n词元,token,令牌|tocken,\n", encoding="utf-8")
    text = '# %% [markdown] lang="zh" key="t"\n# {} `令牌`\n\n# %% [markdown] lang="en" key="t"\n# {} `令牌`\n'
    add(course, text.format("词元", "A tockenizer"))
    assert run(course) == run(course, "--check") == 0
    add(course, text.format("令牌", "A Tocken"))
    said = problems(course, capsys)
    assert '"令牌" is not this course\'s term; write "词元"' in said
    assert '"tocken" is not this course\'s term; write "token"' in said


def test_the_course_terms_do_not_forbid_each_other():
    with (ROOT / "assets" / "terms.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 40 and len({row["zh"] for row in rows}) == len(rows)
    terms = [row[lang] for row in rows for lang in ("zh", "en")]
    for row in rows:
        for variant in filter(None, row["avoid"].split("|")):
            assert not [term for term in terms if variant in term]


NORM = 'class Norm:\n    """Scale."""\n\n    def __call__(self, x):\n        return x / 2{}\n'


@pytest.mark.parametrize(
    ("save", "cell", "message"),
    [
        ("helpers/qwen.py::Norm", NORM.format("  # a comment"), None),
        ("helpers/qwen.py::Norm", NORM.format("00"), "its Norm differs from the one in helpers/qwen.py"),
        ("helpers/qwen.py::Nrom", NORM.format(""), "the cell defines no Nrom"),
        (
            "helpers/qwen.py::other",
            NORM.format("") + "\n\ndef other():\n    pass\n",
            "helpers/qwen.py defines no other",
        ),
        ("helpers/qwn.py::Norm", NORM.format(""), "names no file"),
    ],
)
def test_saved_code_equals_the_helper(save, cell, message, course, capsys):
    (course.root / "helpers").mkdir()
    (course.root / "helpers" / "qwen.py").write_text(NORM.format(""), encoding="utf-8")
    add(course, f'# %% key="norm" save="{save}"\n{cell}')
    if message:
        assert message in problems(course, capsys)
    else:
        assert run(course) == run(course, "--check") == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('import os\n\nMODEL = os.environ.get("COURSE_MODEL", "Qwen/Qwen3-8B")\nprint(MODEL)\n', None),
        ('import os\n\nMODEL = os.environ.get("M", "x")\nfrom helpers import engine\n', "remove its import of helpers"),
        ('import os\n\nMODEL = os.environ.get("M", "x")\nimport helpers.engine as e\n', "remove its import of helpers"),
        ('MODEL = "Qwen/Qwen3-8B"\n', "starts, after its imports, with a setting"),
    ],
)
def test_copy_me_cells_stand_alone(code, message, course, capsys):
    add(course, f'# %% key="copy" tags=["copy-me"]\n{code}')
    if message:
        assert message in problems(course, capsys)
    else:
        assert run(course) == run(course, "--check") == 0


EXERCISE = """
# %% key="ex1" tags=["exercise"]
def f():
    return ...

# %% key="ex1-solution" tags=["solution"]
def f():
    return 1

# %% key="ex1-check"
f()
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "from helpers import engine, figures\n\nllm = engine.open_engine()\nfigures.anything(llm.generate('x'))\n",
            None,
        ),
        ("from helpers.server import Server\n\nwith Server() as server:\n    server.metrics()\n", None),
        ("from helpers import engine\n\nengine.chat('x')\n", "helpers.engine.chat does what the learner should see"),
        ("from helpers.engine import chat as open_engine\n", "helpers.engine.chat"),
        ("import helpers.engine as e\n\ne.generate('x').text\n", "helpers.engine.generate"),
        ("import helpers\n\nhelpers.server.ask('x')\n", "helpers.server.ask"),
        ("from helpers.llm import Engine\n", "helpers.llm.Engine"),
    ],
)
def test_lessons_5_to_8_call_the_libraries_themselves(code, said, course, capsys):
    exercises = "".join(EXERCISE.replace("ex1", f"ex{number}") for number in (1, 2))
    cell = f'{exercises}\n# %% key="cell"\n{code}'
    add(course, cell, "05_toy")
    if said:
        assert said in problems(course, capsys)
    else:
        assert run(course) == run(course, "--check") == 0
    (course.root / "notebooks" / "source" / "05_toy.py").unlink()
    for lang in ("zh", "en"):
        course.notebook(lang, "05_toy").unlink()
    add(course, cell, "04_toy")
    assert run(course) == run(course, "--check") == 0


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ('# %% key="ex1" tags=["exercise"]\ndef f():\n    return ...\n', "lacks its 'ex1-solution' or 'ex1-check'"),
        (
            '# %% key="ex1" tags=["exercise"]\ndef f():\n    return 1\n\n\n'
            '# %% key="ex1-solution" tags=["solution"]\ndef f():\n    return 1\n\n\n# %% key="ex1-check"\nf()\n',
            "the exercise's stub returns no `...`",
        ),
        ('# %% key="my-solution" tags=["solution"]\nx = 1\n', "stands directly after ex1"),
    ],
)
def test_exercises_are_complete(cells, said, course, capsys):
    add(course, cells)
    assert said in problems(course, capsys)


# --- outputs


def test_outputs_survive_until_code_changes(course, capsys):
    keep_outputs(course, [stream("42\n")])
    assert run(course) == run(course, "--check") == 0
    english = course.notebook("en").read_text(encoding="utf-8")
    assert '"42\\n"' in english and "recorded on 2026-01-31, CPU, Python 3.11.7, torch 2.13.0+cpu" in english

    course.write(TOY.replace("After `softmax`", "Following `softmax`").replace("# one comment", "# shared"))
    assert run(course, "--check") == 1  # stale
    assert run(course) == run(course, "--check") == 0  # built again: prose and comments leave the outputs alone
    assert '"42\\n"' in course.notebook("en").read_text(encoding="utf-8")

    course.write(TOY.replace("6 * 7", "6 * 8"))
    capsys.readouterr()
    assert run(course, "--check") == 1
    assert "99_toy.ipynb: its outputs belong to other code than the source holds now" in capsys.readouterr().err
    assert run(course) == run(course, "--check") == 0
    said = capsys.readouterr()
    assert "99_toy: not run" in said.out and "make record LESSONS=99" in said.err
    for lang, mark in (("zh", "未运行"), ("en", "Not run")):
        text = course.notebook(lang).read_text(encoding="utf-8")
        assert "42" not in text and mark in text


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize(("old", "new"), [("6 * 7", "6 * 8"), ('"42\\n"', '"43\\n"'), ("softmax", "sigmoid")])
def test_an_edited_notebook_is_stale(lang, old, new, course, capsys):
    keep_outputs(course, [stream("42\n")])
    path = course.notebook(lang)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert run(course, "--check") == 1
    cell, said = "why" if old == "softmax" else "answer", capsys.readouterr().err
    if "42" in old:  # no source says what they were: the hash of the recording does
        assert f"{lang}/99_toy.ipynb: its outputs are not the recorded ones" in said
    else:
        assert f"cell '{cell}' is not what the source makes of it; run make notebooks" in said


def test_outputs_without_the_hash_of_their_recording_are_refused(course, capsys):
    keep_outputs(course, [stream("42\n")])
    path = course.notebook("en")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    del notebook["metadata"]["course"]["recorded"]["outputs_hash"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    for arguments in ([], ["--check"]):
        assert run(course, *arguments) == 1
        assert "en/99_toy.ipynb: its outputs are not the recorded ones" in capsys.readouterr().err


def test_prose_that_departs_from_the_output_above_it_is_refused(course, capsys):
    def text(zh, en, facts=""):
        cells = (("zh", zh), ("en", en))
        markers = (f'# %% [markdown] lang="{lang}" key="read"{facts}\n# {said}\n' for lang, said in cells)
        course.write(TOY + "\n" + "\n".join(markers))
        keep_outputs(course, [stream("42\n")])
        return run(course, "--check"), capsys.readouterr().err

    assert text("答案是 42。", "The answer is 42.")[0] == 0
    status, said = text("答案是 43。", "The answer is 43.")
    assert status == 1
    assert all(f"99_toy: {lang}: cell 'read': the text says 43, which is in no output" in said for lang in ("zh", "en"))
    assert text("答案是 43。", "The answer is 43.", ' facts="43"')[0] == 0


def test_missing_extra_and_unreadable_notebooks(course, capsys):
    assert run(course, "--check") == 1
    assert "notebooks/zh/99_toy.ipynb: it is missing; run make notebooks" in capsys.readouterr().err
    run(course)
    course.notebook("en", "98_gone").write_bytes(course.notebook("en").read_bytes())
    assert run(course, "--check") == 1
    assert "notebooks/en/98_gone.ipynb: it has no source" in capsys.readouterr().err
    course.notebook("en", "98_gone").unlink()
    course.notebook("zh").write_text("{", encoding="utf-8")
    assert run(course) == 1
    assert "not a notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (stream("careful\n", "stderr"), "shows an error or stderr"),
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "shows an error or stderr"),
        (stream("saved in /home/someone/course\n"), 'the path "/home/someone/course"'),
        (stream("saved in /root/course\n"), 'the path "/root/course"'),
        (picture(**{"text/html": '<img src="https://example.org/a.png">'}), "needs a network"),
        (picture(**{"application/vnd.jupyter.widget-view+json": "{}", "image/png": "AAAA"}), "a widget view"),
        (picture(**{"image/png": "A" * 500_000}), "at most 400 kB"),
        (stream("saved in assets/models, https://a.org/home/x, ~/tmp/x, /root/autodl-tmp\n"), None),
    ],
)
def test_output_rules(output, message, course, capsys):
    keep_outputs(course, [output])
    assert run(course, "--check") == (1 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_widget_state_is_refused(course, capsys):
    keep_outputs(course, [stream("42\n")])
    for lang in ("zh", "en"):
        notebook = json.loads(course.notebook(lang).read_text(encoding="utf-8"))
        notebook["metadata"]["widgets"] = {}
        course.notebook(lang).write_text(json.dumps(notebook), encoding="utf-8")
    assert run(course, "--check") == 1
    assert run(course) == run(course, "--check") == 0  # a build drops it


# --- the real lessons


@pytest.mark.slow  # `make lint` asks the same
def test_the_course_passes_its_own_check(capsys):
    assert build.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", LESSONS)
def test_both_languages_run_the_same_code(name):
    trees = []
    for lang in ("zh", "en"):
        notebook = nbformat.read(ROOT / "notebooks" / lang / f"{name}.ipynb", as_version=4)
        code = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
        trees.append({key: ast.dump(ast.parse(TransformerManager().transform_cell(code[key]))) for key in code})
    assert trees[0] and trees[0] == trees[1] and list(trees[0]) == list(trees[1])


# ---------------------------------------------------------------------------------------------- the way


def test_every_lesson_stands_somewhere_on_the_way_to_a_service():
    for name in lesson_names(ROOT):
        for lang, here in (("zh", "![你在这里："), ("en", "![You are here: ")):
            picture = way_picture(name, lang)
            assert picture.startswith(here) and picture.count("→") == len(SERVED + INSIDE) - 2, name
            assert (ROOT / "notebooks" / lang / picture.partition("](")[2].removesuffix(")")).is_file(), name
    assert way_words("03_architecture", "zh").startswith("你在这里：层、logits。")
    assert way_words("A3_mini_vllm", "en").startswith("You are here: engine. The whole way: machine → ")
    assert way_picture("99_toy", "zh") == ""


def test_the_maps_are_those_that_the_tool_draws():
    wanted = way.pictures()
    assert {path.name for path in (ROOT / "assets" / "figures").glob("way_*")} == wanted.keys()
    for name, picture in wanted.items():
        assert (ROOT / "assets" / "figures" / name).read_text(encoding="utf-8") == picture, name


@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_map_fills_the_stations_where_its_lesson_is(lang, name):
    root = ElementTree.fromstring(way.draw(name, lang))
    words = {text.text: text.get("fill") for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert words.pop(way.HERE[lang]) == "var(--muted)"
    assert words.keys() == {getattr(station, lang) for station in SERVED + INSIDE}
    here = {word for word, ink in words.items() if ink == "var(--bg)"}
    assert here == {getattr(station, lang) for station in stations_of(name)}


def test_a_map_is_small_and_takes_its_colours_from_the_design():
    drawn = way.draw("05_offline_generation", "en")
    assert len(drawn) < 4096 and float(re.search(r'font-size="(\d+)"', drawn)[1]) * 343 / way.WIDTH >= 12
    page = way.draw("05_offline_generation", "en", alone=False)
    assert "<style>" in drawn and "<style>" not in page and not design.COLOUR.search(page)
    assert set(re.findall(r"var\(--(\w+)\)", drawn)) <= set(way.COLOURS) <= design.DARK.keys()


def test_the_words_of_a_map_stay_in_their_boxes(browser, tmp_path):
    """Also in a wide font, such as the one of Debian's chromium."""
    page = browser.new_page(viewport={"width": 375, "height": 800})
    maps = [way.draw(name, lang, alone=False) for name in LESSONS for lang in ("zh", "en")]
    page.set_content("".join(maps))
    outside = page.evaluate("""() => [...document.querySelectorAll("svg")].flatMap(svg => {
      const shapes = [...svg.querySelectorAll("rect, path")].map(shape => shape.getBBox());
      const all = { x: 0, y: 0, width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
      const within = (a, b) => a.x >= b.x && a.x + a.width <= b.x + b.width;
      return [...svg.querySelectorAll("text")].filter(text => {
        const own = text.getBBox(), middle = own.y + own.height / 2;
        const around = shapes.filter(b => b.height < 40 && b.height > 20 && b.y < middle && middle < b.y + b.height
          && b.x < own.x + own.width / 2 && own.x + own.width / 2 < b.x + b.width);
        return !within(own, around[0] || all);
      }).map(text => text.textContent);
    })""")
    page.close()
    assert outside == []
