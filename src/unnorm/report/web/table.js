// Tables: sorted by a button in each head; that of the cells is filtered by the form above it.
(() => {
  "use strict";
  const number = (text) => parseFloat(text.replace(/[\s,%+±]/g, "").replace("−", "-"));
  const rank = (text) => (Number.isNaN(number(text)) ? Infinity : number(text));
  const ready = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const text = (row) => row.cells[column].textContent.trim();
        const rows = [...body.rows];
        const known = rows.map(text).filter((each) => each && each !== "–");
        const numbers = known.filter((each) => !Number.isNaN(number(each)));
        const numeric = numbers.length > known.length / 2; // a cell that failed has a word there
        const has = (row) => !numeric || rank(text(row)) !== Infinity;
        rows.sort((a, b) => {
          if (has(a) !== has(b)) return has(a) ? -1 : 1; // what is not known comes last, either way
          const order = numeric ? rank(text(a)) - rank(text(b)) || 0 : text(a).localeCompare(text(b));
          return up ? order : -order;
        });
        body.append(...rows);
        table.dispatchEvent(new CustomEvent("sorted", { bubbles: true }));
      });
    });
  };
  for (const table of document.querySelectorAll("table[id]")) ready(table);

  const cells = document.getElementById("cells");
  const form = document.getElementById("cells-filter");
  const heads = [...cells.tHead.rows[0].cells].map((head) => head.textContent);
  const rows = cells.tBodies[0].rows;
  const filter = () => {
    const text = form.elements.text.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const chosen = heads.every((head, column) => {
        const select = form.elements[head];
        return !select || !select.value || row.cells[column].textContent === select.value;
      });
      row.hidden = !(chosen && row.textContent.toLowerCase().includes(text));
      shown += !row.hidden;
    }
    form.querySelector(".count").textContent = shown + " of " + rows.length + " cells";
  };
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
