"use strict";
// One tab per panel, where there are several; every panel is printed.
{
  const panels = [...document.querySelectorAll("[data-tab]")];
  const bar = document.createElement("div");
  bar.className = "tabs";
  bar.setAttribute("role", "tablist");
  bar.setAttribute("aria-label", "Comparison and models");

  const tabs = panels.map((panel, place) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${place}`;
    tab.textContent = panel.dataset.tab;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    tab.addEventListener("click", () => {
      show(place);
      if (panel.getBoundingClientRect().top < 0) panel.scrollIntoView();
    });
    return tab;
  });

  const show = (chosen) => {
    panels.forEach((panel, place) => {
      panel.classList.toggle("away", place !== chosen);
      tabs[place].setAttribute("aria-selected", String(place === chosen));
      tabs[place].tabIndex = place === chosen ? 0 : -1;
    });
    tabs[chosen].scrollIntoView({ block: "nearest", inline: "nearest" });
    // Charts that were first laid out in a panel that was away are measured again.
    dispatchEvent(new Event("resize"));
  };

  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const place = target ? panels.findIndex((panel) => panel.contains(target)) : -1;
    if (place >= 0) {
      show(place);
      target.scrollIntoView();
    }
  };

  if (panels.length > 1) {
    panels.forEach((panel, place) => {
      panel.classList.add("tabbed");
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", `tab-${place}`);
    });
    bar.append(...tabs);
    panels[0].before(bar);
    show(0);
    bar.addEventListener("keydown", (event) => {
      const now = tabs.indexOf(document.activeElement);
      const places = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 };
      if (now < 0 || !(event.key in places)) return;
      event.preventDefault();
      const next = (places[event.key] + tabs.length) % tabs.length;
      show(next);
      tabs[next].focus();
    });
    addEventListener("hashchange", follow);
    follow();
  }
}
