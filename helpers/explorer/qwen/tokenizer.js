/**
 * Byte-level BPE from a Qwen model's tokenizer.json: a text is cut into pieces, a piece is its UTF-8 bytes, and pairs
 * of neighbours are merged, the one learned first before all others.
 *
 *     const tokenizer = new Tokenizer(json);              // tokenizer.json as an object
 *     const ids = tokenizer.encode("37×46=?<|im_end|>");  // special tokens by name, as transformers takes them
 *     tokenizer.decode(ids);  tokenizer.special.get("</think>");  tokenizer.bytes[ids[0]];
 * Characters new in Unicode 17, which the original does not know as letters, may be cut otherwise than there.
 */

import { QwenError } from "./errors.js";

const LONGEST_PIECE = 10_000; // bytes; the time for a piece grows with its square

/** GPT-2's letters for bytes, [letter, byte]: printable ones stand for themselves, others for U+0100, U+0101, ... */
function byteAlphabet() {
  const isPrintable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(isPrintable(byte) ? byte : next++), byte]);
}

/** Splits a text and keeps the separators: a pattern of tokenizer.json, whose \s is not JavaScript's. */
function separator(pattern) {
  const spelling = { "\\s": "\\p{White_Space}", "\\S": "\\P{White_Space}", "\\p{Han}": "\\p{Script=Han}" };
  return new RegExp(`(${pattern.replace(/\\p\{Han\}|\\./g, (part) => spelling[part] ?? part)})`, "u");
}

export class Tokenizer {
  /** @throws {QwenError} damaged-tokenizer, unsupported-tokenizer */
  constructor(json) {
    try {
      this.read(json);
    } catch (error) {
      throw error instanceof QwenError ? error : new QwenError("damaged-tokenizer", `tokenizer.json: ${error.message}`);
    }
  }

  read({ model, normalizer, pre_tokenizer, added_tokens: added }) {
    const steps = pre_tokenizer.pretokenizers.slice(), bytes = steps.pop();
    const isQwen = model.type === "BPE" && !model.ignore_merges && model.merges.every(Array.isArray) &&
      (normalizer?.type ?? "NFC") === "NFC" &&
      steps.every(({ type, behavior, invert }) => type === "Split" && behavior === "Isolated" && !invert) &&
      bytes.type === "ByteLevel" && !bytes.use_regex && !bytes.add_prefix_space &&
      added.every((token) => !token.normalized && !token.single_word && !token.lstrip && !token.rstrip);
    if (!isQwen) throw new QwenError("unsupported-tokenizer", "tokenizer.json is not that of a Qwen model.");

    this.normalise = (text) => (normalizer ? text.normalize("NFC") : text);
    this.separators = steps.map(({ pattern }) => separator(pattern.Regex));
    const alphabet = new Map(byteAlphabet());
    this.bytes = []; // of every token, by its id
    for (const [token, id] of Object.entries(model.vocab))
      this.bytes[id] = Uint8Array.from([...token].map((letter) => alphabet.get(letter)));
    this.byteIds = [...alphabet.keys()].map((letter) => model.vocab[letter]); // the token of every byte
    this.merges = new Map(); // [rank, merged id] by "left right"
    for (const [rank, [left, right]] of model.merges.entries())
      this.merges.set(`${model.vocab[left]} ${model.vocab[right]}`, [rank, model.vocab[left + right]]);
    this.special = new Map(added.map(({ content, id }) => [content, id])); // ids of special tokens by name
    this.hidden = new Set(added.filter(({ special }) => special).map(({ id }) => id)); // what skipSpecial leaves out
    for (const [name, id] of this.special) this.bytes[id] = new TextEncoder().encode(name);
    const names = [...this.special.keys()].sort((a, b) => b.length - a.length);
    this.specialNames = new RegExp(`(${names.map((name) => name.replace(/[^\w<>]/g, "\\$&")).join("|")})`);
  }

  /** Token ids; a lone surrogate counts as U+FFFD. Throws text-too-long for a word or a gap beyond LONGEST_PIECE. */
  encode(text) {
    const cut = (pieces, pattern) => pieces.flatMap((piece) => piece.split(pattern)).filter(Boolean);
    return text.split(this.specialNames).flatMap((part) => {
      if (this.special.has(part)) return this.special.get(part);
      return this.separators.reduce(cut, [this.normalise(part)]).flatMap((piece) => this.merged(piece));
    });
  }

  /** The ids of a piece: merges the pair that was learned first, of equal ones the leftmost, until there is none. */
  merged(piece) {
    const ids = Array.from(new TextEncoder().encode(piece), (byte) => this.byteIds[byte]);
    if (ids.length > LONGEST_PIECE)
      throw new QwenError("text-too-long", `A word has ${ids.length} bytes: at most ${LONGEST_PIECE} are possible.`);
    const mergeAt = (place) => this.merges.get(`${ids[place]} ${ids[place + 1]}`) ?? [Infinity];
    const merges = ids.map((_, place) => mergeAt(place));
    for (;;) {
      let first = 0;
      for (let place = 1; place < merges.length; place++) if (merges[place][0] < merges[first][0]) first = place;
      if (!(merges[first]?.[0] < Infinity)) return ids;
      ids.splice(first, 2, merges[first][1]);
      merges.splice(first, 2, mergeAt(first));
      if (first > 0) merges[first - 1] = mergeAt(first - 1);
    }
  }

  /** The text of `ids`, U+FFFD for what is no UTF-8; skipSpecial leaves out <|im_end|> and the like. Throws bad-token. */
  decode(ids, { skipSpecial = false } = {}) {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    const parts = Array.from(ids, (id) => {
      if (!this.bytes[id]) throw new QwenError("bad-token", `${id} is no token of this tokenizer.`);
      return skipSpecial && this.hidden.has(id) ? "" : utf8.decode(this.bytes[id], { stream: true });
    });
    return parts.join("") + utf8.decode();
  }
}
