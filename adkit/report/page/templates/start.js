// Tables that sort, the theme, the recipe's copy; then everything begins.
function startTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = html("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const value = (row) => {
          const text = row.cells[column].firstChild?.textContent.trim() ?? "";
          const number = Number(text.replace(/[≤≈%,\s]/g, ""));
          return head.classList.contains("number") ? (text && Number.isFinite(number) ? number : null) : text;
        };
        const compare = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === null || y === null) return (x === null) - (y === null); // what is not there stays last
          return (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true })) * (down ? -1 : 1);
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }
}

function startTheme() {
  const button = byId("theme");
  const themes = ["system", "light", "dark"];
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = "system";
  try {
    theme = themes.find((one) => one === localStorage.getItem("adkit-theme")) ?? "system";
  } catch {
    // A page from a file may keep nothing; the theme is the system's then.
  }
  set(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    set(theme);
    try {
      localStorage.setItem("adkit-theme", theme);
    } catch {
      // As above: it holds until the page is closed.
    }
  });
}

function startCopy() {
  const button = byId("copy");
  const text = byId("recipe-text");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // where the clipboard is closed to pages
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2500);
  });
}

startTables();
startTheme();
startCopy();
startThreshold();
showCategory();
byId("category")?.addEventListener("change", (event) => {
  chosen.category = categories[Number(event.target.value)];
  showCategory();
  tools.elements.category.value = event.target.value;
  fillChoices();
  most = PAGE;
  showImages();
});
startImages();
