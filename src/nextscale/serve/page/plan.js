// What a drawing costs, in a sentence and as a table.
const at = (id) => document.getElementById(id);

function amount(value, unit) {
  const steps = ["", "k", "M", "G", "T", "P"];
  let step = 0;
  while (value >= 1000 && step < steps.length - 1) { value /= 1000; step += 1; }
  return `${value.toPrecision(3)} ${steps[step]}${unit}`;
}

function line(cells, kind) {
  const row = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement(kind);
    cell.textContent = text;
    if (kind === "th") cell.scope = "col";
    row.append(cell);
  }
  return row;
}

function named(row) {
  const words = { condition: "reading what to draw", decode: "tokens to pixels" };
  return words[row] ?? `${row.replace("x", " x ")} tokens`;
}

export function show(told) {
  const time = told.seconds == null ? "" : `, about ${told.seconds.toPrecision(2)} s`;
  const pictures = told.images === 1 ? "1 picture" : `${told.images} pictures`;
  at("cost").textContent = `${pictures} of ${told.size.replace("x", " x ")}: ${amount(told.peak_memory, "B")} of memory${time}`;
  const rows = told.rows.map((row) =>
    line([named(row.row), amount(row.flops, "FLOP"), amount(row.memory, "B"), `${Math.round(row.share * 100)} %`], "td"));
  at("plan").replaceChildren(line(["Step", "Work", "Kept", "Share"], "th"), ...rows);
  const drawn = new Set(told.entries.map((entry) => Object.values(entry).filter((value) => typeof value === "string" && value).join(", ")));
  drawn.delete(at("prompt").value.trim());
  at("reading").textContent = told.warnings.join(" ") || (drawn.size ? `Drawn as: ${[...drawn].join("; ")}.` : "");
}

/** Nothing can be drawn, for this reason. */
export function refuse(reason) {
  at("cost").textContent = "What it costs";
  at("plan").replaceChildren();
  at("reading").textContent = reason;
}
