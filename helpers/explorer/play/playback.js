/** Slow playback: the model writes at once, the page shows it token by token, each with its way through the experts. */

import { flowFigure } from "./flow.js";

const SPEEDS = [2, 8, 30]; // tokens a second
const ICONS = {
  playing: "M5 3l12 7-12 7z", pause: "M4 3h4v14H4zM12 3h4v14h-4z", back: "M14 4v12l-9-6z", forward: "M6 4v12l9-6z",
  toStart: "M3 4h2.5v12H3zM17 4v12l-9-6z", toEnd: "M14.5 4H17v12h-2.5zM3 4v12l9-6z",
};
const PARTS = ["prompt", "thought", "answer"];

/** A row for an expert and its weight, which each token fills in anew: little for the browser to lay out while it plays. */
function weightRow() {
  const number = new Text(), share = new Text(), dot = element("b", {}, number), bar = element("i");
  const row = element("span", { className: "weight" }, dot, element("span", { className: "rail" }, bar), element("span", { className: "percent" }, share));
  return { row, show(expert, weight, percent) {
    dot.className = `dot e${expert}`;
    bar.className = `bar e${expert}`;
    bar.style.transform = `translateX(${(100 * weight - 100).toFixed(1)}%)`;
    [number.data, share.data] = [expert, percent];
  } };
}

