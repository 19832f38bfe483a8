/**
 * Qwen3 and Qwen3-MoE in float32, one token at a time: the models of helpers/qwen.py, part for part.
 *
 *     const model = loadModel(buffer, config);        // model.safetensors as an ArrayBuffer, config.json as an object
 *     let logits = model.prefill(promptIds);          // Float32Array (vocab_size)
 *     logits = model.step(id, { expertOff: [1, 2], hooks: { router, attention } });
 *
 * Weights and settings have the names of the checkpoint. All memory is taken once: what a step returns and what hooks
 * get is overwritten by the next step, so copy what you keep.
 */

import { QwenError } from "./errors.js";
import { addScaled, copyRow, linear, readHeader, rmsNorm, softmax, toFloat32 } from "./tensors.js";

/** Keys (normed and rotated) and values of every layer, of which the first `length` positions are filled. */
export class KVCache {
  constructor(config, maxLength) {
    const size = maxLength * config.num_key_value_heads * config.head_dim; // of each: (max_length, kv_heads, head_dim)
    const layers = () => Array.from({ length: config.num_hidden_layers }, () => new Float32Array(size));
    Object.assign(this, { config, maxLength, length: 0, keys: layers(), values: layers() });
  }

  /** Forget all but the first `length` positions. Throws bad-position. */
  rewind(length) {
    if (!(Number.isInteger(length) && length >= 0 && length <= this.length))
      throw new QwenError("bad-position", `The cache holds ${this.length} positions and cannot go back to ${length}.`);
    this.length = length;
  }

  /** A copy that goes its own way: set `model.cache` to the one to go on with. */
  fork() {
    return new KVCache(this.config, this.maxLength).take(this);
  }

  /** Makes this cache, of a model with the same config and at least as long, equal to `other`; returns it. */
  take(other) {
    const filled = other.length * this.config.num_key_value_heads * this.config.head_dim;
    for (let layer = 0; layer < this.keys.length; layer++) {
      this.keys[layer].set(other.keys[layer].subarray(0, filled));
      this.values[layer].set(other.values[layer].subarray(0, filled));
    }
    return Object.assign(this, { length: other.length });
  }
}

