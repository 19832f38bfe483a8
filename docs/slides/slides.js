// Shows one slide at a time: arrow keys, space, Page Up and Page Down, Home, End, a tap on the left or right edge.
"use strict";
const slides = [...document.querySelectorAll(".slide")];
const place = document.querySelector(".place");

function current() {
  return Math.min(slides.length, Math.max(1, Number(location.hash.slice(1)) || 1));
}

// Makes a slide fit the screen: smaller, as long as code stays readable; what is still too tall scrolls inside itself.
const READABLE = 12; // pixels
function fit(slide) {
  const box = slide.querySelector(".fit"), explorer = slide.querySelector(".course-explorer > div");
  const tall = [...slide.querySelectorAll("pre, .rx, .course-figure")];
  box.style.zoom = 1;
  for (const part of tall) part.style.maxHeight = "";
  if (explorer) explorer.style.zoom = Math.min(1.5, Math.max(1, innerWidth / 1200));
  const room = () => slide.clientHeight - parseFloat(getComputedStyle(slide).paddingTop) - parseFloat(getComputedStyle(slide).paddingBottom);
  const excess = () => box.getBoundingClientRect().height - room();
  const fonts = tall.map((part) => parseFloat(getComputedStyle(part).fontSize));
  const least = Math.min(1, READABLE / Math.min(16, ...fonts));
  for (let zoom = 0.95; excess() > 0 && zoom >= least; zoom -= 0.05) box.style.zoom = zoom;
  const now = Number(box.style.zoom);
  for (const part of tall.sort((a, b) => b.offsetHeight - a.offsetHeight)) {
    if (excess() <= 0) break;
    const height = Math.max(90, part.getBoundingClientRect().height - excess()) / now;
    part.style.maxHeight = `${height}px`;
    part.style.overflow = "auto";
    if (part.matches("pre")) part.tabIndex = 0; // the keyboard scrolls it, too
    const picture = part.querySelector(":scope > :is(svg, img)");
    if (picture) picture.style.maxHeight = `${height}px`;
  }
}

function show() {
  slides.forEach((slide, index) => slide.classList.toggle("shown", index + 1 === current()));
  if (slides[current() - 1]) fit(slides[current() - 1]);
  place.textContent = `${current()} / ${slides.length}`;
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
