/**
 * What the page asks of the model. It runs in a worker, and where there is none on the page's own thread: it works in
 * slices of a few milliseconds, between which messages come in and the page can draw.
 *
 * Asked: load {files, folder, cache, contents}, run {text}, sweep {text, experts}, cut {text}, stop, each with the
 * number of its job. Said: progress, token {tokens}, done, error {code, values}. A job ends the one before it, which
 * then says no more.
 */

import { renderChat } from "../qwen/chat.js";
import { QwenError } from "../qwen/errors.js";
import { loadModel } from "../qwen/model.js";
import { sample } from "../qwen/sample.js";
import { Tokenizer } from "../qwen/tokenizer.js";

const LONGEST_REPLY = 300; // tokens
const TELL_MS = 100; // until more of the same is said: the page draws what it hears
const SLICE_MS = { page: 12, worker: 50 }; // until messages are let in, which takes long where many programs run
const CANDIDATES = 3; // likeliest tokens that are shown
const WHOLE_CHARACTERS = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const STOPPED = Symbol("a newer job has begun");

export class Runner {
  /** post(message): how it answers; slice: ms that it works at a stretch. */
  constructor(post, slice = SLICE_MS.page) {
    Object.assign(this, { post, slice, job: 0, sliceEnd: 0, wake: null, usual: null });
    this.channel = new MessageChannel(); // unlike a timer, which waits 4 ms
    this.channel.port1.onmessage = () => this.wake();
  }

  async handle(message) {
    const { kind, job } = message;
    if (kind !== "load") this.job = job;
    if (kind === "stop") return;
    try {
      this.post({ kind: "done", job, ...(await this[kind](message)) });
    } catch (error) {
      if (error === STOPPED) return;
      const isMemory = error instanceof RangeError; // what a typed array throws that gets no memory
      this.post({ kind: "error", job, code: error instanceof QwenError ? error.code : isMemory ? "out-of-memory" : "failed",
        values: error.values ?? { message: String(error.message) } });
    }
  }

  /**
   * files: {name: {bytes, crc32}}; contents: by name, bytes or base64, or null: they are in `folder`, an address that
   * ends in a slash. cache: as fetch takes it. Returns the model's config.
   */
  async load({ job, files, folder, cache, contents }) {
    const get = contents ? (name) => whole(name, inBytes(contents[name]), files) : this.fetcher(job, files, folder, cache);
    const json = async (name) => JSON.parse(new TextDecoder().decode(await get(name)));
    const tokenizer = json("tokenizer.json").then((read) => new Tokenizer(read)); // while the weights are on their way
    const parts = [get("model.safetensors"), json("config.json"), tokenizer, json("generation_config.json")];
    const [weights, config, built, generation] = await Promise.all(parts);
    this.model = loadModel(weights.buffer, config);
    this.tokenizer = built;
    this.stopIds = [generation.eos_token_id].flat();
    return { config: this.model.config };
  }

