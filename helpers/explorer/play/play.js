/** The page: the question, the three views of it, the language, and the address that carries all of it. */

import { Client, PageError } from "./client.js";
import { heatmapView } from "./heatmap.js";
import { playbackView } from "./playback.js";
import { scissorsView } from "./scissors.js";
import { DIALS, VIEWS, question, readState, writeState } from "./state.js";
import { TEXTS } from "./texts.js";

const LONGEST_TEXT = 20_000; // characters; the context is full long before
const DIAL_WAIT_MS = 450; // until a dial that stands still is asked

const data = JSON.parse(document.getElementById("data").textContent), { about, files } = data;
const query = new URLSearchParams(location.search), state = readState(location.search, about), isInside = query.has("embed");
let lang = ["zh", "en"].find((known) => known === query.get("lang")) ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let touched = false, dialTimer = null, shown = {}, note = null, address = null;

// ---------------------------------------------------------------------------------------------- words

const translated = []; // [node, function that gives its text, attribute]
const say = (name, values = {}) => TEXTS[lang][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
function said(node, text, attribute) {
  translated.push([node, text, attribute]);
  return node;
}
const lead = () => say("lead", { ...about, parameters: (about.parameters / { zh: 1e4, en: 1e6 }[lang]).toFixed({ zh: 0, en: 1 }[lang]) });
const live = element("div", { className: "hidden-text" });
live.setAttribute("aria-live", "polite");

function translate() {
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const [node, text, attribute] of translated) {
    if (attribute) node.setAttribute(attribute, text());
    else node.textContent = text();
  }
  document.querySelectorAll(".known").forEach((button, place) => { button.textContent = TEXTS[lang].known[place]; });
  for (const view of Object.values(views)) view.draw();
  showNote();
}

// ---------------------------------------------------------------------------------------------- what views use

const still = matchMedia("(prefers-reduced-motion: reduce)");
const client = new Client(files, (share) => tell("loading", { percent: Math.round(100 * share) }));
const app = {
  state, about, say, said,
  lang: () => lang,
  comma: () => (lang === "zh" ? "，" : ", "),
  stop: () => (lang === "zh" ? "；" : "; "),
  isStill: () => still.matches,
  asked: () => question(state).replace(/=\?$/, ""),
  lastNumber: (answer) => answer.match(/\d+/g)?.at(-1) ?? null,
  announce: (text) => { live.textContent = text; },
  begin: () => ask(),
  address: () => new URL(writeState(state, lang), location.href).href,
  put(changes) {
    Object.assign(state, changes);
    keepAddress();
  },
  /** As client.ask, with the question of the state; says what goes on, and what went wrong. */
  async ask(kind, asked, heard) {
    try {
      tell(client.loading ? "working" : "reading");
      const quiet = () => note?.error || tell(null); // what went wrong meanwhile stays in sight
      const done = await client.ask(kind, { text: question(state), ...asked }, (message) => {
        quiet();
        heard(message);
      });
      if (done) quiet();
      return done;
    } catch (error) {
      fail(error);
      return null;
    }
  },
};

/** A sentence under the question: what the page is doing, or what went wrong. */
function tell(name, values) {
  note = name && { name, values };
  showNote();
}

function fail(error) {
  const { code, values } = error instanceof PageError ? error : { code: "failed", values: { message: String(error) } };
  const known = Object.hasOwn(TEXTS[lang].errors, code) ? code : "failed";
  note = { error: known, values: { message: code, ...values } };
  shown = {};
  showNote();
}

function showNote() {
  const words = note?.error ? TEXTS[lang].errors[note.error].replace(/\{(\w+)\}/g, (_, key) => note.values[key]) : note ? say(note.name, note.values) : "";
  const start = touched ? "" : say(document.getElementById("model") ? "startOffline" : "start", { size: (files["model.safetensors"].bytes / 1e6).toFixed(1) });
  status.textContent = words || start;
  status.classList.toggle("error", Boolean(note?.error));
  status.setAttribute("role", note?.error ? "alert" : "status");
}

