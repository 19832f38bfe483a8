// Runs the explorers of the lessons in a page without a kernel. Each stands in the page as a picture with the widget's
// JavaScript and state beside it (tools/site/build_site.py); the picture stays where the script cannot run.
"use strict";

function localModel(state) {
  const listeners = new Map();
  return {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      for (const listener of [...(listeners.get(`change:${name}`) ?? []), ...(listeners.get("change") ?? [])]) listener();
    },
    on: (event, listener) => listeners.set(event, [...(listeners.get(event) ?? []), listener]),
    off: (event, listener) => listeners.set(event, (listeners.get(event) ?? []).filter((other) => other !== listener)),
    save_changes: () => {}, // there is no kernel to tell
    send: () => {},
  };
}

async function start(place) {
  const { esm, state, live } = JSON.parse(place.querySelector("script").textContent);
  const isSite = location.protocol !== "file:" && !document.querySelector(".slide"); // the model lies beside its pages
  if (live && isSite) state.data.live = live;
  const address = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const module = await import(address);
  const face = typeof module.default === "function" ? await module.default() : (module.default ?? module);
  const el = document.createElement("div");
  const model = localModel(state);
  await face.initialize?.({ model });
  place.append(el);
  await face.render({ model, el });
  place.querySelector(".course-figure").remove();
  dispatchEvent(new Event("course-explorer"));
}

for (const place of document.querySelectorAll(".course-explorer")) {
  start(place).catch((error) => console.error("An explorer could not start, its picture stays:", error));
}
