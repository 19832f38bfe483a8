// Shows one slide at a time: arrow keys, space, Page Up and Page Down, Home, End, a tap on the left or right edge.
"use strict";
const slides = [...document.querySelectorAll(".slide")];
const place = document.querySelector(".place");

function current() {
  return Math.min(slides.length, Math.max(1, Number(location.hash.slice(1)) || 1));
}
function show() {
  slides.forEach((slide, index) => slide.classList.toggle("shown", index + 1 === current()));
  place.textContent = `${current()} / ${slides.length}`;
}
function go(number) {
  location.hash = Math.min(slides.length, Math.max(1, number));
}
addEventListener("hashchange", show);
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
