"use strict";
// The cards of a gallery are one stop of the Tab key; arrows go from card to card, Home and End to the ends.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const cards = [...gallery.querySelectorAll(".card")];
  if (cards.length) cards[0].tabIndex = 0;
  for (const card of cards.slice(1)) card.tabIndex = -1;

  const go = (from, to) => {
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  };

  gallery.addEventListener("change", () => {
    const shown = cards.filter((card) => !card.hidden);
    for (const card of cards) card.tabIndex = card === shown[0] ? 0 : -1;
  });
  gallery.addEventListener("keydown", (event) => {
    const shown = cards.filter((card) => !card.hidden);
    const now = shown.indexOf(event.target);
    if (now < 0) return;
    const top = (card) => card.getBoundingClientRect().top;
    const left = (card) => card.getBoundingClientRect().left;
    const above = (card) => top(card) < top(shown[now]) - 4;
    const below = (card) => top(card) > top(shown[now]) + 4;
    const nearest = (found) => found && shown.filter((card) => Math.abs(top(card) - top(found)) < 4)
      .sort((a, b) => Math.abs(left(a) - left(shown[now])) - Math.abs(left(b) - left(shown[now])))[0];
    const target = {
      ArrowRight: () => shown[now + 1],
      ArrowLeft: () => shown[now - 1],
      ArrowDown: () => nearest(shown.slice(now).find(below)),
      ArrowUp: () => nearest(shown.slice(0, now).findLast(above)),
      Home: () => shown[0],
      End: () => shown.at(-1),
    }[event.key]?.();
    if (!target) return;
    event.preventDefault();
    go(shown[now], target);
  });
}
