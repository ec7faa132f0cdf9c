// A table of edits. Everything that comes from the kernel is put into the page as text.

const COLUMNS = [
  ["state", "State"],
  ["batch", "Batch"],
  ["prompt", "Prompt"],
  ["target", "New target"],
  ["immediate", "Right after"],
  ["now", "Now"],
  ["expert", "Learned by"],
  ["route", "Goes to"],
];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function filters(model) {
  const search = element("input", {
    type: "search",
    placeholder: "filter by prompt, target or id",
    value: model.get("text"),
  });
  search.setAttribute("aria-label", "Filter edits by text");
  search.addEventListener("input", () => {
    model.set("text", search.value);
    model.save_changes();
  });
  const states = element("select");
  states.setAttribute("aria-label", "Filter edits by state");
  states.addEventListener("change", () => {
    model.set("state", states.value);
    model.save_changes();
  });
  const count = element("span", { className: "lemoe-faint" });
  count.setAttribute("role", "status");
  const refresh = () => {
    const counts = model.get("counts");
    const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
    states.replaceChildren(
      element("option", { value: "any", textContent: `any state (${all})` }),
      ...model.get("states").map((state) =>
        element("option", { value: state, textContent: `${state} (${counts[state] ?? 0})` }),
      ),
    );
    states.value = model.get("state");
    if (document.activeElement !== search) search.value = model.get("text");
    const shown = model.get("rows").length;
    const matching = model.get("matching");
    count.textContent = shown < matching ? `${shown} of ${matching} shown; filter to see others` : `${matching} edits`;
  };
  return [element("div", { className: "lemoe-table-filters" }, search, states, count), refresh];
}

function heading(model, [name, label]) {
  const sort = element("button", { type: "button", textContent: label });
  sort.addEventListener("click", () => {
    const same = model.get("sort_by") === name;
    model.set("descending", same ? !model.get("descending") : false);
    model.set("sort_by", name);
    model.save_changes();
  });
  const cell = element("th", { scope: "col" }, sort);
  cell.dataset.column = name;
  return cell;
}

function row(model, edit) {
  const cells = COLUMNS.map(([name]) => element("td", { textContent: edit[name], className: `column-${name}` }));
  const made = element("tr", { tabIndex: -1 }, ...cells);
  made.dataset.edit = edit.edit;
  made.dataset.state = edit.state;
  made.setAttribute("aria-selected", String(model.get("opened") === edit.edit));
  return made;
}

function render({ model, el }) {
  el.classList.add("lemoe-edit-table");
  const [bar, refreshFilters] = filters(model);
  const head = element("tr", {}, ...COLUMNS.map((column) => heading(model, column)));
  const body = element("tbody");
  const table = element("table", {}, element("thead", {}, head), body);
  table.setAttribute("aria-label", "Edits");
  table.setAttribute("role", "grid");
  el.append(bar, element("div", { className: "lemoe-table-scroll" }, table));

  const open = (line) => line && model.send({ open: line.dataset.edit });
  body.addEventListener("click", (event) => open(event.target.closest("tr")));
  body.addEventListener("keydown", (event) => {
    const line = event.target.closest("tr");
    const next = { ArrowDown: line?.nextSibling, ArrowUp: line?.previousSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") open(line);
    else if (next) focusOn(next);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const focusOn = (line) => {
    for (const other of body.querySelectorAll("tr[tabindex='0']")) other.tabIndex = -1;
    line.tabIndex = 0;
    line.focus();
  };

  const refresh = () => {
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.edit : null;
    body.replaceChildren(...model.get("rows").map((edit) => row(model, edit)));
    const lines = [...body.children];
    const line = lines.find((one) => one.dataset.edit === focused);
    if (line) focusOn(line);
    else if (lines.length) lines[0].tabIndex = 0;
    for (const cell of head.children) {
      const active = cell.dataset.column === model.get("sort_by");
      const direction = model.get("descending") ? "descending" : "ascending";
      cell.setAttribute("aria-sort", active ? direction : "none");
    }
    refreshFilters();
  };
  const events = "change:rows change:counts change:opened change:sort_by change:descending";
  model.on(events, refresh);
  refresh();
  return () => model.off(events, refresh);
}

export default { render };
