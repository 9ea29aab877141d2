"use strict";
for (const picture of document.querySelectorAll("button.picture")) {
  picture.addEventListener("click", () => {
    const wide = picture.closest("figure").classList.toggle("wide");
    picture.setAttribute("aria-pressed", String(wide));
  });
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const numeric = head.classList.contains("number");
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => (numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent);
    const order = (a, b) => (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    const rows = Array.from(body.rows, (row) => [key(row), row]);
    const known = rows.filter(([value]) => !Number.isNaN(value));
    const unknown = rows.filter(([value]) => Number.isNaN(value));
    known.sort(([a], [b]) => (ascending ? order(a, b) : order(b, a)));
    body.append(...[...known, ...unknown].map(([, row]) => row));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}
