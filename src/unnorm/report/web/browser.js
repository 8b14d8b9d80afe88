// Completions side by side. Whatever models wrote is put in as text, never as markup.
(() => {
  "use strict";
  const root = document.getElementById("browser");
  if (!root) return;
  const groups = JSON.parse(document.getElementById("completions").textContent);
  const marks = JSON.parse(document.getElementById("marks").textContent);
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
  // the arms whose answers are shown beside the reference's
  const compared = () => fields.arm.value ? [fields.arm.value] : group().arms.filter((arm) => arm !== group().reference);
  const shownArms = () => [...new Set([group().reference, ...compared()])].filter((arm) => group().arms.includes(arm));
  const outcome = (item, arm) => {
    const verdict = item.verdicts[arm];
    if (!verdict) return "not judged";
    if (verdict.value === null) return "no verdict";
    return verdict.value === 0.5 ? "tie" : verdict.value === 1 ? arm + " wins" : group().reference + " wins";
  };
  const outcomes = (item) => compared().map((arm) => outcome(item, arm));

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
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of [["class", "mark"], ["viewBox", "-1.3 -1.3 2.6 2.6"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries(marks[arm])) path.setAttribute(name, value);
    svg.append(path);
    head.append(svg, arm);
    const verdict = item.verdicts[arm];
    if (verdict) {
      const score = verdict.score === null ? "" : ", margin " + verdict.score.toFixed(3);
      head.append(element("span", "soft verdict", outcome(item, arm) + score));
    }
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
    const asked = text(item.prompt);
    asked.className = "asked";
    const answers = element("div", "answers");
    answers.append(...shownArms().map((arm) => answer(item, arm)));
    const where = item.category + ", " + item.id + " (" + (chosen + 1) + " of " + shown.length + ")";
    detail.replaceChildren(element("p", "soft", where), asked, answers);
  };
  const filter = () => {
    const [category, wanted, words] = [fields.category.value, fields.outcome.value, fields.text.value.toLowerCase()];
    const arms = shownArms();
    const has = (item) => [item.prompt, item.id, ...arms.map((arm) => (item.answers[arm] || { text: "" }).text)]
      .some((content) => content.toLowerCase().includes(words));
    shown = group().items.filter((item) =>
      (!category || item.category === category) && (!wanted || outcomes(item).includes(wanted)) && has(item));
    list.replaceChildren(...shown.map((item, at) => {
      const option = element("li", "", "");
      option.id = "prompt-" + at;
      option.dataset.at = at;
      option.setAttribute("role", "option");
      option.append(element("span", "name", item.prompt.slice(0, 80)));
      if (compared().some((arm) => item.verdicts[arm])) option.append(element("span", "soft", [...new Set(outcomes(item))].join(", ")));
      return option;
    }));
    count.textContent = shown.length + " of " + group().items.length + " prompts";
    chosen = 0;
    show();
  };
  const choose = () => {
    const now = group();
    const arms = now.arms.filter((arm) => arm !== now.reference);
    fill(fields.arm, [["", "all"], ...arms.map((arm) => [arm, arm])]);
    offer();
  };
  const offer = () => {
    const now = group();
    const all = [["", "all"]];
    const unique = (values) => [...new Set(values)].map((value) => [value, value]);
    fill(fields.category, all.concat(unique(now.items.map((item) => item.category))));
    fill(fields.outcome, all.concat(unique(now.items.flatMap(outcomes)).sort()));
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
