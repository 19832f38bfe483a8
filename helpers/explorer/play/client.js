/** The page's side of the model: starts the worker, hands messages to and fro. */

import { Runner } from "./runner.js";

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
    Object.assign(this, { files, onLoad, jobs: 0, waiting: new Map(), loading: null, worker: null, cache: "default" });
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
      this.worker?.terminate();
      this.post = null;
      throw error;
    });
    return this.loading;
  }

  async start() {
    const inside = document.getElementById("model");
    if (!inside && location.protocol === "file:") throw new PageError("from-disk");
    const { files, cache } = this, folder = new URL("model/", location.href).href;
    const asked = { kind: "load", job: "load", files, folder, cache, contents: inside && JSON.parse(inside.textContent) };
    const load = () => this.send(asked, ({ share }) => this.onLoad(share), true);
    this.prepare();
    try {
      return await load();
    } catch (error) {
      if (error.code !== "no-worker") throw error;
      this.post = this.onPage();
      return load();
    }
  }

  /** Starts the worker, which takes a slow phone a while; it fetches nothing before it is asked. */
  prepare() {
    this.post ??= this.inWorker() ?? this.onPage();
  }

  /** post(message) of a worker that runs this page's own script, or null where the browser has none. */
  inWorker() {
    try {
      const source = document.getElementById("engine").textContent;
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      this.worker = worker;
      worker.onmessage = ({ data }) => this.take(data);
      worker.onerror = (event) => {
        event.preventDefault();
        [this.loading, this.post] = [null, null];
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
}