/** app: see play.js. Returns a view: {root, run, draw, isDone, leave}. */
export function playbackView(app) {
  const { say, said, state, about } = app;
  let tokens = [], at = -1, timer = null, result = null, speed = SPEEDS[1], layer = 1, chips = [], running = false;

  const boxes = Object.fromEntries(PARTS.map((part) => [part, element("div", { className: `chips ${part}` })]));
  const text = element("div", { className: "written" });
  for (const part of PARTS) {
    boxes[part].setAttribute("role", "group");
    said(boxes[part], () => say(part), "aria-label");
    text.append(element("div", { className: `part part-${part}` }, said(element("h2"), () => say(part)), boxes[part]));
  }
  text.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !event.target.classList.contains("chip")) return;
    event.preventDefault();
    pause();
    go(at + by, true);
  };
  const figure = flowFigure(about), sure = element("p", { className: "sure small" });
  const weights = Array.from({ length: about.layers }, () => Array.from({ length: about.topK }, weightRow));
  const experts = element("div", { className: "chosen" }, ...weights.map((rows, place) =>
    element("div", {}, said(element("span", { className: "small" }), () => say("layer", { layer: place })), ...rows.map(({ row }) => row))));
  said(figure.svg, () => say("flow"), "aria-label");

  const icon = (name) => drawing("svg", { class: "icon", viewBox: "0 0 20 20" }, drawing("path", { d: ICONS[name] }));
  const button = (name, onclick) =>
    said(element("button", { type: "button", onclick }, icon(name)), () => say(name), "aria-label");
  const play = element("button", { type: "button", className: "play", onclick: () => (timer ? pause() : start()) });
  const scrub = said(element("input", { type: "range", min: 0, max: 0, value: 0, className: "scrub" }), () => say("scrub"), "aria-label");
  scrub.oninput = () => {
    pause();
    go(Number(scrub.value));
  };
  const moved = (place) => () => {
    pause();
    go(place());
  };
  const choice = (name, options, chosen, onChoose) => {
    const box = said(element("span", { className: "choice" }), () => say(name), "aria-label");
    box.setAttribute("role", "group");
    const press = (value) => {
      for (const made of box.children) made.setAttribute("aria-pressed", Number(made.value) === value);
    };
    for (const value of options) {
      const made = element("button", { type: "button", value, onclick: () => { press(value); onChoose(value); } }, String(value));
      box.append(made);
    }
    press(chosen);
    return element("span", { className: "set" }, said(element("span", { className: "small" }), () => say(name)), box);
  };
  const transport = element("div", { className: "transport" },
    button("toStart", moved(firstWritten)), button("back", moved(() => at - 1)), play,
    button("forward", moved(() => at + 1)), button("toEnd", moved(() => tokens.length - 1)), scrub);
  const settings = element("div", { className: "settings" },
    choice("speed", SPEEDS, speed, (value) => { speed = value; }),
    choice("colourBy", Array.from({ length: about.layers }, (_, place) => place), layer, (value) => { layer = value; chips.forEach(paint); }));
  const status = element("p", { className: "small status" });
  const intro = said(element("p", { className: "intro" }), () => say("intro", about));
  const root = element("div", { className: "playback before" },
    element("div", { className: "side" }, intro, text, status),
    element("div", { className: "stage" }, figure.svg), transport,
    element("div", { className: "details" }, experts, sure, settings));

  // ------------------------------------------------------------------------------------------ what changes

  function firstWritten() {
    return Math.max(0, tokens.findIndex(({ part }) => part !== "prompt"));
  }

  function add(token) {
    const place = tokens.push(token) - 1, box = boxes[token.part];
    const chip = element("button", { type: "button", className: "chip ahead", tabIndex: -1, onclick: () => { pause(); go(place); } }, token.label);
    chip.dir = "auto";
    chips.push(chip);
    paint(chip, place);
    if (box.lastChild?.textContent.endsWith("↵") && token.label !== "↵") box.append(element("span", { className: "line" }));
    box.append(chip);
    scrub.max = tokens.length - 1;
    if (token.part === "prompt") reveal(chip);
  }

  const reveal = (chip) => chip.classList.remove("ahead");

  function paint(chip, place) {
    if (tokens[place].part !== "prompt") chip.dataset.expert = tokens[place].routes[layer][0][0];
  }

  function mark(chip, isNow) {
    chip.classList.toggle("now", isNow);
    chip.tabIndex = isNow ? 0 : -1;
    chip.setAttribute("aria-pressed", isNow);
  }

  function go(place, focus = false) {
    if (!tokens.length) return;
    const before = at, moves = timer !== null && !app.isStill();
    at = Math.max(0, Math.min(tokens.length - 1, place));
    for (let index = Math.min(at, before + 1); index <= Math.max(at, before); index++)
      if (tokens[index].part !== "prompt") chips[index].classList.toggle("ahead", index > at);
    if (before >= 0) mark(chips[before], false);
    mark(chips[at], true);
    if (focus) chips[at].focus();
    figure.show(tokens, at, moves ? 1 / speed : 0);
    scrub.value = at;
    if (at !== before) app.put({ at: timer ? null : at });
    describe();
  }

  function describe() {
    const token = tokens[at];
    if (!token) return;
    const percent = (weight) => (100 * weight).toFixed(weight > 0.995 || weight < 0.005 ? 1 : 0);
    for (const [layer, chosen] of token.routes.entries())
      for (const [rank, [expert, weight]] of chosen.entries()) weights[layer][rank].show(expert, weight, `${percent(weight)}%`);
    const inWords = token.routes.map((chosen, place) => say("layerAt", { layer: place,
      experts: chosen.map(([expert, weight]) => say("expertAt", { expert, weight: percent(weight) })).join(app.comma()) }));
    chips[at].setAttribute("aria-label", `${token.label} · ${inWords.join(app.stop())}`);
    scrub.setAttribute("aria-valuetext", `${say("token", { place: at + 1, all: tokens.length })}: ${token.label}`);
    if (token.candidates) {
      const shown = token.candidates.filter(([, p], rank) => rank === 0 || p >= 0.001);
      const words = shown.map(([label, p]) => element("span", { className: "candidate" }, element("bdi", {}, label), ` ${percent(p)}%`));
      sure.replaceChildren(say("candidates"), ...words);
    } else sure.textContent = say("candidatesPrompt");
    const parts = [`${say("token", { place: at + 1, all: tokens.length })}.`];
    if (app.lang() === "zh") parts[0] = parts[0].replace(".", "。");
    if (result) parts.push(say("computed", { rate: Math.round(result.read / result.seconds) }));
    if (result && !result.isComplete) parts.push(say("unfinished", { all: tokens.length }));
    status.textContent = parts.join(app.lang() === "zh" ? "" : " ");
  }

  function draw() {
    figure.name((place) => say("layer", { layer: place }));
    showPlaying();
    describe();
  }

  // ------------------------------------------------------------------------------------------ time

  function tick() {
    if (!document.hidden && at + 1 < tokens.length) go(at + 1);
    if (result && at + 1 >= tokens.length) return pause();
    timer = setTimeout(tick, 1000 / speed);
  }

  function start() {
    if (timer) return;
    if (result && at + 1 >= tokens.length) go(firstWritten() - 1);
    timer = setTimeout(tick, 1000 / speed);
    showPlaying();
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    showPlaying();
    if (at >= 0 && !running) app.put({ at });
  }

  function showPlaying() {
    play.replaceChildren(icon(timer ? "pause" : "playing"));
    play.setAttribute("aria-label", say(timer ? "pause" : "playing"));
  }

  /** Asks the question of the state. place: where to stand once all is here; without it, it plays. */
  async function run(place = null) {
    clearTimeout(timer);
    timer = null;
    [tokens, chips, at, result, running] = [[], [], -1, null, true];
    for (const part of PARTS) boxes[part].replaceChildren();
    root.classList.add("before");
    let hasBegun = false;
    const done = await app.ask("run", {}, ({ tokens: read }) => {
      root.classList.remove("before");
      read.forEach(add);
      if (hasBegun) return;
      hasBegun = read.at(-1).part !== "prompt";
      if (hasBegun && place === null && !app.isStill()) start();
      go(hasBegun ? firstWritten() : tokens.length - 1);
    });
    running = false;
    if (!done) return;
    result = done;
    if (place !== null || app.isStill()) go(place ?? tokens.length - 1);
    describe();
    app.announce(done.answer ? say("said", { answer: done.answer }) : say("saidEmpty"));
  }

  return { root, run: () => run(state.at), draw, isDone: () => result !== null, leave: pause };
}
