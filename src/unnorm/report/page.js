(() => {
  "use strict";
  const escape = (value) =>
    String(value).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const options = { ast: true, renderer: "svg", actions: false, tooltip: { sanitize: escape } };
  const narrow = document.documentElement.clientWidth < 900;
  for (const block of document.querySelectorAll("script[type='application/json'][data-figure]")) {
    const spec = JSON.parse(block.textContent);
    if (spec.facet && narrow) spec.columns = 1;
    const target = document.getElementById(block.dataset.figure);
    window.unnormEmbed(target, spec, options).catch((error) => {
      target.textContent = "This figure could not be drawn: " + error;
    });
  }
})();