/** What `loadModel` returns: `config`, `cache`, `step` and `prefill` are for use, the rest is how it works. */
class Model {
  constructor(weights, config, maxLength) {
    const { hidden_size: hidden, head_dim, num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
    const width = config.num_experts ? config.moe_intermediate_size : config.intermediate_size;
    const floats = (size) => new Float32Array(size);
    const exponents = floats(head_dim / 2).map((_, pair) => (2 * pair) / head_dim);
    this.inverseFrequencies = exponents.map((exponent) => 1 / Math.fround(config.rope_theta ** exponent));
    Object.assign(this, weights, {
      config, cache: new KVCache(config, maxLength), logits: floats(config.vocab_size),
      hiddenStates: floats(hidden), normed: floats(hidden), blockOutput: floats(hidden), expertOutput: floats(hidden),
      cos: floats(head_dim / 2), sin: floats(head_dim / 2), gate: floats(width), up: floats(width),
      query: floats(heads * head_dim), attentionOutput: floats(heads * head_dim), // (heads, head_dim)
      key: floats(kvHeads * head_dim), value: floats(kvHeads * head_dim), // (kv_heads, head_dim)
      attentionWeights: floats(heads * maxLength), // (heads, length), and room for more
      routerLogits: floats(config.num_experts), probabilities: floats(config.num_experts),
      expertIds: new Int32Array(config.num_experts_per_tok), routingWeights: floats(config.num_experts_per_tok),
    });
  }

  /**
   * Takes the token `id` as the next one and returns the logits of the one after it.
   * @param {?[number, number]} [options.expertOff] [layer, expert] that the router may not choose: as in lesson 04
   *   (`routing.expert_off`) its logit is -Infinity, so that its tokens go to the next best expert
   * @param {object} [options.hooks] called in every layer: input(layer, hiddenStates) with (hidden_size),
   *   attention(layer, attentionWeights) with (heads, length), and
   *   router(layer, routerLogits, expertIds, routingWeights) with (num_experts), (top_k), (top_k), the heaviest first
   * @param {?{layer: number, hiddenStates: Float32Array}} [options.from] begins in this layer with the hidden states that
   *   `hooks.input` once got there; the cache must hold the keys and values of the layers before it at this position
   * @param {boolean} [options.wantLogits] false leaves out the head, a third of the work of the bundled models
   * @returns {?Float32Array} (vocab_size)
   * @throws {QwenError} bad-token, no-expert, context-full; the cache stays as it was
   */
  step(id, { expertOff = null, hooks = {}, from = null, wantLogits = true } = {}) {
    const { config, cache, hiddenStates, normed, blockOutput } = this, eps = config.rms_norm_eps;
    this.refuse([id], expertOff);
    if (from) hiddenStates.set(from.hiddenStates);
    else copyRow(this.embed_tokens, config.vocab_size, id, hiddenStates);
    for (let pair = 0; pair < this.cos.length; pair++) {
      const angle = Math.fround(cache.length * this.inverseFrequencies[pair]);
      this.cos[pair] = Math.cos(angle);
      this.sin[pair] = Math.sin(angle);
    }
    for (let layer = from?.layer ?? 0; layer < this.layers.length; layer++) {
      const weights = this.layers[layer];
      hooks.input?.(layer, hiddenStates);
      rmsNorm(weights.input_layernorm, eps, hiddenStates, normed);
      this.attention(layer, weights, hooks);
      addScaled(hiddenStates, blockOutput, 1);
      rmsNorm(weights.post_attention_layernorm, eps, hiddenStates, normed);
      if (weights.experts) this.mixtureOfExperts(layer, weights, expertOff, hooks);
      else this.swiglu(weights, blockOutput);
      addScaled(hiddenStates, blockOutput, 1);
    }
    cache.length++;
    if (!wantLogits) return null;
    rmsNorm(this.norm, eps, hiddenStates, normed);
    linear(this.lm_head, normed, this.logits);
    return this.logits;
  }

  /** A step for each of `ids`; returns the logits after the last. Options and errors of `step`, and empty-prompt. */
  prefill(ids, options = {}) {
    if (!ids.length) throw new QwenError("empty-prompt", "The prompt has no tokens.");
    this.refuse(ids, options.expertOff);
    for (const id of ids.slice(0, -1)) this.step(id, { ...options, wantLogits: false });
    return this.step(ids[ids.length - 1], options);
  }

  /** Grouped-query attention of the newest token over all so far; each head of query and key is normed before RoPE. */
  attention(layer, weights, hooks) {
    const { config, cache, normed, query, key, value, attentionWeights, attentionOutput } = this;
    const { head_dim, num_attention_heads: heads, num_key_value_heads: kvHeads, rms_norm_eps: eps } = config;
    const keys = cache.keys[layer], values = cache.values[layer], width = kvHeads * head_dim, length = cache.length + 1;
    linear(weights.q_proj, normed, query);
    linear(weights.k_proj, normed, key);
    linear(weights.v_proj, normed, value);
    rmsNorm(weights.q_norm, eps, query, query);
    rmsNorm(weights.k_norm, eps, key, key);
    this.rotate(query);
    this.rotate(key);
    keys.set(key, cache.length * width);
    values.set(value, cache.length * width);
    attentionOutput.fill(0);
    for (let head = 0; head < heads; head++) {
      const own = head * head_dim, row = head * length, shared = Math.floor((head * kvHeads) / heads) * head_dim;
      for (let position = 0, at = shared; position < length; position++, at += width) {
        let score = 0;
        for (let i = 0; i < head_dim; i++) score += query[own + i] * keys[at + i];
        attentionWeights[row + position] = score / Math.sqrt(head_dim);
      }
      softmax(attentionWeights, row, row + length);
      for (let position = 0, at = shared; position < length; position++, at += width) {
        const weight = attentionWeights[row + position];
        for (let i = 0; i < head_dim; i++) attentionOutput[own + i] += weight * values[at + i];
      }
    }
    hooks.attention?.(layer, attentionWeights.subarray(0, heads * length));
    linear(weights.o_proj, attentionOutput, this.blockOutput);
  }

  /** RoPE in place: turns the pairs (i, i + head_dim / 2) of every head. */
  rotate(heads) {
    const { cos, sin } = this, half = cos.length;
    for (let start = 0; start < heads.length; start += 2 * half)
      for (let pair = 0; pair < half; pair++) {
        const first = heads[start + pair], second = heads[start + pair + half];
        heads[start + pair] = first * cos[pair] - second * sin[pair];
        heads[start + pair + half] = second * cos[pair] + first * sin[pair];
      }
  }

  /** The gated feed-forward network of a dense layer or of one expert. */
  swiglu({ gate_proj, up_proj, down_proj }, output) {
    const { gate, up } = this;
    linear(gate_proj, this.normed, gate);
    linear(up_proj, this.normed, up);
    for (let i = 0; i < gate.length; i++) gate[i] = (gate[i] / (1 + Math.exp(-gate[i]))) * up[i]; // silu(gate) * up
    linear(down_proj, gate, output);
  }

  /** The outputs of the chosen experts, added up by their routing weights. */
  mixtureOfExperts(layer, weights, expertOff, hooks) {
    const { routerLogits, expertIds, routingWeights, expertOutput, blockOutput } = this;
    linear(weights.gate, this.normed, routerLogits);
    if (expertOff?.[0] === layer) routerLogits[expertOff[1]] = -Infinity;
    this.route();
    hooks.router?.(layer, routerLogits, expertIds, routingWeights);
    blockOutput.fill(0);
    for (let slot = 0; slot < expertIds.length; slot++) {
      this.swiglu(weights.experts[expertIds[slot]], expertOutput);
      addScaled(blockOutput, expertOutput, routingWeights[slot]);
    }
  }

  /** Softmax over all experts, then the top k of them; norm_topk_prob makes their weights add up to 1. */
  route() {
    const { probabilities, expertIds, routingWeights } = this;
    probabilities.set(this.routerLogits);
    softmax(probabilities, 0, probabilities.length);
    let sum = 0;
    for (let slot = 0; slot < expertIds.length; slot++) {
      let best = 0;
      for (let id = 1; id < probabilities.length; id++) if (probabilities[id] > probabilities[best]) best = id;
      expertIds[slot] = best;
      sum += routingWeights[slot] = probabilities[best];
      probabilities[best] = -1; // taken
    }
    if (this.config.norm_topk_prob) for (let slot = 0; slot < expertIds.length; slot++) routingWeights[slot] /= sum;
  }

  /** Throws for what cannot be computed. */
  refuse(ids, expertOff) {
    const { config, cache, layers } = this, length = cache.length + ids.length;
    for (const id of ids)
      if (!(Number.isInteger(id) && id >= 0 && id < config.vocab_size))
        throw new QwenError("bad-token", `${id} is no token: ids go from 0 to ${config.vocab_size - 1}.`);
    if (length > cache.maxLength)
      throw new QwenError("context-full", `The context of ${cache.maxLength} tokens has no room for ${length}.`);
    if (expertOff && !layers[expertOff[0]]?.experts?.[expertOff[1]])
      throw new QwenError("no-expert", `There is no expert ${expertOff[1]} in layer ${expertOff[0]}.`);
  }
}

/**
 * The model in `buffer`, an ArrayBuffer with model.safetensors. maxLength: positions of the KV cache, by default all that
 * the model can have.
 * @throws {QwenError} damaged-weights, bad-config, unsupported-model, config-mismatch; RangeError for want of memory
 */
export function loadModel(buffer, rawConfig, { maxLength } = {}) {
  const config = checkedConfig(rawConfig), tensors = readHeader(buffer);
  return new Model(readWeights(buffer, tensors, config), config, maxLength ?? config.max_position_embeddings);
}

function checkedConfig(raw) {
  const config = { ...raw }, moe = config.model_type === "qwen3_moe";
  if (!moe) Object.assign(config, { num_experts: 0, num_experts_per_tok: 0 });
  const refused = ["attention_bias", "quantization_config", "rope_scaling", "use_sliding_window"];
  const found = refused.filter((key) => config[key]);
  if (!moe && config.model_type !== "qwen3") found.push(`model_type ${config.model_type}`);
  if (config.hidden_act !== "silu") found.push(`hidden_act ${config.hidden_act}`);
  if (found.length) throw new QwenError("unsupported-model", `Only plain Qwen3 runs here, not ${found.join(", ")}.`);
  const needed = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"];
  needed.push("head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta");
  needed.push(...(moe ? ["moe_intermediate_size", "num_experts", "num_experts_per_tok"] : ["intermediate_size"]));
  const wrong = needed.filter((key) => !(Number.isFinite(config[key]) && config[key] > 0));
  if (config.num_experts_per_tok > config.num_experts) wrong.push("num_experts_per_tok");
  if (wrong.length) throw new QwenError("bad-config", `config.json has no usable ${wrong.join(", ")}.`);
  return config;
}

/** The tensors by the last word of their names, those of layers and experts in lists, when all have the right shape. */
function readWeights(buffer, tensors, config) {
  const { hidden_size: hidden, head_dim, vocab_size: vocab, num_experts: experts } = config;
  const queries = config.num_attention_heads * head_dim, keys = config.num_key_value_heads * head_dim;
  const width = experts ? config.moe_intermediate_size : config.intermediate_size;
  const swiglu = { gate_proj: [width, hidden], up_proj: [width, hidden], down_proj: [hidden, width] };
  const decoderLayer = {
    "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
    "self_attn.q_proj": [queries, hidden], "self_attn.k_proj": [keys, hidden], "self_attn.v_proj": [keys, hidden],
    "self_attn.q_norm": [head_dim], "self_attn.k_norm": [head_dim], "self_attn.o_proj": [hidden, queries],
    ...(experts && { "mlp.gate": [experts, hidden] }), // the router
  };
  const mismatch = (what) => new QwenError("config-mismatch", `The weights do not fit config.json: ${what}.`);
  function take(prefix, shapes, taken = {}) {
    for (const [path, shape] of Object.entries(shapes)) {
      const name = `${prefix}${path}.weight`, tensor = tensors.get(name);
      if (String(tensor?.shape) !== String(shape)) throw mismatch(`${name} is (${tensor?.shape}), not (${shape})`);
      taken[path.split(".").pop()] = toFloat32(buffer, tensor);
      tensors.delete(name);
    }
    return taken;
  }
  const layers = [];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}.`, weights = take(prefix, decoderLayer);
    if (!experts) take(`${prefix}mlp.`, swiglu, weights);
    else weights.experts = [...Array(experts).keys()].map((id) => take(`${prefix}mlp.experts.${id}.`, swiglu));
    layers.push(weights);
  }
  const { embed_tokens, norm } = take("model.", { embed_tokens: [vocab, hidden], norm: [hidden] });
  const lm_head = config.tie_word_embeddings ? embed_tokens : take("", { lm_head: [vocab, hidden] }).lm_head;
  for (const name of tensors.keys()) throw mismatch(`there is no place for ${name}`);
  return { embed_tokens, layers, norm, lm_head };
}
