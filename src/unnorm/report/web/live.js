// Asks the server that this page came from whether the study has moved on, and loads the page again if it has.
(() => {
  "use strict";
  const known = document.getElementById("main").dataset.state;
  const ask = async () => {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (reply.ok && (await reply.text()) !== known) location.reload();
    } catch {
      return; // the server is gone; the page stays readable
    }
    setTimeout(ask, 3000);
  };
  ask();
})();
