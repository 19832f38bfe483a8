"""The model in JavaScript, helpers/explorer/qwen, in a real browser: equal to the tokenizer, the chat template and the
models that it repeats, and one clear error for what it cannot do. The machinery is benchmarks/page.py's."""

import json
import math
import random
from collections import Counter

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from benchmarks import page as bench
from benchmarks.page import MODELS
from helpers import models, qwen
from helpers.experts import expert_off
from helpers.explorer.page import plain_script
from helpers.qwen import keep_min_p, keep_top_k, keep_top_p
from helpers.tokens import pieces as pieces_of

ENGINE = ROOT / "helpers" / "explorer" / "qwen"
PARTS = ("errors", "tensors", "model", "tokenizer", "chat", "sample")  # each before those that need it
MOE = "qwen3-moe-tiny"


@pytest.fixture(scope="module")
def page(browser):
    opened = bench.open_engine(browser)
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text))
    yield opened
    opened.context.close()
    assert problems == []


@pytest.fixture(scope="module")
def tokenizers():
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(models.BUNDLED / name) for name in MODELS}


@pytest.fixture(scope="module")
def references():
    return {name: qwen.load_model(models.BUNDLED / name, torch.float32, "cpu") for name in MODELS}


@pytest.fixture(scope="module")
def question(tokenizers):
    """Ids of the prompt 37×46=?, thinking."""
    tokenizer = tokenizers[MOE]
    return tokenizer.encode(bench.render(tokenizer, bench.QUESTION, True), add_special_tokens=False)


def evaluate(page, code, *arguments):
    """``bench.run``, where an error counts as its code."""
    return bench.run(page, f"try {{ {code} }} catch (error) {{ return error.code ?? String(error); }}", *arguments)


# ---------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("name", MODELS)
def test_token_ids_are_those_of_the_real_tokenizer_and_decode_to_the_text(name, page, tokenizers):
    texts = bench.texts()
    code = """const { tokenizer } = await load(a[0]);
        return a[1].map((text) => tokenizer.encode(text)).map((ids) => [ids, tokenizer.decode(ids)]);"""
    assert len(texts) == 500
    for text, (ids, decoded) in zip(map(bench.well_formed, texts), evaluate(page, code, name, texts), strict=True):
        assert ids == tokenizers[name].encode(text, add_special_tokens=False), ascii(text)
        assert decoded == text


def test_any_ids_decode_as_in_the_real_tokenizer(page, tokenizers):
    rng, tokenizer = random.Random(0), tokenizers[MOE]
    sequences = [[rng.randrange(len(tokenizer)) for _ in range(rng.randint(0, 30))] for _ in range(300)]
    sequences += [
        [rng.randrange(256) for _ in range(12)] + tokenizer.encode("👩‍👩‍👧 好") for _ in range(100)
    ]  # lone bytes
    code = """const { tokenizer } = await load("qwen3-moe-tiny");
        return a[0].map((ids) => [tokenizer.decode(ids), tokenizer.decode(ids, { skipSpecial: true })]);"""
    for ids, (whole, bare) in zip(sequences, evaluate(page, code, sequences), strict=True):
        assert whole == tokenizer.decode(ids) and bare == tokenizer.decode(ids, skip_special_tokens=True)


