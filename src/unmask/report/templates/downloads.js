"use strict";
// Files are made in the page from what it holds.
const saveAs = (name, blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

const fileName = (title, ending) => `${title.replace(/[^\p{L}\p{N}._]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 80) || "unmask"}.${ending}`;

const downloadButton = (text, label, get) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", get);
  return button;
};

// A drawing on its own has no style sheet to look colours up in.
const withColours = (svg) => {
  const style = getComputedStyle(document.documentElement);
  return svg.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
};

const toPng = async (svg) => {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
};

const offerChart = (place, view) => {
  const title = place.dataset.title;
  const bar = document.createElement("div");
  bar.className = "downloads";
  const svg = async () => withColours(await view.toSVG());
  bar.append(
    downloadButton("SVG", `Download ${title} as SVG`, async () => saveAs(fileName(title, "svg"), new Blob([await svg()], { type: "image/svg+xml" }))),
    downloadButton("PNG", `Download ${title} as PNG`, async () => saveAs(fileName(title, "png"), await toPng(await svg()))),
  );
  place.after(bar);
};

const offerTables = (files) => {
  for (const bar of document.querySelectorAll("[data-files]")) {
    const found = files[bar.dataset.files];
    const kinds = { CSV: ["csv", "text/csv"], LaTeX: ["tex", "application/x-tex"] };
    for (const [text, [ending, type]] of Object.entries(kinds)) {
      bar.append(downloadButton(text, `Download ${found.name} as ${text}`, () => saveAs(fileName(found.name, ending), new Blob([found[ending]], { type }))));
    }
  }
};
