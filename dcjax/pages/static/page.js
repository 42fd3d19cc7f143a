// What all pages do: tables are sorted by the buttons in their headings, and names are copied.
"use strict";
(() => {
  document.documentElement.classList.add("scripts"); // shows what needs scripts

  const announce = (text) => {
    document.getElementById("announcement").textContent = text;
  };

  // The value of a cell, of a column of numbers or of texts; null if it is empty.
  const valueOf = (cell, isNumber) => {
    const text = (cell.dataset.value ?? cell.textContent).trim();
    if (!text) return null;
    return isNumber ? Number(text.replaceAll(",", "").replace("\u2212", "-")) : text;
  };

  const texts = new Intl.Collator("en", { numeric: true });
  const compare = (a, b, isNumber) => (isNumber ? a - b : texts.compare(a, b));

  // Sorts the rows of a table; empty cells are last in both directions, ties keep their order.
  const sort = (table, column, isNumber, descending) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [valueOf(row.cells[column], isNumber), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a, isNumber) : compare(a, b, isNumber);
    });
    body.replaceChildren(...keyed.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const isNumber = heading.classList.contains("number");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        // Numbers are first sorted from high to low, texts from A to Z.
        const now = heading.getAttribute("aria-sort");
        const descending = now ? now === "ascending" : isNumber;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, isNumber, descending);
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