def test_special_tokens_have_names_and_tokens_their_bytes(page, tokenizers):
    code = """const { tokenizer } = await load("qwen3-moe-tiny");
        return [Object.fromEntries(tokenizer.special), tokenizer.bytes.map((bytes) => [...bytes])];"""
    special, pieces = evaluate(page, code)
    assert special == tokenizers[MOE].get_added_vocab()
    expected = pieces_of(tokenizers[MOE], range(len(tokenizers[MOE])))
    assert [bytes(piece) for piece in pieces] == list(expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("reply_begins", [True, False])
def test_rendered_prompts_are_those_of_the_template(name, thinking, reply_begins, page, tokenizers):
    asked = bench.conversations() + bench.prompts()
    asked.append([{"role": "assistant", "content": "713", "reasoning_content": "no question before it"}])
    code = "return a[0].map((m) => renderChat(m, { thinking: a[1], addGenerationPrompt: a[2] }));"
    for messages, text in zip(asked, evaluate(page, code, asked, thinking, reply_begins), strict=True):
        assert text == bench.render(tokenizers[name], messages, thinking, reply_begins), messages


# ---------------------------------------------------------------------------------------------- the model


def check_answers(page, name, thinking, tokenizers, forward, asked):
    found = bench.compare(page, name, asked, thinking, forward, tokenizers[name])
    print(f"{found.tokens} tokens, {found.choices} choices of experts; ties: {found.ties}")
    assert found.different == [] and found.tokens > 5 * len(asked) and (found.choices > 0) == (name == MOE)
    assert found.logit_difference < 1e-4 and found.weight_difference < 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("thinking", [True, False])
def test_answers_and_routing_are_those_of_the_reference(name, thinking, page, tokenizers, references):
    check_answers(page, name, thinking, tokenizers, bench.reference(references[name]), bench.prompts(3, seed=1))


@pytest.mark.large
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("thinking", [True, False])
def test_answers_and_routing_of_many_prompts_are_those_of_the_reference(name, thinking, page, tokenizers, references):
    check_answers(page, name, thinking, tokenizers, bench.reference(references[name]), bench.prompts(50))


@pytest.mark.large
@pytest.mark.parametrize("name", MODELS)
def test_answers_and_routing_are_those_of_transformers(name, page, tokenizers):
    forward = bench.transformers_reference(models.BUNDLED / name)
    for thinking in (True, False):
        check_answers(page, name, thinking, tokenizers, forward, bench.prompts(8))


def test_logits_at_every_position_are_those_of_the_reference(page, question, references):
    ids = question + [random.Random(0).randrange(2560) for _ in range(60)]
    for name in MODELS:
        code = """const { model } = await load(a[0]);
            model.cache.rewind(0);
            return a[1].map((id) => Array.from(model.step(id)));"""
        found = torch.tensor(evaluate(page, code, name, ids))
        expected = references[name](torch.tensor([ids]))[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_attention_weights_are_those_of_transformers(name, page, question):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        models.BUNDLED / name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = model(torch.tensor([question]), output_attentions=True).attentions  # layers x (1, heads, seq, seq)
    code = """const { model } = await load(a[0]), rows = [];
        model.cache.rewind(0);
        model.prefill(a[1], { hooks: { attention: (layer, weights) => rows.push([layer, [...weights]]) } });
        return rows;"""
    rows = evaluate(page, code, name, question)
    assert len(rows) == len(question) * len(expected)
    for number, (layer, weights) in enumerate(rows):
        place = number // len(expected)
        found = torch.tensor(weights, dtype=torch.float32).view(-1, place + 1)  # (heads, place + 1)
        torch.testing.assert_close(found, expected[layer][0, :, place, : place + 1], atol=1e-6, rtol=1e-4)


def knocked_out(page, references, question, layer, expert):
    with expert_off(references[MOE], layer, expert):
        found = bench.Comparison()
        reply = bench.run(page, "return greedy(...a)", MOE, question, [layer, expert])
        found.add(bench.reference(references[MOE]), references[MOE].config, question, reply)
    assert found.different == [] and found.choices > 0 and found.weight_difference < 1e-5
    used = [row[:2] for place, row in enumerate(reply["routed"]) if place % len(references[MOE].layers) == layer]
    assert all(expert not in pair for pair in used)
    return reply["written"]


def test_an_expert_is_off_as_in_the_course(page, references, question):
    usual = bench.run(page, "return greedy(...a)", MOE, question)["written"]
    assert knocked_out(page, references, question, 1, 2) != usual  # or the switch might do nothing


@pytest.mark.large
def test_every_expert_is_off_as_in_the_course_and_the_sweep_counts_the_answers_that_stay(page, references, question):
    usual = bench.run(page, "return greedy(...a)", MOE, question)["written"]
    answers = [knocked_out(page, references, question, layer, expert) for layer in range(4) for expert in range(8)]
    done = bench.run(page, "return sweep(...a)", MOE, bench.QUESTION[0]["content"])
    assert done["unchanged"] == answers.count(usual) and 0 < done["unchanged"] < 32


def test_the_cache_goes_back_forks_and_ends(page, question):
    code = """const { model } = await load(a[0]), ids = a[1], copy = (logits) => Array.from(logits);
        model.cache.rewind(0);
        const after = ids.map((id) => copy(model.step(id))), root = model.cache, fork = root.fork();
        const places = [root.length, fork.length];
        model.cache = fork;
        const there = copy(model.step(5));
        model.cache.rewind(3);
        const again = copy(model.step(ids[3]));  // overwrites what the fork held, not the root
        model.cache = root;
        const here = copy(model.step(5));
        return { after, places, there, again, here, lengths: [root.length, fork.length] };"""
    found = evaluate(page, code, MOE, question)
    assert found["places"] == [len(question)] * 2 and found["lengths"] == [len(question) + 1, 4]
    assert found["there"] == found["here"] != found["after"][-1] and found["again"] == found["after"][3]


def test_a_context_that_is_full_ends_an_answer_and_refuses_more(page, question):
    code = """const { weights, config } = await files(a[0]);
        const model = loadModel(weights, config, { maxLength: a[1].length + 3 }), written = [...generate(model, a[1])];
        const code = (work) => { try { return work(); } catch (error) { return error.code; } };
        const codes = [code(() => model.step(1))];
        model.cache.rewind(a[1].length);
        const after = model.step(written[0]).length;
        codes.push(code(() => [...generate(model, [...a[1], 1, 1, 1, 1])]));
        return { written: written.length, codes, after };"""
    found = evaluate(page, code, MOE, question)
    assert found == {"written": 4, "codes": ["context-full", "context-full"], "after": 2560}


def test_a_step_may_begin_in_a_later_layer_with_what_came_in_there(page, question):
    code = """const { model } = await load("qwen3-moe-tiny"), inputs = [];
        const input = (layer, hiddenStates) => { inputs[layer] = hiddenStates.slice(); };
        model.cache.rewind(0);
        const usual = Array.from(model.prefill(a[1], { hooks: { input } })), last = a[1].length - 1;
        const step = (from) => {
            model.cache.rewind(last);
            return Array.from(model.step(a[1][last], { from }));
        };
        const same = inputs.map((hiddenStates, layer) => step({ layer, hiddenStates }).join() === usual.join());
        const other = step({ layer: 2, hiddenStates: inputs[1] });
        return [same, other.join() === usual.join()];"""
    assert evaluate(page, code, MOE, question) == [[True] * 4, False]


def random_model(**changed):
    """A Qwen3-MoE of odd sizes, as its config.json and tensors: an untied head, weights that do not add up to 1."""
    torch.manual_seed(0)
    raw = {
        "model_type": "qwen3_moe", "vocab_size": 53, "hidden_size": 22, "num_hidden_layers": 2, "head_dim": 6,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "num_experts": 5,
        "num_experts_per_tok": 3, "moe_intermediate_size": 13, "norm_topk_prob": False, "intermediate_size": 40,
    } | changed  # fmt: skip
    sizes = {key: raw[key] for key in raw.keys() & qwen.QwenConfig.__dataclass_fields__.keys()}
    if raw["model_type"] == "qwen3":
        sizes["num_experts"] = 0
    model = qwen.QwenModel(qwen.QwenConfig(**sizes, qk_norm=True, qkv_bias=False)).eval().requires_grad_(False)
    state = {name: tensor + torch.randn_like(tensor) / 3 for name, tensor in model.state_dict().items()}
    return raw, {name: t.contiguous() for name, t in qwen.checkpoint_views(model.config, state, packed=False).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe"])
def test_other_sizes_and_every_dtype(dtype, model_type, page, tmp_path):
    raw, tensors = random_model(model_type=model_type, tie_word_embeddings=dtype == torch.float32)
    tensors["model.embed_tokens.weight"][0, :4] = torch.tensor([0, -0.0, 6e-8, -3e-5])  # zeros of both signs
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    ids = [0, 52, 7, 7, 31, 0, 12]
    expected = qwen.load_model(tmp_path, torch.float32, "cpu")(torch.tensor([ids]))[0]
    code = """const model = loadModel(Uint8Array.from(a[0]).buffer, a[1]);
        return a[2].map((id) => Array.from(model.step(id)));"""
    found = torch.tensor(evaluate(page, code, list((tmp_path / "model.safetensors").read_bytes()), raw, ids))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- sampling

SETTINGS = {
    "as it is": {},
    "thinking": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "non-thinking": {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    "temperature 2": {"temperature": 2.0},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.05, "temperature": 1.5},
    "all": {"temperature": 1.2, "min_p": 0.01, "top_k": 9, "top_p": 0.9},
    "one": {"top_k": 1},
}


def formula(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Lesson 05's probabilities in vLLM's order; ``logits`` is (1, vocab)."""
    logits = keep_min_p(logits / temperature, min_p) if min_p else logits / temperature
    logits = keep_top_k(logits, top_k) if top_k else logits
    return (keep_top_p(logits, top_p) if top_p < 1 else logits).softmax(dim=-1)[0]


def camel(settings):
    names = {"top_k": "topK", "top_p": "topP", "min_p": "minP"}
    return {names.get(name, name): value for name, value in settings.items()}


@pytest.fixture(scope="module")
def uncertain(references, tokenizers):
    """Logits at a position where many tokens may follow, (1, vocab)."""
    ids = tokenizers[MOE].encode("从前有")
    return references[MOE](torch.tensor([ids]))[:, -1].detach()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_distribution_is_the_formula(settings, page, uncertain):
    ties = torch.tensor([[1.0, 3, 2, 3, 2, 2, 0, -1, 2, 1]])
    for logits in (uncertain, torch.randn(1, 400, generator=torch.Generator().manual_seed(1)) * 3, ties):
        code = "return Array.from(distribution(Float32Array.from(a[0]), a[1]));"
        found = torch.tensor(evaluate(page, code, logits[0].tolist(), camel(settings)), dtype=torch.float64)
        expected = formula(logits.double(), **settings)
        if logits is ties:  # which of equally likely tokens top-p keeps is open
            found, expected = found.sort().values, expected.sort().values
        assert torch.equal(found > 0, expected > 0)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_thousand_draws_follow_the_formula(settings, page, uncertain):
    code = """const random = seededRandom(7), logits = Float32Array.from(a[0]);
        return Array.from({ length: 1000 }, () => sample(logits, { ...a[1], random }));"""
    probabilities = formula(uncertain.double(), **settings).tolist()
    drawn = Counter(evaluate(page, code, uncertain[0].tolist(), camel(settings)))
    assert all(probabilities[token] > 0 for token in drawn)
    common = [token for token, p in enumerate(probabilities) if p >= 0.005]
    groups = [([token], probabilities[token]) for token in common]
    rare = [token for token in range(len(probabilities)) if token not in common]
    groups.append((rare, sum(probabilities[token] for token in rare)))
    for tokens, p in groups:
        count = sum(drawn[token] for token in tokens)
        assert abs(count - 1000 * p) <= 5 * math.sqrt(1000 * p * (1 - min(p, 1))) + 1e-6, (tokens[:3], p, count)


def test_temperature_0_takes_the_likeliest_and_a_seed_repeats_a_text(page, question, uncertain):
    code = """const { model } = await load("qwen3-moe-tiny"), options = { temperature: 1.5, maxNewTokens: 20 };
        const texts = [3, 3, 4].map((seed) => [...generate(model, a[1], { ...options, random: seededRandom(seed) })]);
        return [sample(Float32Array.from(a[0]), { temperature: 0, topK: 5 }), texts];"""
    token, (first, same, other) = evaluate(page, code, uncertain[0].tolist(), question)
    assert token == int(uncertain.argmax()) and first == same != other
    code = "const random = seededRandom(a[0]); return Array.from({ length: 2000 }, random);"
    drawn = evaluate(page, code, 1)
    assert all(0 <= value < 1 for value in drawn) and 0.45 < sum(drawn) / 2000 < 0.55 and len(set(drawn)) == 2000


# ---------------------------------------------------------------------------------------------- what it refuses

LOADED = """const { weights, config } = await files("qwen3-moe-tiny"), bytes = new Uint8Array(weights);
    const load = (file, changed = {}) => loadModel(file.buffer ?? file, { ...config, ...changed }) && "loaded";
    const header = (text) => { // a file with this header and no numbers
        const file = new Uint8Array(8 + text.length);
        file[0] = text.length;
        file.set(new TextEncoder().encode(text), 8);
        return file;
    };
    """


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("loaded", "bytes"),
        ("damaged-weights", "bytes.slice(0, bytes.length / 2)"),
        ("damaged-weights", "bytes.slice(0, -1)"),
        ("damaged-weights", "bytes.slice(0, 5000)"),  # within the header
        ("damaged-weights", "bytes.slice(0, 5)"),
        ("damaged-weights", "new Uint8Array(0)"),
        ("damaged-weights", "new Uint8Array(1e6).fill(255)"),  # a header of 2^64 bytes
        ("damaged-weights", "Uint8Array.from([...bytes, 0])"),
        ("damaged-weights", "bytes.map((byte, place) => place === 20 ? 0 : byte)"),
        ("damaged-weights", "new TextEncoder().encode('<!doctype html><title>404</title>')"),
        ("damaged-weights", "undefined ?? {}"),
        ("damaged-weights", "header('null')"),
        ("damaged-weights", "header('{\"a\":null}')"),
        ("damaged-weights", 'header(\'{"a":{"dtype":"F32","shape":[1e9,1e9],"data_offsets":[0,0]}}\')'),
        ("damaged-weights", 'header(\'{"a":{"dtype":"F32","shape":[0],"data_offsets":[-9,-9]}}\')'),
        ("unsupported-model", 'header(\'{"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}\')'),
        ("config-mismatch", "header('{}')"),
    ],
)
def test_a_weight_file_that_is_not_whole_is_one_error(code, file, page):
    assert evaluate(page, f"{LOADED} return load({file});") == code


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("unsupported-model", {"model_type": "qwen2"}),
        ("unsupported-model", {"model_type": None}),
        ("unsupported-model", {"rope_scaling": {"type": "yarn", "factor": 4}}),
        ("unsupported-model", {"hidden_act": "gelu"}),
        ("unsupported-model", {"attention_bias": True}),
        ("unsupported-model", {"quantization_config": {"bits": 4}}),
        ("bad-config", {"head_dim": None}),
        ("bad-config", {"num_hidden_layers": "4"}),
        ("bad-config", {"num_experts_per_tok": 9}),
        ("bad-config", {"rope_theta": 0}),
        ("config-mismatch", {"model_type": "qwen3"}),
        ("config-mismatch", {"num_experts": 4}),
        ("config-mismatch", {"num_experts": 16}),
        ("config-mismatch", {"num_hidden_layers": 3}),
        ("config-mismatch", {"num_hidden_layers": 10**9}),
        ("config-mismatch", {"vocab_size": 151936}),
        ("config-mismatch", {"tie_word_embeddings": False}),
    ],
)
def test_a_config_of_another_model_is_one_error(code, changed, page):
    assert evaluate(page, f"{LOADED} return load(bytes, a[0]);", changed) == code


def test_more_positions_than_memory_is_a_range_error(page):
    found = evaluate(page, f"{LOADED} return load(bytes, a[0]);", {"max_position_embeddings": 10**11})
    assert found.startswith("RangeError")


def test_the_weights_of_the_other_bundled_model_are_one_error(page):
    code = "return loadModel((await files(a[1])).weights, (await files(a[0])).config);"
    for names in (MODELS, MODELS[::-1]):
        assert evaluate(page, code, *names) == "config-mismatch"
    assert evaluate(page, code.replace("(await files(a[0])).config", "undefined"), *MODELS) == "unsupported-model"


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("bad-token", "model.step(2560)"),
        ("bad-token", "model.step(-1)"),
        ("bad-token", "model.step(1.5)"),
        ("bad-token", "model.step(undefined)"),
        ("bad-token", "model.prefill([1, NaN])"),
        ("empty-prompt", "model.prefill([])"),
        ("empty-prompt", "[...generate(model, tokenizer.encode(''))]"),
        ("context-full", "[...generate(model, Array(3000).fill(5))]"),
        ("no-expert", "model.step(1, { expertOff: [0, 8] })"),
        ("no-expert", "model.step(1, { expertOff: [4, 0] })"),
        ("no-expert", "model.step(1, { expertOff: ['a', -1] })"),
        ("bad-position", "model.cache.rewind(1000)"),
        ("bad-position", "model.cache.rewind(-1)"),
        ("bad-option", "sample(logits, { temperature: -1 })"),
        ("bad-option", "sample(logits, { temperature: NaN })"),
        ("bad-option", "sample(logits, { topP: 0 })"),
        ("bad-option", "sample(logits, { topP: 1.1 })"),
        ("bad-option", "sample(logits, { minP: 2 })"),
        ("bad-option", "sample(logits, { topK: 2.5 })"),
        ("bad-option", "sample(logits, { topK: -1 })"),
        ("bad-logits", "sample(logits.map(() => NaN))"),
        ("bad-logits", "sample(logits.map(() => NaN), { temperature: 0 })"),
        ("bad-logits", "sample(new Float32Array(0))"),
        ("bad-token", "tokenizer.decode([2560])"),
        ("bad-token", "tokenizer.decode([1, undefined])"),
        ("text-too-long", "tokenizer.encode('a'.repeat(1e6))"),
        ("damaged-tokenizer", "new Tokenizer(undefined)"),
        ("damaged-tokenizer", "new Tokenizer({ model: {} })"),
        ("damaged-tokenizer", "new Tokenizer({ ...json, added_tokens: null })"),
        ("unsupported-tokenizer", "new Tokenizer({ ...json, normalizer: { type: 'Lowercase' } })"),
        ("unsupported-tokenizer", "new Tokenizer({ ...json, model: { ...json.model, type: 'Unigram' } })"),
        ("bad-messages", "renderChat([])"),
        ("bad-messages", "renderChat('hello')"),
        ("bad-messages", "renderChat([null])"),
        ("bad-messages", "renderChat([{ role: 'tool', content: '1702' }])"),
        ("bad-messages", "renderChat([{ role: 'user', content: null }])"),
    ],
)
def test_what_cannot_be_done_is_one_error_and_leaves_the_cache(code, call, page):
    given = f"""const {{ model, tokenizer }} = await load("{MOE}"), logits = new Float32Array(9);
        const json = (await files("{MOE}")).tokenizer;
        model.cache.rewind(0);
        model.step(1);
        let found = "nothing";
        try {{ {call}; }} catch (error) {{ found = error instanceof QwenError ? error.code : String(error); }}
        return [found, model.cache.length <= 1];"""
    assert evaluate(page, given) == [code, True]


def test_a_dense_model_has_no_expert_to_switch_off(page):
    code = 'const { model } = await load("qwen3-tiny"); model.cache.rewind(0); model.step(1, { expertOff: [0, 0] });'
    assert evaluate(page, code) == "no-expert"


# ---------------------------------------------------------------------------------------------- where it runs

USE = """
const say = async ({ data: [weights, config, ids] }) => {
    const model = loadModel(weights, config);
    postMessage([...generate(model, ids, { maxNewTokens: 8 })]);
};
self.onmessage = (event) => say(event).catch((error) => postMessage(String(error)));
"""
ASK = """const { weights, config } = await files("qwen3-moe-tiny"), [script, options, ids] = a;
    const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), options);
    const answer = new Promise((done, failed) => Object.assign(worker, { onmessage: done, onerror: failed }));
    worker.postMessage([weights, config, ids]);
    const { data } = await answer;
    worker.terminate();
    return data;"""


def test_it_runs_in_a_worker_of_modules_and_in_one_of_a_single_script(page, question):
    usual = bench.run(page, "return greedy(...a)", MOE, question)["written"][:8]
    imports = "import { loadModel } from 'ORIGIN/qwen/model.js'; import { generate } from 'ORIGIN/qwen/sample.js';"
    modules = imports.replace("ORIGIN", "http://page.test") + USE  # a blob has no folder of its own
    for script, options in ((modules, {"type": "module"}), (plain_script(*PARTS) + USE, {})):
        assert evaluate(page, ASK, script, options, question) == usual


def test_the_modules_need_nothing_but_each_other():
    assert {path.stem for path in ENGINE.glob("*.js")} == set(PARTS)
    for path in ENGINE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for banned in ("require(", "WebAssembly", "fetch(", "document.", "window.", "eval(", "http:", "https:"):
            assert banned not in text, (path.name, banned)
