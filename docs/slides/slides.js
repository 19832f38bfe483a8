// Shows one slide at a time: arrow keys, space, Page Up and Page Down, Home, End, a tap on the left or right edge.
"use strict";
const slides = [...document.querySelectorAll(".slide")];
const place = document.querySelector(".place");

function current() {
  return Math.min(slides.length, Math.max(1, Number(location.hash.slice(1)) || 1));
}

// Makes a slide fit the screen: smaller, as long as its text stays readable; what is still too tall scrolls inside itself.
const READABLE = 12, LARGEST = 1.5, STEP = 0.05; // pixels; times the size of an explorer on a page
function fit(slide) {
  const box = slide.querySelector(".fit"), explorer = slide.querySelector(".course-explorer > div");
  const tall = [...slide.querySelectorAll("pre, table:not(.rx *), .rx, .course-figure")], style = getComputedStyle(slide);
  const room = slide.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const excess = () => box.getBoundingClientRect().height - room;
  box.style.zoom = 1;
  for (const part of tall) part.style.maxHeight = "";
  const wanted = Math.min(LARGEST, Math.max(1, innerWidth / 1200));
  if (explorer) explorer.style.zoom = wanted;
  for (let zoom = wanted; explorer && excess() > 0 && zoom >= 1; zoom -= STEP) explorer.style.zoom = zoom;
  const texts = [box, ...slide.querySelectorAll("pre, table:not(.rx *)")];
  const least = READABLE / Math.min(...texts.map((part) => parseFloat(getComputedStyle(part).fontSize)));
  for (let zoom = 1 - STEP; excess() > 0 && zoom >= least; zoom -= STEP) box.style.zoom = zoom;
  const shrunk = (part) => Number(box.style.zoom) * (explorer?.contains(part) ? Number(explorer.style.zoom) : 1);
  for (const part of tall.sort((a, b) => b.getBoundingClientRect().height - a.getBoundingClientRect().height)) {
    if (excess() <= 0) break;
    const height = Math.max(90, (part.getBoundingClientRect().height - excess()) / shrunk(part));
    part.style.maxHeight = `${height}px`;
    part.style.overflow = "auto";
    part.tabIndex = 0; // the keyboard scrolls it, too
    const picture = part.querySelector(":scope > :is(svg, img)");
    if (picture) picture.style.maxHeight = `${height}px`;
  }
}

function show() {
  slides.forEach((slide, index) => slide.classList.toggle("shown", index + 1 === current()));
  if (slides[current() - 1]) fit(slides[current() - 1]);
  place.textContent = `${current()} / ${slides.length}`;
  requestAnimationFrame(() => requestAnimationFrame(() => { // an explorer draws itself anew once it is seen
    if (slides[current() - 1]?.querySelector(".course-explorer")) fit(slides[current() - 1]);
  }));
}
function go(number) {
  location.hash = Math.min(slides.length, Math.max(1, number));
}
addEventListener("hashchange", show);
addEventListener("resize", show);
addEventListener("course-explorer", show); // one has started, and is taller than its picture
addEventListener("keydown", (event) => {
  if (event.target.closest("button, input, select, textarea, .course-explorer") || event.ctrlKey || event.altKey || event.metaKey) return;
  const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  go(current() + steps[event.key]);
});
document.querySelector(".back").addEventListener("click", () => go(current() - 1));
document.querySelector(".on").addEventListener("click", () => go(current() + 1));
show();
