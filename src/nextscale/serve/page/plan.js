// The plan as a table, with its price.
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
    row.append(cell);
  }
  return row;
}

export function show(told) {
  const time = told.seconds == null ? "" : `, about ${told.seconds.toPrecision(2)} s`;
  const pictures = told.images === 1 ? "1 picture" : `${told.images} pictures`;
  document.getElementById("cost").textContent =
    `${pictures} of ${told.size} by ${told.model}: ${amount(told.flops, "FLOP")}, ${amount(told.peak_memory, "B")} at the peak${time}.`;
  const rows = told.rows.map((row) =>
    line([row.row, amount(row.flops, "FLOP"), amount(row.memory, "B"), `${Math.round(row.share * 100)} %`], "td"));
  document.getElementById("plan").replaceChildren(line(["Step", "Work", "Memory", "Share"], "th"), ...rows);
}
