"""How fast and how large offline generation is: ``.venv/bin/python -m benchmarks.generation``, about eight minutes.

On the bundled dense model, greedy, with every output of the same length:

- tokens/s of a batch of 64 in vLLM, beside transformers one by one and as a batch, with 1 and 2 threads; the ratios are
  medians of alternating repeats, with their range;
- a fresh kernel from its start to the first answer, and the peak memory of all its processes;
- resident memory after each of five open and close cycles in one kernel;
- the start of ``open_engine`` beside plain ``LLM`` with the same arguments and variables, each in a fresh process.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from jupyter_client.manager import start_new_kernel

from benchmarks.first_run import PeakMemory, in_kernel
from helpers import engine, models

BATCH, LENGTH, FEW = 64, 64, 4
FIRST_ANSWER = """
from helpers.engine import open_engine
llm = open_engine()
from vllm import SamplingParams
[output] = llm.chat([{"role": "user", "content": "37×46=?"}], SamplingParams(max_tokens=100), use_tqdm=False)
assert output.outputs[0].text
"""
OPENED = "import time; start = time.perf_counter(); {code}; print('took', time.perf_counter() - start)"
WITH_HELPER = "from helpers.engine import open_engine; llm = open_engine()"
PLAIN = "from vllm import LLM; llm = LLM(**{options})"


def throughput(repeats: int) -> dict[str, list[float]]:
    """Tokens/s of each way, measured in turn; runs in a process of its own, whose threads are already chosen."""
    import torch
    import transformers
    from vllm import SamplingParams

    folder = models.find_checkpoint("qwen3-tiny")
    llm = engine.open_engine(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{10 + number}×46=?"}], tokenize=False, add_generation_prompt=True
        )
        for number in range(BATCH)
    ]
    params = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def transformers_batch(texts):
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        model.generate(**batch, max_new_tokens=LENGTH, min_new_tokens=LENGTH, **greedy)

    ways = {
        "vLLM, batch of 64": (BATCH, lambda: llm.generate(prompts, params, use_tqdm=False)),
        "vLLM, one by one": (FEW, lambda: [llm.generate(prompt, params, use_tqdm=False) for prompt in prompts[:FEW]]),
        "transformers, batch of 64": (BATCH, lambda: transformers_batch(prompts)),
        "transformers, one by one": (FEW, lambda: [transformers_batch([prompt]) for prompt in prompts[:FEW]]),
    }
    speed = {name: [] for name in ways}
    for repeat in range(repeats + 1):  # the first warms up
        for name, (number, run) in ways.items():
            start = time.perf_counter()
            run()
            if repeat:
                speed[name].append(number * LENGTH / (time.perf_counter() - start))
    return speed


def throughput_rows(repeats: int, thread_counts: list[int]) -> list[str]:
    rows = []
    for threads in thread_counts:
        command = [sys.executable, "-m", "benchmarks.generation", "--worker", "--repeats", str(repeats)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        speed = json.loads(done.stdout.splitlines()[-1])
        for name, values in speed.items():
            compared = ratio(speed["vLLM, batch of 64"], values)
            rows.append(f"| {threads} | {name} | {statistics.median(values):.0f} | {compared} |")
    return rows


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median of the pairwise ratios, with their range."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def first_answer() -> list[str]:
    start = time.monotonic()
    manager, client = start_new_kernel(kernel_name="python3")
    memory = PeakMemory(manager.provisioner.pid)
    memory.start()
    try:
        in_kernel(client, FIRST_ANSWER)
        seconds = time.monotonic() - start
    finally:
        memory.done.set()
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return [
        f"| kernel start to first answer | {seconds:.1f} s | under 20 s |",
        f"| peak memory | {memory.peak / 1e9:.2f} GB | under 1.5 GB |",
    ]


def cycles(number: int) -> list[str]:
    code = """
import psutil
from helpers.engine import close_engine, open_engine
llm = open_engine()
from vllm import SamplingParams
llm.generate("1", SamplingParams(max_tokens=20), use_tqdm=False)
close_engine()
print(psutil.Process().memory_info().rss)
"""
    sizes = []
    manager, client = start_new_kernel(kernel_name="python3")

    def read(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            sizes.extend(int(word) for word in message["content"]["text"].split() if word.isdigit())

    try:
        for _ in range(number):
            reply = client.execute_interactive(code, timeout=600, output_hook=read)
            if reply["content"]["status"] != "ok":
                raise RuntimeError("\n".join(reply["content"]["traceback"]))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    shown = ", ".join(f"{size / 1e6:.0f}" for size in sizes)
    return [f"| memory after {number} open and close cycles, MB | {shown} | last within 10 % of the first |"]


def starts(repeats: int) -> list[str]:
    folder = models.find_checkpoint("qwen3-tiny")
    options = {"model": str(folder), "use_tqdm_on_load": False} | engine.sized_options(folder)
    environment = os.environ | engine.environment(folder) | {"VLLM_LOGGING_LEVEL": "ERROR"}
    codes = {"ours": WITH_HELPER, "plain": PLAIN.format(options=options)}
    seconds = {name: [] for name in codes}
    for _ in range(repeats):
        for name, code in codes.items():
            command = [sys.executable, "-c", OPENED.format(code=code)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            seconds[name].append(float(done.stdout.split("took ")[1].split()[0]))
    ours, plain = (statistics.median(values) for values in seconds.values())
    compared = ratio(seconds["ours"], seconds["plain"])
    return [f"| start, `open_engine` over plain `LLM` | {ours:.1f} s over {plain:.1f} s: {compared} | at most 1.05 |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="alternating repeats of each comparison (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="of the tokens/s (1 2); none: without")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(throughput(options.repeats)))
        return
    rows = throughput_rows(options.repeats, options.threads)
    more = [*first_answer(), *cycles(5), *starts(options.repeats)]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        f"{BATCH} problems, {LENGTH} tokens each; one by one: {FEW} of them; {options.repeats} alternating repeats.\n"
    )
    print("| threads | engine | tokens/s, median | vLLM, batch of 64 / this |\n|-|-|-|-|", *rows, sep="\n")
    print("\n| what | measured | wanted |\n|---|---|---|", *more, sep="\n")


if __name__ == "__main__":
    main()
