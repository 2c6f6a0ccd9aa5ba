document.querySelectorAll("table.sortable thead th").forEach((head) => {
  head.tabIndex = 0;
  head.setAttribute("role", "button");
  const sort = () => {
    const table = head.closest("table"), column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => (row.cells[column].firstChild || {textContent: ""}).textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
      if (isNaN(x) || isNaN(y)) return (isNaN(x) - isNaN(y)) || text(a).localeCompare(text(b)) * (down ? 1 : -1);
      return down ? y - x : x - y;
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => row.cells.length > column && !row.classList.contains("task"));
      rows.sort(compare).forEach((row) => body.append(row));
    }
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
});