function keepAddress() {
  const now = writeState(state, lang);
  if (now === address || isInside) return; // browsers count how often a page changes it
  address = now;
  try {
    history.replaceState(null, "", now + location.hash);
  } catch {
    // a page from a disk may not change its address, or it changed too often: the link of the button still carries all
  }
}

// ---------------------------------------------------------------------------------------------- the question

/** Asks in the view that is open. */
function ask() {
  touched = true;
  clearTimeout(dialTimer);
  const text = question(state);
  if (text.length > LONGEST_TEXT) return fail(new PageError("text-too-long"));
  if (tabList.getBoundingClientRect().top > innerHeight * 0.5) tabList.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
  shown[state.view] = text;
  keepAddress();
  drawQuestion();
  return views[state.view].run();
}

function newQuestion(changes) {
  app.put({ ...changes, at: null, taps: [], swept: false, kept: null });
  drawQuestion();
}

function dial(name, label) {
  const { least, most } = DIALS, input = element("input", { type: "number", min: least, max: most, inputMode: "numeric", id: `dial-${name}` });
  const take = (value) => {
    const number = Math.max(least, Math.min(most, Math.round(value) || least));
    newQuestion({ [name]: number, text: null });
    clearTimeout(dialTimer);
    dialTimer = setTimeout(ask, DIAL_WAIT_MS);
  };
  said(input, () => say(label), "aria-label");
  input.onchange = () => { // also when a field is left that Enter has asked
    if (state.text !== null || Number(input.value) !== state[name]) take(Number(input.value));
  };
  input.onkeydown = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    take(Number(input.value));
    ask();
  };
  const step = (by, sign, words) => said(element("button", { type: "button", onclick: () => take(state[name] + by) }, sign), () => say(words, { name: say(label) }), "aria-label");
  return element("span", { className: "dial" }, step(-1, "−", "less"), input, step(1, "+", "more"));
}

const go = element("button", { type: "button", className: "go", onclick: () => { newQuestion({ text: null }); ask(); } });
const known = TEXTS.en.known.map((_, place) => element("button", { type: "button", className: "known", onclick: () => { newQuestion({ text: TEXTS[lang].known[place] }); ask(); } }));
const own = element("input", { type: "text", className: "own", autocomplete: "off", spellcheck: false, enterKeyHint: "send" });
own.dir = "auto";
said(own, () => say("ownLabel"), "aria-label");
said(own, () => say("own"), "placeholder");
const form = element("form", { className: "free", onsubmit(event) {
  event.preventDefault();
  if (!own.value.trim()) return fail(new PageError("empty"));
  newQuestion({ text: own.value });
  ask();
} }, own, said(element("button", { type: "submit" }), () => say("ask")));
const status = element("p", { className: "note" });

function drawQuestion() {
  for (const name of ["a", "b"]) document.getElementById(`dial-${name}`).value = state[name];
  go.textContent = `${state.a}×${state.b}=?`;
  go.setAttribute("aria-label", `${go.textContent} ${say("run")}`);
  go.classList.toggle("asked", state.text === null);
  known.forEach((button, place) => { button.setAttribute("aria-pressed", state.text === TEXTS[lang].known[place]); });
  if (state.text !== null && state.text !== own.value && !TEXTS[lang].known.includes(state.text)) own.value = state.text;
}

// ---------------------------------------------------------------------------------------------- the page

const views = { play: playbackView(app), experts: heatmapView(app), cut: scissorsView(app) };
const tabs = VIEWS.map((view) => {
  const tab = said(element("button", { type: "button", id: `tab-${view}`, onclick: () => open(view) }), () => say(view));
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", `panel-${view}`);
  return tab;
});
const tabList = said(element("div", { className: "tabs" }, ...tabs), () => say("views"), "aria-label");
tabList.setAttribute("role", "tablist");
tabList.onkeydown = (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const to = (VIEWS.indexOf(state.view) + by + VIEWS.length) % VIEWS.length;
  tabs[to].focus();
  open(VIEWS[to]);
};
const panels = VIEWS.map((view) => {
  const panel = element("div", { id: `panel-${view}`, className: "view" }, views[view].root);
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", `tab-${view}`);
  return panel;
});

