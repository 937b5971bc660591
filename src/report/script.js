"use strict";
const table = document.getElementById("tenants");
const body = table.tBodies[0];
const rows = Array.from(body.rows, (row) => ({ row, text: row.textContent.toLowerCase(), ill: row.hasAttribute("data-attention") }));
const find = document.getElementById("find");
const attention = document.getElementById("attention");
const found = document.getElementById("found");
const leftOut = found.textContent.replace(/^\d+ shown/, "");

function show() {
  const wanted = find.value.trim().toLowerCase();
  let shown = 0;
  for (const { row, text, ill } of rows) {
    row.hidden = !text.includes(wanted) || (attention.checked && !ill);
    shown += row.hidden ? 0 : 1;
  }
  found.textContent = shown + " shown" + leftOut;
}
find.addEventListener("input", show);
attention.addEventListener("change", show);

for (const button of table.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const isNumber = button.dataset.sort === "number";
    const wasDown = header.getAttribute("aria-sort") === "descending";
    // The largest first, and of texts the first.
    const isDown = header.hasAttribute("aria-sort") ? !wasDown : isNumber;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const column = header.cellIndex;
    const value = ({ row }) => row.cells[column].dataset.value;
    const compare = isNumber ? (a, b) => value(a) - value(b) : (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
    rows.sort((a, b) => (isDown ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(({ row }) => row));
  });
}
