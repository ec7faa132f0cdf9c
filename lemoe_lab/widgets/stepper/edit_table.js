// A table of edits. Everything that comes from the kernel is put into the page as text.

const COLUMNS = {
  state: "State",
  batch: "Batch",
  prompt: "Prompt",
  target: "New target",
  immediate: "Right after",
  now: "Now",
  expert: "Learned by",
  route: "Goes to",
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const tell = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const sort = (name) =>
    tell({ descending: model.get("sort_by") === name && !model.get("descending"), sort_by: name });
  const search = element("input", { type: "search", placeholder: "filter by prompt, target or id" });
  search.ariaLabel = "Filter edits by text";
  search.oninput = () => tell({ text: search.value });
  const states = element("select", { ariaLabel: "Filter edits by state" });
  states.onchange = () => tell({ state: states.value });
  const count = element("span", { className: "lemoe-faint", role: "status" });
  const heads = Object.entries(COLUMNS).map(([name, label]) => {
    const press = element("button", { type: "button", textContent: label, onclick: () => sort(name) });
    return element("th", { scope: "col" }, press);
  });
  const body = element("tbody");
  const table = element("table", { className: "lemoe-table", ariaLabel: "Edits", role: "grid" });
  table.append(element("thead", {}, element("tr", {}, ...heads)), body);
  el.classList.add("lemoe-edit-table");
  el.append(element("div", { className: "lemoe-table-filters" }, search, states, count));
  el.append(element("div", { className: "lemoe-table-scroll" }, table));

  const open = (line) => line && model.send({ open: line.dataset.edit });
  const focusOn = (line) => {
    for (const other of body.children) other.tabIndex = other === line ? 0 : -1;
    line.focus();
  };
  body.onclick = (event) => open(event.target.closest("tr"));
  body.onkeydown = (event) => {
    const line = event.target.closest("tr");
    const next = { ArrowDown: line?.nextSibling, ArrowUp: line?.previousSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") open(line);
    else if (next) focusOn(next);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const row = (edit) => {
    const cells = Object.keys(COLUMNS).map((name) =>
      element("td", { textContent: edit[name], className: `column-${name}` }),
    );
    const line = element("tr", { tabIndex: -1, ariaSelected: model.get("opened") === edit.edit }, ...cells);
    Object.assign(line.dataset, { edit: edit.edit, state: edit.state });
    return line;
  };
  const refresh = () => {
    const rows = model.get("rows");
    const matching = model.get("matching");
    const focused = body.contains(document.activeElement) && document.activeElement.dataset.edit;
    body.replaceChildren(...rows.map(row));
    const line = [...body.children].find((one) => one.dataset.edit === focused);
    if (line) focusOn(line);
    else if (rows.length) body.firstChild.tabIndex = 0;
    const direction = model.get("descending") ? "descending" : "ascending";
    Object.keys(COLUMNS).forEach((name, place) => {
      heads[place].ariaSort = model.get("sort_by") === name ? direction : "none";
    });
    const choices = Object.entries(model.get("choices"));
    states.replaceChildren(...choices.map(([value, textContent]) => element("option", { value, textContent })));
    states.value = model.get("state");
    if (document.activeElement !== search) search.value = model.get("text");
    const some = `${rows.length} of ${matching} shown; filter to see others`;
    count.textContent = rows.length < matching ? some : `${matching} edits`;
  };
  const events = "change:rows change:choices change:opened change:sort_by change:descending";
  model.on(events, refresh);
  refresh();
  return () => model.off(events, refresh);
}

export default { render };
