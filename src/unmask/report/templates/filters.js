"use strict";
// A bar of filters names its list; an item is shown where its data agree with every choice that was made.
for (const bar of document.querySelectorAll("[data-filters]")) {
  const items = [...document.querySelectorAll(`#${bar.dataset.filters} [data-item]`)];
  const groups = [...document.querySelectorAll(`#${bar.dataset.filters} [data-group]`)];
  const choices = [...bar.querySelectorAll("select")];
  const count = bar.querySelector("output");
  const apply = () => {
    let shown = 0;
    for (const item of items) {
      item.hidden = choices.some((choice) => choice.value !== "" && item.dataset[choice.name] !== choice.value);
      shown += !item.hidden;
    }
    for (const group of groups) group.hidden = !group.querySelector("[data-item]:not([hidden])");
    count.textContent = `${shown} of ${items.length} shown`;
  };
  bar.hidden = false;
  bar.addEventListener("change", apply);
  apply();
}
