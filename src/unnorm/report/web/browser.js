// Completions side by side. Whatever models wrote is put in as text, never as markup.
(() => {
  "use strict";
  const root = document.getElementById("browser");
  if (!root) return;
  const groups = JSON.parse(document.getElementById("completions").textContent);
  const colours = JSON.parse(document.getElementById("colours").textContent);
  const form = root.querySelector("form");
  const list = root.querySelector(".list");
  const detail = root.querySelector(".detail");
  const count = root.querySelector(".count");
  const MOST = 20000; // characters that are laid out before one asks for more
  const fields = form.elements;
  let shown = [];
  let chosen = 0;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const fill = (select, values) => {
    const before = select.value;
    select.replaceChildren(...values.map(([value, label]) => {
      const option = element("option", "", label);
      option.value = value;
      return option;
    }));
    if (values.some(([value]) => value === before)) select.value = before;
  };
  const group = () => groups[fields.group ? Number(fields.group.value) : 0];
  const outcome = (item) => {
    const verdict = item.verdicts[fields.arm.value];
    if (!verdict) return "not judged";
    if (verdict.value === null) return "no verdict";
    return verdict.value === 0.5 ? "tie" : verdict.value === 1 ? fields.arm.value + " wins" : group().reference + " wins";
  };

  const text = (content) => {
    const box = element("div", "text");
    box.append(content.slice(0, MOST));
    if (content.length > MOST) {
      const more = element("button", "more", "Show all " + content.length.toLocaleString("en") + " characters");
      more.type = "button";
      more.addEventListener("click", () => box.replaceChildren(content));
      box.append(document.createElement("br"), more);
    }
    return box;
  };
  const answer = (item, arm) => {
    const box = element("div", "answer");
    const head = element("h3", "", "");
    const dot = element("span", "dot");
    dot.style.background = colours[arm];
    head.append(dot, arm);
    box.append(head);
    const given = item.answers[arm];
    if (!given) {
      box.append(element("p", "soft", "No answer."));
      return box;
    }
    const facts = given.text.length.toLocaleString("en") + " characters" + (given.cut ? ", cut off at the limit of tokens" : "");
    box.append(text(given.text), element("p", "soft", facts));
    return box;
  };
  const show = () => {
    const item = shown[chosen];
    for (const option of list.children) option.setAttribute("aria-selected", String(Number(option.dataset.at) === chosen));
    if (!item) {
      list.removeAttribute("aria-activedescendant");
      detail.replaceChildren(element("p", "soft", "No prompt is left by this filter."));
      return;
    }
    const option = list.children[chosen];
    list.setAttribute("aria-activedescendant", option.id);
    const top = option.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + option.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + option.offsetHeight - list.clientHeight;
    const verdict = item.verdicts[fields.arm.value];
    const said = element("p", "verdict", "");
    if (verdict) {
      const score = verdict.score === null ? "" : ", margin " + verdict.score.toFixed(3);
      said.append(element("strong", "", outcome(item)), score);
    }
    const asked = text(item.prompt);
    asked.className = "asked";
    const answers = element("div", "answers");
    const arms = fields.arm.value === group().reference ? [group().reference] : [group().reference, fields.arm.value];
    answers.append(...arms.map((arm) => answer(item, arm)));
    const where = item.category + ", " + item.id + " (" + (chosen + 1) + " of " + shown.length + ")";
    detail.replaceChildren(element("p", "soft", where), asked, ...(verdict ? [said] : []), answers);
  };
  const filter = () => {
    const [category, wanted, words] = [fields.category.value, fields.outcome.value, fields.text.value.toLowerCase()];
    const arms = [group().reference, fields.arm.value];
    const has = (item) => [item.prompt, item.id, ...arms.map((arm) => (item.answers[arm] || { text: "" }).text)]
      .some((content) => content.toLowerCase().includes(words));
    shown = group().items.filter((item) =>
      (!category || item.category === category) && (!wanted || outcome(item) === wanted) && has(item));
    list.replaceChildren(...shown.map((item, at) => {
      const option = element("li", "", "");
      option.id = "prompt-" + at;
      option.dataset.at = at;
      option.setAttribute("role", "option");
      option.append(element("span", "name", item.prompt.slice(0, 80)));
      const verdict = item.verdicts[fields.arm.value];
      if (verdict) option.append(element("span", "soft", outcome(item)));
      return option;
    }));
    count.textContent = shown.length + " of " + group().items.length + " prompts";
    chosen = 0;
    show();
  };
  const choose = () => {
    const now = group();
    const arms = now.arms.filter((arm) => arm !== now.reference);
    fill(fields.arm, (arms.length ? arms : [now.reference]).map((arm) => [arm, arm]));
    offer();
  };
  const offer = () => {
    const now = group();
    const all = [["", "all"]];
    const unique = (values) => [...new Set(values)].map((value) => [value, value]);
    fill(fields.category, all.concat(unique(now.items.map((item) => item.category))));
    fill(fields.outcome, all.concat(unique(now.items.map(outcome)).sort()));
    filter();
  };

  if (fields.group) {
    fill(fields.group, groups.map((one, at) => [String(at), one.title]));
    fields.group.addEventListener("change", choose);
  }
  fields.arm.addEventListener("change", offer);
  fields.category.addEventListener("change", filter);
  fields.outcome.addEventListener("change", filter);
  fields.text.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const option = event.target.closest("li");
    if (option) {
      chosen = Number(option.dataset.at);
      show();
    }
  });
  list.addEventListener("keydown", (event) => {
    const last = shown.length - 1;
    const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, j: chosen + 1, k: chosen - 1, Home: 0, End: last,
      PageDown: chosen + 10, PageUp: chosen - 10 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    chosen = Math.max(0, Math.min(last, to));
    show();
  });
  choose();
})();