  /** get(name): the bytes of a file in `folder`, when they are whole. What is here of all files is said on the way. */
  fetcher(job, files, folder, cache) {
    const total = Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0);
    const fetching = new AbortController(); // one that fails ends the others, which then say nothing more
    let here = 0, failed = null, toldAt = performance.now();
    return async (name) => {
      try {
        const response = await fetch(folder + name, { signal: fetching.signal, cache });
        if (!response.ok) throw new Error(response.status);
        const content = new Uint8Array(files[name].bytes), reader = response.body.getReader();
        let length = 0, crc = 0;
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          if (length + part.value.length > content.length) throw refusal("damaged-file", { name });
          content.set(part.value, length);
          crc = crc32(part.value, crc); // now, while the rest is on its way
          length += part.value.length;
          here += part.value.length;
          if (performance.now() < toldAt + TELL_MS || fetching.signal.aborted) continue;
          this.post({ kind: "progress", job, share: here / total });
          toldAt = performance.now();
        }
        return whole(name, content, files, length === content.length ? crc : null);
      } catch (error) {
        failed ??= error instanceof QwenError || error instanceof RangeError ? error : refusal("fetch-failed", { name });
        fetching.abort();
        throw failed; // the others', too, whoever is heard first
      }
    };
  }

  // ------------------------------------------------------------------------------------------ the jobs

  /** Answers `text` and says each token as it is read: its experts in every layer, the heaviest first. */
  async run({ job, text }) {
    const ids = this.prompt(text), started = performance.now(), { config } = this.model;
    const picks = Array.from({ length: config.num_hidden_layers }, () => Array(config.num_experts).fill(0));
    let routes = [], entropies = [], said = [], part = "prompt", isClosed = false, candidates = null, read = 0;
    let toldAt = started + 2 * TELL_MS; // a short prompt is said with the first token behind it, and drawn once
    const flush = (isDue = performance.now() > toldAt + TELL_MS) => {
      if (!said.length || !isDue) return;
      this.post({ kind: "token", job, tokens: said });
      [said, toldAt] = [[], performance.now()];
    };
    const trace = this.traced(), router = (layer, logits, expertIds, weights) => {
      trace.hooks.router(layer, logits, expertIds);
      entropies.push(entropy(logits));
      routes.push(Array.from(expertIds, (expert, slot) => [expert, weights[slot]]));
      for (const expert of expertIds) picks[layer][expert]++;
    };
    this.model.cache.rewind(0);
    const written = await this.write(job, ids, { hooks: { ...trace.hooks, router } }, flush, (id, logits) => {
      const { special } = this.tokenizer, label = this.label(id), isWritten = read >= ids.length;
      if (isWritten && id === special.get("<think>")) part = "thought";
      else if (isWritten && (part === "prompt" || (isClosed && !/^↵+$/.test(label)))) part = "answer"; // no blank lines
      isClosed ||= isWritten && id === special.get("</think>");
      said.push({ id, label, bytes: this.tokenizer.bytes[id], part, routes, entropies, candidates });
      [routes, entropies] = [[], []];
      candidates = logits && this.likeliest(logits);
      if (read++ === ids.length) flush(true); // the first of its own
    });
    flush(true);
    this.usual = { text, ids, written, ...trace, cache: this.model.cache.fork() };
    const seconds = (performance.now() - started) / 1e3;
    return { ...this.reply(written), picks, seconds, read, isComplete: this.stopIds.includes(written.at(-1)) };
  }

  /** The answer without each of `experts`, [layer, expert], in turn: does it stay the same? */
  async sweep({ job, text, experts }) {
    const { written } = await this.usualReply(job, text), usual = this.reply(written);
    for (const [place, expertOff] of experts.entries()) {
      const changed = await this.writeWithout(job, expertOff), reply = this.reply(changed);
      const isSame = changed.length === written.length && changed.every((id, at) => id === written[at]);
      const effect = isSame ? "same" : reply.answer === usual.answer ? "detour" : "broken";
      this.post({ kind: "progress", job, done: place + 1, of: experts.length, expert: expertOff, effect, ...reply });
    }
    return { usual };
  }

  /** The answer after each number of tokens of the thought, from none to all: cut there, closed and answered. */
  async cut({ job, text }) {
    const { tokenizer, model } = this, { ids, written } = await this.usualReply(job, text);
    const end = written.indexOf(tokenizer.special.get("</think>"));
    if (written[0] !== tokenizer.special.get("<think>") || end < 0) throw refusal("no-thought");
    const [newline] = tokenizer.encode("\n"), thought = written.slice(1, end);
    const opening = [written[0], ...(thought[0] === newline ? [thought.shift()] : [])];
    if (thought.at(-1) === newline) thought.pop();
    this.post({ kind: "token", job, tokens: thought.map((id) => ({ label: this.label(id) })) });
    model.cache.rewind(0);
    await this.read(job, [...ids, ...opening], {});
    const start = model.cache.length;
    for (let kept = 0; kept <= thought.length; kept++) {
      if (kept) await this.read(job, [thought[kept - 1]], {});
      const close = tokenizer.encode(kept && thought[kept - 1] === newline ? "</think>\n\n" : "\n</think>\n\n");
      const answer = tokenizer.decode(await this.write(job, close, {}), { skipSpecial: true }).trim();
      this.post({ kind: "progress", job, done: kept + 1, of: thought.length + 1, kept, answer });
      model.cache.rewind(start + kept);
    }
    return { usual: this.reply(written) };
  }

  // ------------------------------------------------------------------------------------------ their parts

  prompt(text) {
    const ids = this.tokenizer.encode(renderChat([{ role: "user", content: text }])), room = this.model.cache.maxLength;
    if (ids.length >= room) throw refusal("context-full", { tokens: ids.length, room });
    return ids;
  }

  /** The reply to `text` with all experts, which is kept for the next job on it. */
  async usualReply(job, text) {
    if (this.usual?.text !== text) {
      const ids = this.prompt(text), trace = this.traced();
      this.model.cache.rewind(0);
      const written = await this.write(job, ids, { hooks: trace.hooks });
      this.usual = { text, ids, written, ...trace, cache: this.model.cache.fork() };
    }
    return this.usual;
  }

  /** Hooks that keep, by layer and position, which experts a run chose and with which hidden states the layer began. */
  traced() {
    const chosen = this.model.layers.map(() => []), inputs = this.model.layers.map(() => []);
    const router = (layer, _, expertIds) => chosen[layer].push([...expertIds]);
    return { chosen, inputs, hooks: { router, input: (layer, hiddenStates) => inputs[layer].push(hiddenStates.slice()) } };
  }

  async read(job, ids, options, flush, onRead) {
    let logits = null;
    for (const [place, id] of ids.entries()) {
      if (performance.now() > this.sliceEnd) await this.breathe(job, flush);
      logits = this.model.step(id, { ...options, wantLogits: place === ids.length - 1 });
      onRead?.(id, logits);
    }
    return logits;
  }

  /** Reads `ids` and writes greedily until a stop token, which is the last of the ids that it returns. */
  async write(job, ids, options, flush, onRead) {
    return this.goOn(job, [], await this.read(job, ids, options, flush, onRead), options, flush, onRead);
  }

  /** Writes on behind `written`, of which `logits` say the next token. */
  async goOn(job, written, logits, options, flush, onRead) {
    const { cache } = this.model;
    for (;;) {
      const id = sample(logits, { temperature: 0 });
      written.push(id);
      if (this.stopIds.includes(id) || written.length >= LONGEST_REPLY || cache.length === cache.maxLength) return written;
      logits = await this.read(job, [id], options, flush, onRead);
    }
  }

  /**
   * What is written instead of the usual reply when the router may not choose this expert. Until the first other token
   * only what the expert can change is computed: nothing before a position has chosen it, and from then on the layers
   * above its own, or this one, too, where it was chosen. (Where weights do not add up to 1, all of them change.)
   */
  async writeWithout(job, expertOff) {
    const { model, usual } = this, { ids, written, chosen, inputs } = usual, all = [...ids, ...written], [own, expert] = expertOff;
    const matters = (experts) => !model.config.norm_topk_prob || experts.includes(expert), first = chosen[own].findIndex(matters);
    if (first < 0) return written;
    model.cache.take(usual.cache).rewind(first);
    for (let place = first; place < chosen[own].length; place++) {
      if (performance.now() > this.sliceEnd) await this.breathe(job);
      const layer = own + !matters(chosen[own][place]), isLast = layer === model.layers.length; // then nothing is to be done
      const options = { expertOff, from: { layer, hiddenStates: inputs[layer]?.[place] ?? [] }, wantLogits: !isLast && place >= ids.length - 1 };
      const logits = model.step(all[place], options);
      if (logits && sample(logits, { temperature: 0 }) !== all[place + 1])
        return this.goOn(job, written.slice(0, place + 1 - ids.length), logits, { expertOff });
    }
    return written;
  }

  /** Lets messages in and the page draw. Throws STOPPED where one of them began another job. */
  async breathe(job, flush) {
    flush?.();
    await new Promise((resolve) => {
      this.wake = resolve;
      this.channel.port2.postMessage(null);
    });
    if (this.job !== job) throw STOPPED;
    this.sliceEnd = performance.now() + this.slice;
  }

  reply(written) {
    const end = written.indexOf(this.tokenizer.special.get("</think>"));
    const text = (ids) => this.tokenizer.decode(ids, { skipSpecial: true }).replace("<think>", "").trim();
    return { thought: text(written.slice(0, Math.max(end, 0))), answer: text(written.slice(end + 1)) };
  }

  /** The CANDIDATES with the highest probability, [label, probability]. */
  likeliest(logits) {
    const best = []; // ids, the likeliest first
    for (let id = 0; id < logits.length; id++) {
      if (best.length === CANDIDATES && logits[id] <= logits[best.at(-1)]) continue;
      const place = best.findIndex((other) => logits[id] > logits[other]);
      best.splice(place < 0 ? best.length : place, 0, id);
      best.length = Math.min(best.length, CANDIDATES);
    }
    let sum = 0;
    for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - logits[best[0]]);
    return best.map((id) => [this.label(id), Math.exp(logits[id] - logits[best[0]]) / sum]);
  }

  /** A token as it is shown: nothing invisible, and bytes that are no whole character as their numbers. */
  label(id) {
    const bytes = this.tokenizer.bytes[id];
    try {
      const text = WHOLE_CHARACTERS.decode(bytes);
      return text.replace(/\n/g, "↵").replace(/ /g, "␣").replace(/[\p{C}\p{Z}\p{M}]/gu, (hidden) => `U+${hidden.codePointAt(0).toString(16).toUpperCase()}`);
    } catch {
      return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }
}

/** An error that the page has a sentence for. */
const refusal = (code, values) => Object.assign(new QwenError(code, code), { values });

/** Of the router's probabilities, in nats. */
function entropy(logits) {
  const largest = Math.max(...logits), powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.reduce((total, power) => total - (power > 0 ? (power / sum) * Math.log(power / sum) : 0), 0);
}

const inBytes = (content) => (typeof content === "string" ? Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)) : content);

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** As zlib has it; `crc` is that of what comes before. */
function crc32(bytes, crc = 0) {
  crc = ~crc;
  for (let place = 0; place < bytes.length; place++) crc = CRC_TABLE[(crc ^ bytes[place]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The bytes of the file `name`, if `crc` is the one that `files` has of it. */
function whole(name, bytes, files, crc = crc32(bytes)) {
  if (crc !== files[name].crc32) throw refusal("damaged-file", { name });
  return bytes;
}

/** Where there is no page, this is a worker. */
if (typeof document === "undefined") {
  const runner = new Runner((message) => self.postMessage(message), SLICE_MS.worker);
  self.onmessage = ({ data }) => runner.handle(data);
}
