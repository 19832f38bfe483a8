/** Scissors: the thought is cut after each of its tokens, and the model has to answer at once. */

import { question } from "./state.js";
import { foldedTable } from "./table.js";

export function scissorsView(app) {
  const { say, said, state } = app;
  let labels = [], answers = [], usual = null, turn = 0;

  const title = element("h2"), thought = element("div", { className: "chips thought" }), strip = element("div", { className: "strip", ariaHidden: "true" });
  said(thought, () => say("thoughtLabel"), "aria-label");
  thought.setAttribute("role", "group");
  thought.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    keep(state.kept + by);
    thought.querySelector("[tabindex='0']")?.focus();
  };
  const slider = said(element("input", { type: "range", min: 0, max: 0, className: "scrub" }), () => say("strip"), "aria-label");
  slider.oninput = () => keep(Number(slider.value));
  const where = element("p", { className: "where" }), answer = element("p", { className: "cut-answer" }), flip = element("p", { className: "flip" });
  const table = foldedTable(app, () => ["keptHead", "answerHead", "verdictHead"].map((name) => say(name)), () =>
    answers.map((given, kept) => [kept, given, verdict(given)]));
  const root = element("div", { className: "cut-view" }, title, said(element("p", { className: "small" }), () => say("cutHow")),
    element("div", { className: "two even" }, thought, element("div", { className: "stage" }, where, answer, flip)),
    element("div", { className: "strips" }, strip, slider), table.root);

  const right = () => (state.text === null ? String(state.a * state.b) : null);
  const isGood = (given) => (right() ? app.lastNumber(given) === right() : given === usual?.answer);
  const verdict = (given) => say(right() ? (isGood(given) ? "right" : "wrong") : isGood(given) ? "unchanged" : "changed");

  /** The least number of tokens from which on all answers are good; null if the last is not. */
  function turningPoint() {
    const bad = answers.findLastIndex((given) => !isGood(given));
    return bad === answers.length - 1 ? null : bad + 1;
  }

  function keep(kept) {
    app.put({ kept: Math.max(0, Math.min(labels.length, kept)) });
    drawCut();
  }

  async function run() {
    const own = ++turn, wanted = state.kept;
    [labels, answers, usual] = [[], [], null];
    thought.replaceChildren();
    strip.replaceChildren();
    flip.textContent = "";
    const done = await app.ask("cut", { text: question(state) }, (message) => {
      if (own !== turn) return;
      if (message.kind === "token") return drawThought(message.tokens);
      answers[message.kept] = message.answer;
      if (wanted === null) state.kept = message.kept;
      where.textContent = say("cutting", { done: message.done, of: message.of });
      drawStrip();
      if (wanted === null) drawCut();
    });
    if (!done || own !== turn) return;
    usual = done.usual;
    const point = turningPoint();
    keep(wanted ?? point ?? labels.length);
    draw();
    app.announce(`${flip.textContent} ${answer.textContent}`);
  }

  // ------------------------------------------------------------------------------------------ what is seen

  function drawThought(tokens) {
    labels = tokens.map(({ label }) => label);
    slider.max = labels.length;
    title.textContent = heading();
    const chip = (label, place) => {
      const made = element("button", { type: "button", className: "chip plain", tabIndex: -1, onclick: () => keep(place + 1) }, label);
      made.dir = "auto";
      return label.endsWith("↵") ? [made, element("span", { className: "line" })] : [made];
    };
    thought.replaceChildren(...labels.flatMap(chip));
    strip.replaceChildren(...Array.from({ length: labels.length + 1 }, (_, kept) => element("i", { onclick: () => keep(kept) })));
  }

  const heading = () => say(right() ? "cutAsk" : "cutAskText", { question: app.asked() });

  function drawStrip() {
    for (const [kept, cell] of [...strip.children].entries()) {
      cell.dataset.good = answers[kept] === undefined || (!right() && !usual) ? "" : isGood(answers[kept]);
      cell.title = answers[kept] === undefined ? "" : `${kept}: ${answers[kept]}`;
    }
  }

  function drawCut() {
    const kept = state.kept ?? 0, given = answers[kept], chips = thought.querySelectorAll(".chip");
    for (const [place, chip] of chips.entries()) {
      chip.classList.toggle("cut-off", place >= kept);
      chip.classList.toggle("last", place === kept - 1);
      chip.tabIndex = place === Math.max(0, kept - 1) ? 0 : -1;
      chip.setAttribute("aria-pressed", place === kept - 1);
      chip.setAttribute("aria-label", `${chip.textContent} · ${say("cutAt", { kept: place + 1, all: labels.length })}`);
    }
    for (const [place, cell] of [...strip.children].entries()) cell.classList.toggle("now", place === kept);
    slider.value = kept;
    const place = kept ? say("cutAt", { kept, all: labels.length }) : say("cutNone");
    slider.setAttribute("aria-valuetext", given === undefined ? place : `${place}: ${given}, ${verdict(given)}`);
    if (given === undefined) return;
    if (answers.length > labels.length) where.textContent = place;
    const known = right() || usual;
    answer.replaceChildren(element("span", { className: given.length > 24 ? "given long" : "given" }, given || "—"), ...(known ? [element("span", { className: isGood(given) ? "good" : "bad" }, verdict(given))] : []));
  }

  function draw() {
    title.textContent = heading();
    if (!usual) return;
    drawStrip();
    drawCut();
    const point = turningPoint();
    flip.textContent = point === null ? say("flipNever", { right: right() ?? usual.answer })
      : point === 0 ? say(right() ? "flipAlwaysRight" : "flipAlways") : say(right() ? "flipRight" : "flipSame", { kept: point });
    table.draw();
  }

  return { root, run, draw, isDone: () => usual !== null, leave() {} };
}
