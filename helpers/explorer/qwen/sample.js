/** From logits to the next token, in vLLM's order (temperature, min-p, top-k, top-p) as lesson 05 has it. */

import { QwenError } from "./errors.js";

/**
 * The probability with which each token is drawn, (vocab_size) as `logits`; without options, the model's own.
 * temperature 0 takes the likeliest token, whatever the other options say. minP drops what is less likely than this
 * times the likeliest, 0 nothing; topK keeps the k likeliest and those as likely as the last of them, 0 all; topP keeps
 * the likeliest that first add up to this, 1 all.
 * @throws {QwenError} bad-option; bad-logits where they are no numbers, as from damaged weights
 */
export function distribution(logits, { temperature = 1, minP = 0, topK = 0, topP = 1 } = {}) {
  const inRange = temperature >= 0 && minP >= 0 && minP <= 1 && topK >= 0 && topP > 0 && topP <= 1;
  if (!(inRange && Number.isFinite(temperature) && Number.isInteger(topK)))
    throw new QwenError("bad-option", "temperature and topK go from 0, minP from 0 to 1, and topP is in (0, 1].");
  const best = argmax(logits), probabilities = new Float64Array(logits.length);
  if (temperature === 0) return probabilities.fill(1, best, best + 1);
  for (let id = 0; id < logits.length; id++) probabilities[id] = Math.exp((logits[id] - logits[best]) / temperature);
  const ordered = probabilities.slice().sort().reverse(); // relative to the likeliest, which is 1
  let kept = ordered.length;
  while (ordered[kept - 1] < minP) kept--;
  while (topK > 0 && kept > topK && ordered[kept - 1] < ordered[topK - 1]) kept--;
  const sum = () => ordered.subarray(0, kept).reduce((total, value) => total + value, 0);
  if (topP < 1) {
    const line = topP * sum();
    let before = 0;
    for (kept = 0; before < line; kept++) before += ordered[kept];
  }
  const total = sum(), least = ordered[kept - 1];
  let ties = kept - ordered.indexOf(least); // of equally likely tokens top-p may keep some
  return probabilities.map((value) => (value > least || (value === least && ties-- > 0) ? value / total : 0));
}

/** A token id drawn by `distribution`, whose options it takes. random: in [0, 1), such as seededRandom(1). */
export function sample(logits, { random = Math.random, ...options } = {}) {
  return options.temperature === 0 ? argmax(logits) : pick(distribution(logits, options), random);
}

/** A place drawn with these probabilities; the likeliest where rounding leaves a rest. */
export function pick(probabilities, random) {
  let left = random();
  for (let place = 0; place < probabilities.length; place++) {
    left -= probabilities[place];
    if (left < 0) return place;
  }
  return argmax(probabilities);
}

/** Numbers in [0, 1) that the seed, an integer, decides (mulberry32). */
export function seededRandom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function argmax(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  if (!Number.isFinite(logits[best])) throw new QwenError("bad-logits", "The model computed no numbers.");
  return best;
}

/**
 * The tokens behind a prompt, one whenever asked, to a stop token (included), `maxNewTokens` or the end of the context.
 * Options are those of `sample` (greedy by default) and of `model.step`; stopIds: by default config.json's.
 */
export function* generate(model, promptIds, { maxNewTokens = Infinity, stopIds, expertOff, hooks, ...sampling } = {}) {
  const stops = stopIds ?? [model.config.eos_token_id].flat();
  model.cache.rewind(0);
  let logits = model.prefill(promptIds, { expertOff, hooks });
  for (let count = 1; ; count++) {
    const id = sample(logits, { temperature: 0, ...sampling });
    yield id;
    if (stops.includes(id) || count >= maxNewTokens || model.cache.length === model.cache.maxLength) return;
    logits = model.step(id, { expertOff, hooks });
  }
}
