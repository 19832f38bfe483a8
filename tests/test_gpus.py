"""Cards that are odd or cannot be read: what the pre-flight check, make env, autodl.sh and the calculator say of them.

Unknown stays unknown: it is never zero, never "ok", and nothing is refused on it.
"""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from fake_nvidia_smi import gpu, gpu_xml, install

from helpers import CourseError, catalogue, engine, machine, sets
from helpers.checkpoint import Checkpoint
from helpers.explorer.memory import CAPTIONS, CARDS
from helpers.preflight import preflight
from tools.environment import autodl, make_env
from tools.lessons.source import read_lesson

GIB = 2**30
XML = gpu_xml((300, 24564, {}, ()))
USED = 47119
BUSY = gpu_xml((USED, 49140, {5000111: USED}, ()))
BUSY_ROW = gpu("NVIDIA RTX A6000", 49140, "580.95.05", "8.6", used=USED)
TESLA = "580.95.05"
MIXED = [
    gpu("NVIDIA GeForce GTX 1650", 4096, TESLA, "7.5", used=100, uuid="GPU-aaaa1111-0"),
    gpu("NVIDIA GeForce RTX 3090", 24576, TESLA, "8.6", used=100, uuid="GPU-bbbb2222-0"),
]
MIXED_XML = gpu_xml(
    (100, 4096, {}, (), "NVIDIA GeForce GTX 1650", "GPU-aaaa1111-0"),
    (100, 24576, {}, (), "NVIDIA GeForce RTX 3090", "GPU-bbbb2222-0"),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing of this computer's cards; make_env finds no environment, and disk enough."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SET", "COURSE_MODEL", "GPU_GIB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    monkeypatch.setattr(make_env, "check_disk", lambda folder, needed: None)
    monkeypatch.setattr(engine, "on_cpu", lambda: False)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    def replace(rows, xml="", **more):
        install(tmp_path / "bin", rows, xml, **more)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    return replace


def line(checks, name):
    [found] = [check for check in checks if check.name == name]
    return found


def checked(name):
    return line(preflight(machine.look()), name)


def make_env_says(capsys, monkeypatch):
    """What `make env` prints before it installs, or the sentence with which it refuses."""
    monkeypatch.setattr(sys, "argv", ["make_env.py", "--dry-run"])
    try:
        make_env.main()
    except CourseError as error:
        return str(error)
    return capsys.readouterr().out


def copy_me(tmp_path, **variables):
    """The copied calculator of lesson 01 on a folder with the config of Qwen3-8B and (sparse) weights of its size."""
    lesson = read_lesson(ROOT / "notebooks" / "source" / "01_environment.py")
    [cell] = [cell.text["en"] for cell in lesson.cells if cell.key == "copy-me"]
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(int(catalogue.weight_bytes(config)))
    (tmp_path / "copied.py").write_text(cell, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "copied.py"],
        env=os.environ | {"COURSE_MODEL": str(folder)} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# What the seven say: nvidia-smi's rows and XML; words of the GPU line and of the line on its memory, and their levels;
# words of make env; of the copied calculator.
SEVEN = {
    "V100": (
        [gpu("Tesla V100-SXM2-32GB", 32768, TESLA, "7.0", used=300)],
        gpu_xml((300, 32768, {}, ())),
        ("warning", "7.0", "ok", "300 MiB"),
        ["7.0", "7.5", "SET=cpu"],
        ["7.5"],
    ),
    "P40": (
        [gpu("Tesla P40", 24576, TESLA, "6.1", used=300)],
        gpu_xml((300, 24576, {}, ())),
        ("warning", "6.1", "ok", "300 MiB"),
        ["6.1", "7.5", "SET=cpu"],
        ["7.5"],
    ),
    "GB10": (
        [gpu("NVIDIA GB10", "[N/A]", TESLA, "12.1")],
        gpu_xml(("Not Supported", "Not Supported", {}, ())),
        ("warning", "cannot be read", "warning", "cannot be read"),
        ["requirements.txt"],
        ["cannot be read", "GPU_GIB", "24.0 GiB"],
    ),
    "MIG slice": (
        [gpu("NVIDIA A100-SXM4-80GB", "[N/A]", TESLA, "8.0")],
        gpu_xml((12, 81920, {}, (19968,))),
        ("ok", "MIG 20 GiB", "ok", "12 MiB"),
        ["requirements.txt"],
        ["cannot be read", "GPU_GIB"],
    ),
    "mixed cards": (
        MIXED,
        MIXED_XML,
        (None, None, "ok", "200 MiB"),
        ["requirements.txt"],
        ["4.0 GiB: 0 tokens", "24.0 GiB: 38752 tokens"],
    ),
    "GBK process name": (
        [BUSY_ROW],
        BUSY.encode().replace(b"[Not Found]", b"\xc4\xe3\xba\xc3"),
        ("ok", "48 GiB", "warning", f"{USED} MiB"),
        ["requirements.txt"],
        ["48.0 GiB"],
    ),
    "broken XML": (
        [BUSY_ROW],
        BUSY.replace("</processes>", "</processes></processes>"),
        ("ok", "48 GiB", "warning", f"{USED} MiB"),
        ["requirements.txt"],
        ["48.0 GiB"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVEN)
def test_seven_machines(case, smi, tmp_path, capsys, monkeypatch):
    rows, xml, (level, words, memory_level, memory), env_words, calculator = SEVEN[case]
    smi(rows, xml)
    checks = preflight(machine.look())
    if level:
        found = line(checks, "GPU")
        assert (found.level, words in found.fact) == (level, True), found
    else:
        assert [check.level for check in checks if check.name == "GPU"] == ["ok", "ok"]
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in line(checks, "Visible cards").en
    found = line(checks, "GPU memory in use")
    assert (found.level, memory in found.fact) == (memory_level, True), found
    assert not re.search(r"(?<![0-9.])0 (MiB|GiB)", " ".join(check.fact for check in checks if "GPU" in check.name))
    said = make_env_says(capsys, monkeypatch)
    assert all(word in said for word in env_words), said
    said = copy_me(tmp_path)
    assert all(word in said for word in calculator), said
    tiny = ROOT / "assets" / "models" / "qwen3-tiny"
    engine.refuse_too_large(tiny, engine.sized_options(tiny))


@pytest.mark.slow
def test_the_command_says_the_same(smi):
    """`python -m helpers.machine` on the card that the GPU sets hold no code for, in an output without Chinese."""
    smi(SEVEN["V100"][0], SEVEN["V100"][1])
    for encoding in ("ascii", "cp1252", "gbk", "utf-8"):
        variables = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "COURSE_LANG": ""}
        for arguments in ([], ["--json"]):
            command = [sys.executable, "-m", "helpers.machine", *arguments]
            done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True)
            said = done.stdout.decode(encoding)
            assert "Tesla V100" in said and "SET=cpu" in said and done.stderr == b"", done.stderr
            assert ("课程" in said) == (encoding in ("gbk", "utf-8") and not arguments)
            assert not arguments or json.loads(said)["machine"]["gpus"][0]["compute_cap"] == [7, 0]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_tools_write_into_an_output_without_chinese(encoding, smi, tmp_path):
    smi(*SEVEN["GB10"][:2])
    variables = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "COURSE_LANG": "", "SET": "cpu"}
    for command, words in (
        ("from tools.environment import make_env; make_env.say('\u8bfe\u7a0b', 'the course')", "the course"),
        ("from helpers import say; print(say('\u8bfe\u7a0b', 'the course'), chr(0xdcff))", "the course"),
    ):
        done = subprocess.run([sys.executable, "-c", command], env=variables, cwd=tmp_path, capture_output=True)
        said = done.stdout.decode(encoding)
        assert words in said and (("\u8bfe\u7a0b" in said) == (encoding == "utf-8")) and done.stderr == b"", done.stderr


