// Asks the server that this page came from whether the study has moved on, and loads the page again if it has.
(() => {
  "use strict";
  let known = null;
  const ask = async () => {
    try {
      const now = await (await fetch("state", { cache: "no-store" })).text();
      if (known !== null && now !== known) location.reload();
      known = now;
    } catch {
      return; // the server is gone; the page stays readable
    }
    setTimeout(ask, 3000);
  };
  ask();
})();
