// Tables sort at a click on a heading: numbers as numbers, empty cells last when descending.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = table.querySelectorAll("th");
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      const text = (row) => row.cells[place].textContent.trim();
      const number = (row) => parseFloat(text(row).replace(/[,+ ]/g, "").replace("\u2212", "-"));
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => {
        const x = number(a), y = number(b);
        if (isNaN(x) && isNaN(y)) return text(a).localeCompare(text(b));
        if (isNaN(x) || isNaN(y)) return isNaN(x) ? -1 : 1;
        return x - y;
      };
      const body = table.tBodies[0];
      [...body.rows].sort((a, b) => (down ? -order(a, b) : order(a, b))).forEach((row) => body.append(row));
    };
  });
}