@pytest.mark.parametrize("name", ["Tesla V100", "Tesla P40", "GeForce GTX 1080 Ti", "V100S", "P100", "GTX 1660"])
def test_old_cards_are_no_choice_of_the_calculator(name):
    """GTX 1660 is a Turing card, but not in the list either."""
    model = name.split()[-1] if "Ti" not in name else "1080 Ti"
    assert not any(model in names for _, names in CARDS)
    for lang in ("zh", "en"):
        said = " ".join(CAPTIONS[lang])
        assert "7.5" in said and "SET=cpu" in said and all(old in said for old in ("V100", "P40", "1080 Ti"))


def test_cards_have_the_memory_that_they_report():
    """In MiB, as users of nvidia-smi report it: https://github.com/modal-labs/modal-client/pull/2797"""
    reported = {"T4": 15360, "A10": 23028, "L4": 23034, "L20": 46068, "L40S": 46068, "RTX 4090": 24564, "H100": 81559}
    for card, mib in reported.items():
        [memory] = [memory for memory, names in CARDS if card in names.split(", ")]
        assert abs(memory - mib / 1024) < 0.5, card


# ---------------------------------------------------------------------------------------------- which card is judged


@pytest.mark.parametrize(
    ("visible", "order", "expected"),
    [
        (None, None, None),
        (None, "FASTEST_FIRST", None),
        (None, "PCI_BUS_ID", [0, 1]),
        ("1", None, None),
        ("1", "PCI_BUS_ID", [1]),
        (" 1 , 0 ", "PCI_BUS_ID", [1, 0]),
        ("GPU-bbbb", None, [1]),
        ("GPU-bbbb2222-0,GPU-aaaa", None, [1, 0]),
        ("GPU-bbbb,1", None, None),
        ("GPU-cccc", None, []),
        ("GPU-", None, []),
        ("", None, []),
        ("-1", None, []),
        ("NoDevFiles", None, []),
        ("0,7,1", "PCI_BUS_ID", [0]),
        ("9" * 5000, "PCI_BUS_ID", []),
        ("MIG-1234", None, None),
    ],
)
@pytest.mark.parametrize("with_xml", [True, False])
def test_the_visible_card(visible, order, expected, with_xml, smi, monkeypatch):
    smi(MIXED, MIXED_XML if with_xml else "<broken>")
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert machine.gpu_use().visible == machine.look().visible == expected
    memory = machine.card_memory(machine.gpu_use())
    assert memory == ((4096, 24576)[expected[0]] if expected else None)


