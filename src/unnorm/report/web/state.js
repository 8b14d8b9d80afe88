// What a reader has chosen (filters, order, what is open) stands in the address: it survives a reload and can be sent.
(() => {
  "use strict";
  // behind the #, as in #results?cells-filter.arm=dyt: what is before it must not change, or patterns lose their marks
  const parts = () => location.hash.slice(1).split("?");
  const chosen = new URLSearchParams(parts()[1]);
  const all = [...document.querySelectorAll("details[id]")];
  const usual = new Map(all.map((details) => [details.id, details.open]));
  const keep = () => {
    const found = new URLSearchParams();
    for (const form of document.forms) {
      for (const field of form.elements) {
        if (field.name && field.value && field.value !== field.dataset.usual) found.set(form.id + "." + field.name, field.value);
      }
    }
    for (const head of document.querySelectorAll("table[id] th[aria-sort]")) {
      found.set(head.closest("table").id + "." + head.cellIndex, head.getAttribute("aria-sort"));
    }
    const turned = all.filter((details) => details.open !== usual.get(details.id)).map((details) => details.id);
    if (turned.length) found.set("turned", turned.join(" "));
    const query = found.toString();
    const hash = parts()[0] + (query ? "?" + query : "");
    if (hash !== location.hash.slice(1)) history.replaceState(null, "", "#" + hash);
  };
  const open = () => {
    const target = document.getElementById(decodeURIComponent(parts()[0]));
    if (!target) return;
    for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
    for (const only of target.querySelectorAll(":scope > details:only-of-type")) only.open = true;
    target.scrollIntoView();
  };

  for (const form of document.forms) {
    for (const field of form.elements) {
      if (!field.name) continue;
      field.dataset.usual = field.value;
      const wanted = chosen.get(form.id + "." + field.name);
      if (wanted === null) continue;
      field.value = wanted;
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.dispatchEvent(new Event("change", { bubbles: true }));
    }
  }
  for (const table of document.querySelectorAll("table[id]")) {
    [...table.querySelectorAll("th")].forEach((head, column) => {
      const order = chosen.get(table.id + "." + column);
      for (let turn = 0; order && turn < 2 && head.getAttribute("aria-sort") !== order; turn++) head.querySelector("button").click();
    });
  }
  const turned = (chosen.get("turned") || "").split(" ");
  for (const details of all) if (turned.includes(details.id)) details.open = !details.open;
  document.addEventListener("input", keep);
  document.addEventListener("change", keep);
  document.addEventListener("sorted", keep);
  document.addEventListener("toggle", keep, true);
  window.addEventListener("hashchange", () => {
    open();
    keep();
  });
  open();

  const figures = document.getElementById("figures");
  const folded = figures ? [...figures.querySelectorAll("details")] : [];
  if (folded.length > 1) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "more";
    button.textContent = "Open or close all";
    button.addEventListener("click", () => {
      const shut = folded.some((details) => !details.open);
      for (const details of folded) details.open = shut;
    });
    figures.querySelector("h2").after(button);
  }
  // what is folded is printed too, and folded again afterwards
  let shut = [];
  window.addEventListener("beforeprint", () => {
    shut = [...document.querySelectorAll("details:not([open])")];
    for (const details of shut) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of shut) details.open = false;
  });
})();
