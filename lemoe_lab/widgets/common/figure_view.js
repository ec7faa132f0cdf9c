// A picture from the kernel with its description.

function render({ model, el }) {
  el.classList.add("lemoe-figure");
  const image = document.createElement("img");
  el.append(image);
  let shown = null;
  const show = () => {
    const before = shown;
    shown = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    image.src = shown;
    image.alt = model.get("description");
    if (before) URL.revokeObjectURL(before);
  };
  model.on("change:value change:description", show);
  show();
  return () => {
    model.off("change:value change:description", show);
    URL.revokeObjectURL(shown);
  };
}

export default { render };
