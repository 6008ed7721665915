"use strict";
// A press on a column's name sorts the table by it, a second press the other way round, a third restores the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const numeric = heads.map((_, column) => original.every((row) => row.cells[column].dataset.value !== undefined));

  const sortBy = (column, direction) => {
    const order = { ascending: 1, descending: -1 }[direction];
    const between = (a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (!numeric[column]) return order * compare(x, y);
      // What has no value comes last either way.
      return (x === "") - (y === "") || order * (Number(x) - Number(y));
    };
    body.append(...(order ? [...original].sort(between) : original));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turns = numeric[column] ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      const next = turns[(turns.indexOf(head.getAttribute("aria-sort") ?? "none") + 1) % turns.length];
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next !== "none") head.setAttribute("aria-sort", next);
      sortBy(column, next);
    });
  });
}
