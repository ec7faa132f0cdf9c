// The invisible part of a panel: name, keyboard, announcements and theme of the panel around it.

const KEYS = { " ": "space", ArrowLeft: "left", ArrowRight: "right" };
const KEEPS_ITS_KEYS = "input, textarea, select, button, a, [contenteditable], [role=slider], [role=grid]";
const THEMES = ["data-jp-theme-light", "data-vscode-theme-kind"];
const ROLES = { ".lemoe-status": "status", ".lemoe-error": "alert" };

function tellTheme(model) {
  const [light, kind] = THEMES.map((name) => document.body.getAttribute(name));
  model.set("theme", light === "false" || kind?.includes("dark") ? "dark" : "light");
  model.save_changes();
}

function adopt(root, model) {
  root.tabIndex = 0;
  root.role = "region";
  root.ariaLabel = model.get("label");
  root.dataset.lmSuppressShortcuts = "true"; // the notebook's own shortcuts rest inside the panel
  root.addEventListener("keydown", (event) => {
    const key = KEYS[event.key];
    if (!model.get("wanted_keys").includes(key) || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target !== root && event.target.closest(KEEPS_ITS_KEYS)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) model.send({ key });
  });
  const announce = () => {
    for (const [selector, role] of Object.entries(ROLES))
      for (const note of root.querySelectorAll(selector)) note.role = role;
  };
  new MutationObserver(announce).observe(root, { childList: true, subtree: true });
  announce();
}

function render({ model, el }) {
  el.style.display = "none";
  const find = () => {
    const root = el.closest(".lemoe-panel");
    if (root) adopt(root, model);
    else waiting = requestAnimationFrame(find); // it is put into the panel after this call
  };
  let waiting = requestAnimationFrame(find);
  const theme = new MutationObserver(() => tellTheme(model));
  theme.observe(document.body, { attributes: true, attributeFilter: THEMES });
  tellTheme(model);
  return () => {
    cancelAnimationFrame(waiting);
    theme.disconnect();
  };
}

export default { render };
