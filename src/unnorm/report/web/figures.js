// Draws the figures from the JSON beside them; fewer panels side by side where there is less room.
(() => {
  "use strict";
  const escape = (value) =>
    String(value).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const options = { ast: true, renderer: "svg", actions: false, tooltip: { sanitize: escape } };
  for (const block of document.querySelectorAll("script[type='application/json'][data-figure]")) {
    const spec = JSON.parse(block.textContent);
    const target = document.getElementById(block.dataset.figure);
    const room = target.clientWidth;
    if (room < 560) {
      spec.config.axisY = { labelLimit: 110 };
      spec.config.legend = { ...spec.config.legend, columns: 2 };
    }
    if (spec.facet && spec.spec) {
      spec.spec.width = Math.min(spec.spec.width, Math.max(140, room - (room < 560 ? 150 : 200)));
      spec.columns = Math.max(1, Math.min(spec.columns, Math.floor((room - 60) / (spec.spec.width + 50))));
    }
    window.unnormEmbed(target, spec, options).then(
      // one picture with a title and a caption: its marks have no names of their own
      () => target.querySelector("svg").setAttribute("aria-hidden", "true"),
      (error) => {
        target.textContent = "This figure could not be drawn: " + error;
      },
    );
  }
  // what is folded is printed too
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
