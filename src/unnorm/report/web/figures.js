// Draws the figures from the JSON beside them, as wide as the page; fewer panels side by side where there is less room.
(() => {
  "use strict";
  const PANEL = 270; // the least that a panel with its axis needs
  const escape = (value) =>
    String(value).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const options = { ast: true, renderer: "svg", actions: false, tooltip: { sanitize: escape } };
  const main = document.getElementById("main");
  const draw = async (block) => {
    const spec = JSON.parse(block.textContent);
    const target = document.getElementById(block.dataset.figure);
    const room = Math.floor(document.getElementById("summary").clientWidth);
    spec.config.background = null; // the page's own
    const small = room < 560;
    if (small) {
      spec.config.axisY = { labelLimit: 110 };
      spec.config.legend = { ...spec.config.legend, columns: 2 };
    }
    const parts = spec.concat || (spec.spec ? [spec.spec] : []);
    const abreast = Math.max(1, Math.min((spec.usermeta || {}).abreast || spec.columns, Math.floor(room / PANEL)));
    if (parts.length) spec.columns = Math.min(spec.columns, abreast);
    else spec.width = room; // a folded figure has no width to ask for
    for (const part of parts) part.width = Math.max(140, Math.floor(room / abreast) - 70);
    const { view } = await window.unnormEmbed(target, spec, options);
    const svg = () => target.querySelector("svg");
    // what axes and labels take is known only now: the panels get the rest
    const signals = Object.keys(view.getState({ signals: () => true }).signals);
    const several = signals.filter((name) => /^(child_?width|concat_\d+_width)$/i.test(name));
    const widths = several.length ? several : ["width"];
    for (let turn = 0; parts.length && turn < 2; turn++) {
      const spare = Math.floor((room * spec.columns) / abreast - Number(svg().getAttribute("width")));
      const width = Math.max(120, view.signal(widths[0]) + Math.floor(spare / spec.columns));
      for (const name of widths) view.signal(name, width);
      await view.resize().runAsync();
    }
    // one picture with a title and a caption: its marks have no names of their own
    svg().setAttribute("aria-hidden", "true");
  };
  const drawAll = async () => {
    for (const block of document.querySelectorAll("script[type='application/json'][data-figure]")) {
      await draw(block).catch((error) => {
        document.getElementById(block.dataset.figure).textContent = "This figure could not be drawn: " + error;
      });
    }
    main.dataset.drawn = "all";
  };
  drawAll();
})();
