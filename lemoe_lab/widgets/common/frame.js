// The invisible part of a panel: name, keyboard, announcements and theme of the panel around it.

const KEYS = { " ": "space", ArrowLeft: "left", ArrowRight: "right" };
const KEEPS_ITS_KEYS = "input, textarea, select, button, a, [contenteditable], [role=slider], [role=grid]";

function watchTheme(model) {
  const tell = () => {
    const light = document.body.dataset.jpThemeLight ?? document.body.dataset.vscodeThemeKind;
    const dark = light === "false" || String(light).includes("dark");
    model.set("theme", dark ? "dark" : "light");
    model.save_changes();
  };
  const observer = new MutationObserver(tell);
  observer.observe(document.body, {
    attributes: true,
    attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"],
  });
  tell();
  return observer;
}

function announce(root) {
  for (const note of root.querySelectorAll(".lemoe-status")) note.setAttribute("role", "status");
  for (const note of root.querySelectorAll(".lemoe-error")) note.setAttribute("role", "alert");
}

function adopt(root, model) {
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", model.get("label"));
  root.dataset.lmSuppressShortcuts = "true"; // the notebook's own shortcuts rest inside the panel
  const press = (event) => {
    const key = KEYS[event.key];
    if (!key || !model.get("wanted_keys").includes(key)) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target !== root && event.target.closest(KEEPS_ITS_KEYS)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) model.send({ key });
  };
  root.addEventListener("keydown", press);
  const arrivals = new MutationObserver(() => announce(root));
  arrivals.observe(root, { childList: true, subtree: true });
  announce(root);
  return () => {
    root.removeEventListener("keydown", press);
    arrivals.disconnect();
  };
}

function render({ model, el }) {
  el.style.display = "none";
  let leave = () => {};
  let waiting = 0;
  const find = () => {
    const root = el.closest(".lemoe-panel");
    if (root) leave = adopt(root, model);
    else waiting = requestAnimationFrame(find); // it is put into the panel after this call
  };
  find();
  const theme = watchTheme(model);
  return () => {
    cancelAnimationFrame(waiting);
    theme.disconnect();
    leave();
  };
}

export default { render };