function open(view) {
  const isNew = view !== state.view;
  if (isNew) views[state.view].leave();
  app.put({ view });
  for (const [place, name] of VIEWS.entries()) {
    tabs[place].setAttribute("aria-selected", name === view);
    tabs[place].tabIndex = name === view ? 0 : -1;
    panels[place].hidden = name !== view;
  }
  if (touched && !(shown[view] === question(state) && views[view].isDone())) ask(); // another view may have ended it
}

const copy = said(element("button", { type: "button", className: "copy", onclick: copyLink }), () => say("link")), copied = element("p", { className: "small copied" });
async function copyLink() {
  try {
    await navigator.clipboard.writeText(app.address());
    copied.textContent = say("copied");
  } catch {
    const field = element("input", { type: "text", readOnly: true, value: app.address(), ariaLabel: say("link") });
    copied.replaceChildren(say("copyThis"), field);
    field.select();
  }
}

const course = said(said(element("a", {}), () => say("course")), () => `${lang}/index.html`, "href");
const languages = element("button", { type: "button", className: "language", onclick() {
  lang = lang === "zh" ? "en" : "zh";
  keepAddress();
  translate();
  drawQuestion();
} });
said(languages, () => say("switchTo"));
said(languages, () => (lang === "zh" ? "en" : "zh-CN"), "lang");

/** The root element of a page around this one, if it is from the same place. */
function outerPage() {
  try {
    return parent === window ? null : parent.document.documentElement;
  } catch {
    return null;
  }
}
const outer = outerPage();

function takeTheme() {
  const asked = [query.get("theme"), outer?.dataset.theme].find((theme) => theme === "dark" || theme === "light");
  document.documentElement.dataset.theme = asked ?? (dark.matches ? "dark" : "light");
}
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", takeTheme);
if (outer) new MutationObserver(takeTheme).observe(outer, { attributes: true, attributeFilter: ["data-theme"] });
takeTheme();
still.addEventListener("change", () => views[state.view].leave());

document.body.append(
  element("header", {}, element("div", { className: "top" }, said(element("h1"), () => say("title")), languages), said(element("p", { className: "lead" }), lead)),
  element("main", {},
    element("section", { className: "question" },
      element("div", { className: "dials" }, dial("a", "first"), element("span", { className: "times", ariaHidden: "true" }, "×"), dial("b", "second"), go),
      element("div", { className: "presets" }, ...known), form, said(element("p", { className: "small little" }), () => say("little"))),
    element("div", { className: "bar-row" }, tabList, status), ...panels,
    element("div", { className: "links" }, copy, ...(document.getElementById("model") ? [] : [course]), copied)),
  element("footer", {}, said(element("p"), () => say("caveat"))), live);
said(document.querySelector(".question"), () => say("question"), "aria-label");
said(document.querySelector(".presets"), () => say("presets"), "aria-label");
document.querySelector(".presets").setAttribute("role", "group");
document.body.classList.toggle("embed", isInside);
if (isInside && outer) // the frame is as high as the page in it
  new ResizeObserver(() => { frameElement.style.height = `${document.body.offsetHeight + 2}px`; }).observe(document.body);
open(state.view);
translate();
drawQuestion();
if (state.isGiven) ask();
else (window.requestIdleCallback ?? setTimeout)(() => client.prepare());
// A finger that comes down is the first touch; the click follows when it leaves. What fails here fails again there.
document.querySelector(".question").addEventListener("pointerdown", () => client.load().catch(() => {}), { once: true });
