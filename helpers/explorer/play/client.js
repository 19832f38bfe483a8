/** The page's side of the model: fetches its files, starts the worker, hands messages to and fro. */

import { Runner } from "./runner.js";

const LOAD_STEPS = 20; // how often it is said how much is here
const STALE = null; // what a job gives that a newer one has ended

/** A sentence in TEXTS, by its name, and what fills it in. */
export class PageError extends Error {
  constructor(code, values = {}) {
    super(code);
    Object.assign(this, { code, values });
  }
}

export class Client {
  /** files: {name: {bytes, crc32}} of the folder model/. onLoad(share): how much of them is here, 0 to 1. */
  constructor(files, onLoad) {
    Object.assign(this, { files, onLoad, jobs: 0, waiting: new Map(), loading: null, cache: "default" });
  }

  /**
   * Lets the model do a job, which ends the one before. heard(message) gets what it says on the way.
   * Returns the message `done`, or null where a newer job ended this one. Throws PageError.
   */
  async ask(kind, asked, heard = () => {}) {
    const job = this.stop();
    await this.load();
    if (job !== this.jobs) return STALE;
    return this.send({ kind, job, ...asked }, heard);
  }

  /** Ends the job that runs, if one does; returns the number of the next. */
  stop() {
    for (const [job, { resolve, isLoad }] of this.waiting)
      if (!isLoad) {
        resolve(STALE);
        this.waiting.delete(job);
      }
    this.jobs++;
    if (this.post) this.post({ kind: "stop", job: this.jobs });
    return this.jobs;
  }

  /** All is here and read; after a failure the next call tries again. */
  load() {
    this.loading ??= this.start().catch((error) => {
      this.loading = null;
      this.cache = "reload"; // the browser may keep what was damaged
      throw error;
    });
    return this.loading;
  }

  async start() {
    const inside = document.getElementById("model"), names = Object.keys(this.files);
    const files = inside ? JSON.parse(inside.textContent) : await this.fetchAll(names);
    const checksums = Object.fromEntries(names.map((name) => [name, this.files[name].crc32]));
    const load = () => this.send({ kind: "load", job: "load", files, checksums }, () => {}, true);
    this.post = this.inWorker() ?? this.onPage();
    try {
      return await load();
    } catch (error) {
      if (error.code !== "no-worker") throw error;
      this.post = this.onPage();
      return load();
    }
  }

  /** post(message) of a worker that runs this page's own script, or null where the browser has none. */
  inWorker() {
    try {
      const source = document.getElementById("engine").textContent;
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      worker.onmessage = ({ data }) => this.take(data);
      worker.onerror = (event) => {
        event.preventDefault();
        this.loading = null;
        for (const job of [...this.waiting.keys()]) this.take({ kind: "error", job, code: "no-worker" });
      };
      return (message) => worker.postMessage(message);
    } catch {
      return null;
    }
  }

  onPage() {
    const runner = new Runner((message) => this.take(message));
    return (message) => runner.handle(message);
  }

  send(message, heard, isLoad = false) {
    return new Promise((resolve, reject) => {
      this.waiting.set(message.job, { resolve, reject, heard, isLoad });
      this.post(message);
    });
  }

  take(message) {
    const asked = this.waiting.get(message.job);
    if (!asked) return;
    if (message.kind === "progress" || message.kind === "token") return asked.heard(message);
    this.waiting.delete(message.job);
    if (message.kind === "error") asked.reject(new PageError(message.code, message.values));
    else asked.resolve(message);
  }

  async fetchAll(names) {
    if (location.protocol === "file:") throw new PageError("from-disk");
    const total = names.reduce((sum, name) => sum + this.files[name].bytes, 0);
    const fetching = new AbortController(); // one that fails ends the others, which then say nothing more
    let here = 0;
    const get = async (name) => {
      try {
        const response = await fetch(`model/${name}`, { signal: fetching.signal, cache: this.cache });
        if (!response.ok) throw new Error(response.status);
        const parts = [], reader = response.body.getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          parts.push(part.value);
          const before = Math.floor((LOAD_STEPS * here) / total);
          here += part.value.length;
          const now = Math.floor((LOAD_STEPS * here) / total);
          if (now > before && !fetching.signal.aborted) this.onLoad(now / LOAD_STEPS);
        }
        return await new Blob(parts).arrayBuffer();
      } catch {
        fetching.abort();
        throw new PageError("fetch-failed", { name });
      }
    };
    const buffers = await Promise.all(names.map(get));
    return Object.fromEntries(names.map((name, place) => [name, buffers[place]]));
  }
}
