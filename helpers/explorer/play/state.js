/** The whole setting of the page, and the address that carries it. */

export const VIEWS = ["play", "experts", "cut"];
export const DIALS = { least: 10, most: 99 }; // the factors that the model has learned
const START = { view: "play", a: 37, b: 46, text: null, at: null, taps: [], swept: false, kept: null };

/** The state that an address's query asks for; what makes no sense in it is left out. sizes: {layers, experts}. */
export function readState(query, { layers, experts }) {
  const asked = new URLSearchParams(query), state = { ...START, isGiven: false };
  const number = (name, least, most) => {
    const value = asked.get(name);
    return /^\d{1,5}$/.test(value ?? "") && value >= least && value <= most ? Number(value) : undefined;
  };
  const put = (name, value) => {
    if (value !== undefined && value !== null) Object.assign(state, { [name]: value, isGiven: true });
  };
  put("a", number("a", DIALS.least, DIALS.most));
  put("b", number("b", DIALS.least, DIALS.most));
  put("text", asked.get("q") || null);
  put("view", VIEWS.find((view) => view === asked.get("view")));
  put("at", number("at", 0, 99999));
  put("kept", number("kept", 0, 99999));
  const taps = (asked.get("off") ?? "").split("_").map((tap) => tap.split(".").map(Number));
  const isExpert = ([layer, expert]) => layer in Array(layers).fill(0) && expert in Array(experts).fill(0);
  const known = taps.filter((tap) => tap.length === 2 && isExpert(tap)).map(String);
  if (known.length) put("taps", [...new Set(known)].map((tap) => tap.split(",").map(Number)));
  if (asked.get("sweep") === "1") put("swept", true);
  return state;
}

/** The query for `state`, with nothing in it that is as at the start. */
export function writeState(state, lang) {
  const query = new URLSearchParams({ lang });
  if (state.view !== START.view) query.set("view", state.view);
  if (state.text !== null) query.set("q", state.text);
  else if (state.a !== START.a || state.b !== START.b) for (const dial of ["a", "b"]) query.set(dial, state[dial]);
  if (state.view === "play" && state.at !== null) query.set("at", state.at);
  if (state.view === "experts" && state.taps.length) query.set("off", state.taps.map((tap) => tap.join(".")).join("_"));
  if (state.view === "experts" && state.swept) query.set("sweep", "1");
  if (state.view === "cut" && state.kept !== null) query.set("kept", state.kept);
  return `?${query}`;
}

/** What the model is asked: a text of the reader's, or the product of the two dials. */
export const question = ({ text, a, b }) => text ?? `${a}×${b}=?`;
