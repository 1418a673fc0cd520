document.querySelectorAll("table:not(.matrix)").forEach((table) => {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3) return;
  const value = (row, i) => {
    const text = row.cells[i].textContent.replace("−", "-").trim();
    const number = parseFloat(text.replace(/^[^\d-]*/, ""));
    return [i > 0 && !Number.isNaN(number) ? number : null, text];
  };
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    head.dataset.sort = "";
    head.title = "Sort";
    head.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, s] = value(a, i), [y, t] = value(b, i);
        const order = x === null && y === null ? t.localeCompare(s) : x === null ? 1 : y === null ? -1 : y - x;
        return up ? -order : order;
      });
      body.append(...rows);
    });
  });
});
