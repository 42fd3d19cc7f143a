// What all pages do: tables are sorted by the buttons in their headings, and names are copied.
"use strict";
(() => {
  document.documentElement.classList.add("scripts"); // shows what needs scripts

  const announce = (text) => {
    document.getElementById("announcement").textContent = text;
  };

  // The value of a cell: a number if it shows one, else its text; null if it is empty.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    if (!text) return null;
    const number = Number(text.replace(/\s/g, "").replace("\u2212", "-"));
    return Number.isNaN(number) ? text : number;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  // Sorts the rows of a table; empty cells are last in both directions, ties keep their order.
  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        // Numbers are first sorted from high to low, texts from A to Z.
        const now = heading.getAttribute("aria-sort");
        const descending = now ? now === "ascending" : heading.classList.contains("number");
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
        const order = descending ? "descending" : "ascending";
        announce(`Sorted by ${button.textContent.trim()}, ${order}`);
      });
    });
  }

  // Without the clipboard, as on a page that is not from a safe origin, the text is selected.
  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 1200);
      announce("Copied");
    } catch {
      const shown = button.parentElement.querySelector("bdi");
      if (shown) select(shown);
      announce("Selected; copy it with the keyboard");
    }
  });

  // A part that is folded away would be missing on paper.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
