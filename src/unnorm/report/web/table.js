// The table of cells: sorted by a button in each head, filtered by the form above it.
(() => {
  "use strict";
  const table = document.getElementById("cells");
  const form = document.getElementById("cells-filter");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const number = (text) => {
    const value = parseFloat(text.replace(/[ ,%]/g, ""));
    return Number.isNaN(value) ? Infinity : value;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("n");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [a, b].map((row) => row.cells[column].textContent);
        const order = numeric ? number(x) - number(y) || 0 : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
  const filter = () => {
    const text = form.elements.text.value.toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      const chosen = heads.every((head, column) => {
        const select = head.dataset.key && form.elements[head.dataset.key];
        return !select || !select.value || row.cells[column].textContent === select.value;
      });
      row.hidden = !(chosen && row.textContent.toLowerCase().includes(text));
      shown += !row.hidden;
    }
    form.querySelector(".count").textContent = shown + " of " + body.rows.length + " cells";
  };
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
