"use strict";
// Charts are drawn one at a time, those in sight first, the others while the page is idle.
{
  const { config, specs, files } = JSON.parse(document.getElementById("chart-data").textContent);
  const options = {
    renderer: "svg",
    actions: false,
    ast: true, // expressions are interpreted, so that the page's policy can forbid eval
    config,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  const waiting = new Set(document.querySelectorAll("[data-chart]"));
  const inSight = new Set();

  // Folded parts are printed unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of folded) part.open = false;
  });

  const draw = async (place) => {
    const spec = specs[place.dataset.chart];
    try {
      const { view } = await vegaEmbed(place, spec, { ...options, mode: spec.marks ? "vega" : "vega-lite" });
      if (place.dataset.title) offerChart(place, view);
      const solid = place.closest("figure").querySelector("canvas");
      if (solid) drawRelief(solid, spec.data[0].values[0]);
    } catch (error) {
      place.textContent = `This chart could not be drawn: ${error.message}`;
    }
  };

  const idle = () => new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target);
  }, { rootMargin: "400px" });

  (async () => {
    offerTables(files);
    for (const place of waiting) seen.observe(place);
    while (waiting.size) {
      await idle();
      const place = [...inSight].find((found) => waiting.has(found)) ?? waiting.values().next().value;
      waiting.delete(place);
      await draw(place);
    }
    seen.disconnect();
    document.documentElement.dataset.charts = "drawn";
  })();
}
