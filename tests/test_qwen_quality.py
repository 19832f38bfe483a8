"""docs/qwen_quality.py: right and cut are counted, what is unknown is no number, and a gap is no measurement."""

import json
import os
import subprocess
import sys

import pytest
import qwen_quality
from conftest import ROOT
from faulty_server import FaultyServer, chat, cut, status


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("37×46=1702", "1702", True),
        ("It is 1,702.", "1702", True),
        ("1702.0", "1,702", True),
        ("first 1702, no: 1703", "1702", False),
        ("17020", "1702", False),
        ("-5", "5", False),
        ("none", "0", False),
        ("The capital is PARIS.", "Paris", True),
        ("Lyon", "Paris", False),
    ],
)
def test_the_last_number_or_the_words_decide(answer, wanted, right):
    assert qwen_quality.is_right(answer, wanted) is right


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)  # Wilson 1927, as statsmodels' proportion_confint(method="wilson") gives it
def test_the_interval_is_wilsons(right, count, low, high):
    assert qwen_quality.interval(right, count) == pytest.approx((low, high), abs=1e-4)


def measured(tmp_path, base_url, *options, model="m", key="EMPTY", questions=(("37×46=?", "1702"),) * 3):
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in questions]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"BASE_URL": base_url, "MODEL": model, "API_KEY": key}
    command = [sys.executable, ROOT / "docs" / "qwen_quality.py", tmp_path / "questions.jsonl", *options]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    return done, rows


@pytest.mark.slow
def test_cut_counts_as_wrong_and_unknown_tokens_as_no_number(tmp_path):
    with FaultyServer(chat("1702"), cut("17"), chat("1703"), *[chat("1,702")] * 3) as server:
        done, rows = measured(tmp_path, server.base_url, "--at-once", "1")
    assert done.returncode == 0, done.stderr
    assert [row[:2] + row[3:5] for row in rows] == [["off", "1/3", "1", "nan"], ["on", "3/3", "0", "nan"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replies", "questions", "said"),
    [
        ([chat(None, reasoning="1702")], [("?", "1")], "parser"),
        ([status(400, "no")], [("?", "1")], "refused"),
        ([chat("1")], [], "questions.jsonl"),
    ],
)
def test_a_gap_is_one_sentence_and_an_exit_status(replies, questions, said, tmp_path):
    with FaultyServer(*replies) as server:
        done, rows = measured(tmp_path, server.base_url, questions=questions)
    assert done.returncode == 1 and rows == [] and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_of_the_real_server(tmp_path, server):
    questions = [("37×46=?", "1702"), ("23×31=?", "713"), ("37×46=?", "1")]
    done, rows = measured(
        tmp_path, server.base_url, "--max-tokens", "300", model=server.model, key=server.api_key, questions=questions
    )
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in rows] == ["off", "on"] and rows[1][1] == "2/3"
    assert 0 < float(rows[0][4]) < float(rows[1][4])