def test_of_equal_cards_the_order_is_certain(smi, monkeypatch):
    smi([BUSY_ROW] * 3, gpu_xml(*[(100, 49140, {}, ())] * 3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert machine.gpu_use().visible == [2, 1] and machine.card_memory(machine.gpu_use(), 2) == 49140
    assert machine.card_memory(machine.gpu_use(), 3) is None, "CUDA sees two"


def test_only_the_visible_card_is_asked_who_uses_it(smi, monkeypatch):
    xml = gpu_xml((40000, 49140, {5000111: 40000}, ()), (100, 49140, {5000222: 100}, ()))
    smi([BUSY_ROW] * 2, xml)
    assert "5000111" in checked("GPU memory in use").fact
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    fact = checked("GPU memory in use").fact
    assert fact.startswith("100 MiB") and "5000222" in fact and "5000111" not in fact
    machine.refuse_busy_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert line(preflight(machine.look()), "Visible cards").level == "warning"
    machine.refuse_busy_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(CourseError, match=r"40000 of 49140 MiB of GPU 0 .*5000111") as refused:
        machine.refuse_busy_gpu()
    assert "5000222" not in str(refused.value)


def test_a_model_is_judged_by_the_card_it_will_get(smi, monkeypatch):
    folder = ROOT / "assets" / "models" / "qwen3-tiny"
    monkeypatch.setattr(Checkpoint, "stored_bytes", int(7.5 * GIB))  # as much as Qwen3-4B has
    options = engine.sized_options(folder)
    smi(MIXED, MIXED_XML)
    engine.refuse_too_large(folder, options)  # nobody knows which
    assert checked("Course model").level == "ok", "it fits one of them"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    with pytest.raises(CourseError, match="3.7 GiB"):
        engine.refuse_too_large(folder, options)
    assert not [check for check in preflight(machine.look()) if check.name == "Visible cards"]
    assert checked("Course model").level == "warning", "two cards do not add up for one engine"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
    engine.refuse_too_large(folder, options)
    assert checked("Course model").level == "ok"
    smi(*SEVEN["GB10"][:2])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    engine.refuse_too_large(folder, options)
    assert checked("Course model").level == "warning" and "cannot be told" in checked("Course model").en


def test_unknown_memory_of_the_machine_refuses_nothing(monkeypatch):
    tiny = ROOT / "assets" / "models" / "qwen3-tiny"
    monkeypatch.setattr(engine, "on_cpu", lambda: True)
    look = machine.look
    monkeypatch.setattr(machine, "look", lambda: dataclasses.replace(look(), memory=None))
    engine.refuse_too_large(tiny, engine.sized_options(tiny))
    found = line(preflight(machine.look()), "Memory")
    assert found.level == "warning" and "cannot be read" in found.fact


def test_unknown_avx2_refuses_nothing(tmp_path):
    here = machine.look(tmp_path)  # a root folder without /proc
    assert here.avx2 is None and here.memory is None
    sets.refuse_unsupported(dataclasses.replace(here, system="Linux", arch="x86_64"))


# ---------------------------------------------------------------------------------------------- compute capability


@pytest.mark.parametrize(
    ("name", "capability", "usable"),
    [
        ("Tesla V100-PCIE-16GB", "7.0", False),
        ("NVIDIA TITAN V", "7.0", False),
        ("Tesla P40", "6.1", False),
        ("NVIDIA GeForce GTX 1080 Ti", "6.1", False),
        ("Tesla K80", "3.7", False),
        ("Tesla T4", "7.5", True),
        ("NVIDIA A100-SXM4-40GB", "8.0", True),
        ("NVIDIA H200", "9.0", True),
        ("NVIDIA GeForce RTX 5090", "12.0", True),
        ("NVIDIA GB10", "12.1", True),
        ("a card", "[N/A]", True),
        ("a card", "", True),
        ("a card", "8", True),
    ],
)
def test_compute_capability_decides(name, capability, usable, smi, capsys, monkeypatch):
    smi([gpu(name, 16384, TESLA, capability, used=10)], gpu_xml((10, 16384, {}, ())))
    said = make_env_says(capsys, monkeypatch)
    if usable:
        assert sets.choose_set(machine.look()).name == "gpu" and "requirements.txt" in said
    else:
        with pytest.raises(CourseError, match="7.5") as refused:
            sets.choose_set(machine.look())
        for sentence in (refused.value.zh, refused.value.en):
            assert name in sentence and "SET=cpu" in sentence and sentence in said
        assert autodl.largest_model(machine.look()) == "none"
    known = re.fullmatch(r"[0-9]+\.[0-9]", capability)
    found = checked("GPU")
    assert found.level == ("ok" if usable and known else "warning")
    assert ("compute capability cannot be read" in found.fact.replace("读不出 ", "")) == (not known)


def test_an_old_nvidia_smi_does_not_know_compute_cap(smi):
    smi([gpu("NVIDIA GeForce RTX 3090", 24576, TESLA, "8.6")], XML, old=True)
    [card] = machine.look().gpus
    assert card == machine.Gpu("NVIDIA GeForce RTX 3090", 24576, TESLA, None)
    assert sets.choose_set(machine.look()).name == "gpu"
    assert checked("GPU").level == "warning" and "look it up" in checked("GPU").en


def test_an_old_card_beside_a_new_one(smi, monkeypatch):
    rows = [gpu("Tesla V100", 32768, TESLA, "7.0", uuid="GPU-v"), gpu("NVIDIA L4", 23034, TESLA, "8.9", uuid="GPU-l")]
    smi(rows, gpu_xml((1, 32768, {}, (), "Tesla V100", "GPU-v"), (1, 23034, {}, (), "NVIDIA L4", "GPU-l")))
    assert sets.choose_set(machine.look()).name == "gpu"
    assert [check.level for check in preflight(machine.look()) if check.name == "GPU"] == ["warning", "ok"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-v")
    with pytest.raises(CourseError, match="V100"):
        sets.choose_set(machine.look())


def test_a_set_that_was_named_is_taken_with_a_warning(smi, capsys, monkeypatch):
    monkeypatch.setenv("SET", "gpu")
    smi(SEVEN["V100"][0])
    said = make_env_says(capsys, monkeypatch)
    assert "requirements.txt" in said and "7.5" in said
    monkeypatch.setenv("SET", "cpu")
    assert "7.5" not in make_env_says(capsys, monkeypatch)


# ---------------------------------------------------------------------------------------------- drivers


@pytest.mark.parametrize(
    ("driver", "alone", "as_cu12", "as_gpu"),
    [
        ("1000.10", "gpu", None, None),
        ("580.95.05", "gpu", None, None),
        ("579.99", "cu12", None, "problem"),
        ("570.124.04", "cu12", None, "problem"),
        ("569.99", "not tested", "warning", "problem"),
        ("535.183.01", "not tested", "warning", "problem"),
        ("525.60.13", "not tested", "warning", "problem"),
        ("524.99", "too old", "problem", "problem"),
        ("470.256.02", "too old", "problem", "problem"),
    ],
)
def test_drivers(driver, alone, as_cu12, as_gpu, smi, capsys, monkeypatch):
    smi([gpu("NVIDIA GeForce RTX 3090", 24576, driver, "8.6")], XML)
    here = machine.look()
    if alone in sets.SETS:
        assert sets.choose_set(here).name == alone
    else:
        with pytest.raises(CourseError) as refused:
            sets.choose_set(here)
        assert all(driver in text and "SET=cpu" in text for text in (refused.value.zh, refused.value.en))
        assert ("SET=cu12" in refused.value.zh) == ("SET=cu12" in refused.value.en) == (alone == "not tested")
    for name, level in (("cu12", as_cu12), ("gpu", as_gpu)):
        assert sets.choose_set(here, name).name == name
        doubt = sets.driver_doubt(here, sets.SETS[name])
        assert (doubt and doubt[0]) == level
        monkeypatch.setenv("SET", name)
        said = make_env_says(capsys, monkeypatch)
        assert sets.SETS[name].lock in said and (doubt is None or doubt[2] in said)


@pytest.mark.parametrize("driver", ["[N/A]", "", "ERR!", "[Unknown Error]", "x", "580"])
def test_a_driver_that_cannot_be_read_is_asked_for(driver, smi):
    smi([gpu("NVIDIA GeForce RTX 3090", 24576, driver, "8.6")], XML)
    here = machine.look()
    assert here.driver is None and len(here.gpus) == 1
    with pytest.raises(CourseError, match="SET=gpu"):
        sets.choose_set(here)
    assert checked("GPU").level == "warning" and "SET=gpu" in checked("GPU").en


# ---------------------------------------------------------------------------------------------- the model for AutoDL


def test_model_by_a_memory_that_cannot_be_read(smi, monkeypatch):
    monkeypatch.setattr("helpers.cache.hub_copies", lambda name: [])

    def model(**changes):
        return autodl.largest_model(dataclasses.replace(machine.look(), data_disk=60 * GIB, **changes))

    smi(*SEVEN["GB10"][:2])
    with pytest.raises(CourseError, match="MODEL=Qwen/Qwen3-8B"):
        model()
    smi(*SEVEN["MIG slice"][:2])
    assert model() == "Qwen/Qwen3-8B"  # what 19.5 GiB hold
    smi(MIXED, MIXED_XML)
    assert model() == "Qwen/Qwen3-0.6B"  # what 4 GiB hold
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
    assert model() == "Qwen/Qwen3-8B"
    smi([], "")
    assert model() == "none"
    monkeypatch.setenv("SET", "gpu")  # no-GPU mode: there will be a GPU
    with pytest.raises(CourseError, match="MODEL=Qwen/Qwen3-8B"):
        model()


# ---------------------------------------------------------------------------------------------- generated answers

WRONG = [
    "[N/A]", "N/A", "[Not Supported]", "Not Supported", "[Unknown Error]", "Unknown Error", "ERR!", "[GPU is lost]",
    "[Insufficient Permissions]", "", " ", "-1", "nan", "None", "24 GiB", "2.4e4", "9" * 5000, "\uff19\uff19", "\u00b2",
    "\ufffd\ufffd", "0x10", "1 2", "true", "'", "%s",
]  # fmt: skip


def generated_rows():
    """(what was spoilt, the row): each field of a busy card in each way."""
    for field in ("memory.total", "driver_version", "compute_cap"):
        for value in WRONG:
            yield field, BUSY_ROW | {field: value}


def generated_xml():
    """Texts that are no XML, or XML in which a value is spoilt."""
    for value in WRONG:
        yield BUSY.replace(f"<used>{USED} MiB</used>", f"<used>{value}</used>")
        yield BUSY.replace("<total>49140 MiB</total>", f"<total>{value}</total>")
        yield BUSY.replace(
            "<processes>",
            f"<processes><process_info><pid>{value}</pid><used_memory>{value}</used_memory></process_info>",
        )
    tags = sorted(set(re.findall(r"</?\w+>", BUSY)))
    draw = random.Random(16)
    for tag in tags:  # one tag too many, one too few
        yield BUSY.replace(tag, tag * 2, 1)
        yield BUSY.replace(tag, "", 1)
    for _ in range(20):
        yield BUSY[: draw.randrange(len(BUSY) - 2)]
        at = draw.randrange(len(BUSY))
        yield BUSY[:at] + draw.choice("\0\x01\x1f<>&\ud7ff") + BUSY[at:]
    yield from ("", " \n", "{}", "<html></html>", "<nvidia_smi_log/>", "No devices were found", BUSY * 2, "<a>" * 9999)
    yield BUSY.replace("NVIDIA", "&x;")
    yield BUSY.replace('<?xml version="1.0" ?>', '<?xml version="1.0" encoding="gbk"?>')
    yield BUSY.replace('<?xml version="1.0" ?>', '<?xml version="1.0" encoding="no-such"?>')
    for encoding in ("utf-16", "utf-8-sig", "gbk", "cp1252"):
        yield BUSY.replace("[Not Found]", "\u00b7").encode(encoding)
    yield BUSY.encode().replace(b"NVIDIA", b"\xc4\xe3\xff")


TINY = Checkpoint(ROOT / "assets" / "models" / "qwen3-tiny")  # read once: its template takes a process of its own


def asked(level_of_gpu, expected_driver):
    """Everything that reads nvidia-smi, on what it answers now; returns the check's lines."""
    here = machine.look()
    checks = preflight(here)
    assert all(card.memory != 0 for card in here.gpus)
    assert all(total != 0 for _, total in machine.gpu_use().memory)
    for found in (check for check in checks if check.name == "GPU"):
        assert found.level == level_of_gpu, found
        assert not re.search(r"(?<![0-9.])0 (MiB|GiB)", found.fact)
    for attempt in (sets.choose_set, autodl.largest_model):
        try:
            attempt(here)
        except CourseError:
            assert expected_driver is None or attempt is autodl.largest_model
    engine.refuse_too_large(TINY, engine.sized_options(TINY))
    return checks


def busy_or_unread(checks):
    """The card is busy in truth, so the line on its memory is never ok, and never says nothing."""
    found = line(checks, "GPU memory in use")
    assert found.level == "warning" and (f"{USED} MiB" in found.fact or "cannot be read" in found.fact), found


@pytest.mark.slow
def test_generated_rows(smi):
    ran = 0
    for field, row in generated_rows():
        smi([row], BUSY)
        checks = asked("warning", None if field == "driver_version" else 580)
        if machine.look().gpus:
            busy_or_unread(checks)
        else:  # its answer told no card: a warning says that it failed
            assert "nvidia-smi failed" in line(checks, "GPU").fact
        ran += 1
    print(ran, "rows")
    assert ran == 3 * len(WRONG) >= 75


@pytest.mark.slow
def test_generated_xml(smi, monkeypatch):
    ran = 0
    for xml in generated_xml():
        rows = [BUSY_ROW] if ran % 2 else [BUSY_ROW | {"used": "[N/A]"}]
        smi(rows, xml if isinstance(xml, bytes) else xml.encode("utf-8", errors="surrogatepass"))
        busy_or_unread(asked("ok", 580))
        try:
            machine.refuse_busy_gpu()
        except CourseError as refusal:
            assert f"{USED} of 49140 MiB" in str(refusal)
        ran += 1
    print(ran, "texts")
    assert ran > 150
