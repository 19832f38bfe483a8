/** What the engine throws. `code` is for the page, to say it in its language; `message` says more, in English. */
export class QwenError extends Error {
  constructor(code, message) {
    super(message);
    Object.assign(this, { name: "QwenError", code });
  }
}
