// The threshold: scores by kind above a slider, the counts and rates at it, and where it lies on the curves.
const BINS = 80;
const MOST_KINDS = 14;
const EDGE = 9; // pixels from the end of the slider to the middle of its thumb

// One row of bars each for calibration images, and for each kind of test image.
function stripsOf(category) {
  const rows = new Map();
  for (let row = 0; row < category.scores.length; row++) {
    const key = `${category.labels[row]} ${category.kindOf[row]}`;
    if (!rows.has(key)) rows.set(key, { label: category.labels[row], name: category.kinds[category.kindOf[row]], scores: [] });
    rows.get(key).scores.push(category.scores[row]);
  }
  const all = [...rows.values()].sort((a, b) => a.label - b.label || category.kinds.indexOf(a.name) - category.kinds.indexOf(b.name));
  const strips = all.slice(0, MOST_KINDS);
  for (const label of [0, 1]) {
    const rest = all.slice(MOST_KINDS).filter((one) => one.label === label);
    if (rest.length) strips.push({ label, name: counted(rest.length, "other kind"), scores: rest.flatMap((one) => one.scores) });
  }
  if (category.calibration.length) {
    strips.unshift({ label: 0, name: "calibration", scores: [...category.calibration], style: "calibration" });
  }
  return strips;
}

let strips = [];

function drawStrips() {
  const category = chosen.category;
  const place = byId("strips");
  place.replaceChildren(html("span", { class: "head" }), html("span", { class: "head" }), html("span", { class: "head" }, "above"));
  strips = stripsOf(category).map((strip) => {
    const bins = binsOf(category, strip.scores);
    const most = Math.max(...bins);
    const style = strip.style ?? (strip.label ? "anomalous" : "normal");
    const strong = svg("path", { class: `bars strong ${style}` });
    const cut = svg("line", { class: "cut", y1: 0, y2: 34 });
    const asked = category.asked === null ? "" : askedLine(category);
    const inner = svg(
      "svg",
      { viewBox: `0 0 ${BINS} 34`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("line", { class: "floor", x1: 0, x2: BINS, y1: 30.5, y2: 30.5 }),
      svg("path", { class: `bars ${style}`, d: barsOf(bins, most) }),
      strong,
      asked,
      cut,
    );
    const holder = html("div", {}, inner);
    holder.style.padding = `0 ${EDGE}px`;
    const above = html("div", { class: "above" });
    place.append(html("div", { class: "strip" }, html("div", { class: "kind", title: strip.name }, strip.name), holder, above));
    return { label: strip.label, scores: Float32Array.from(strip.scores), most, strong, cut, above };
  });
  place.append(axisOf(category));
}

function binsOf(category, scores) {
  const bins = new Array(BINS).fill(0);
  for (const score of scores) bins[Math.min(BINS - 1, Math.max(0, Math.floor(category.scale.at(score) * BINS)))]++;
  return bins;
}

// Bars whose heights are the square roots of counts, the highest one that of ``most``.
const barsOf = (bins, most) => bins.map((n, i) => (n ? `M${i + 0.08} 30V${(30 - 27 * Math.sqrt(n / most)).toFixed(2)}H${i + 0.92}V30Z` : "")).join("");

function askedLine(category) {
  const x = category.scale.at(category.asked) * BINS;
  return svg("line", { class: "asked", x1: x, x2: x, y1: 0, y2: 34 });
}

function axisOf(category) {
  const axis = svg("svg", { class: "axis", "aria-hidden": "true" });
  for (const value of roundValues(category.scale)) {
    const at = category.scale.at(value);
    const text = svg("text", { class: "tick", x: `${(100 * at).toFixed(2)}%`, y: 14, "text-anchor": "middle" }, shown(value));
    text.style.transform = `translateX(${(EDGE - 2 * EDGE * at).toFixed(1)}px)`;
    axis.append(text);
  }
  return axis;
}

function roundValues(scale) {
  const [low, high] = [scale.score(0), scale.score(1)];
  const values = [];
  if (scale.log) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of [1, 3]) values.push(factor * 10 ** power);
    }
  } else {
    const power = 10 ** Math.floor(Math.log10((high - low) / 5));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => (high - low) / one <= 6);
    for (let n = Math.ceil(low / step); n * step <= high; n++) values.push(Number((n * step).toPrecision(12)));
  }
  return values.filter((value) => value > low && value < high);
}

// Curves, each with the place of the threshold on it.
const SIDE = { left: 30, right: 226, top: 8, bottom: 204 };
const across = (x) => SIDE.left + x * (SIDE.right - SIDE.left);
const up = (y) => SIDE.bottom - y * (SIDE.bottom - SIDE.top);

function curvesOf(category) {
  const normal = category.labels.length - sum([...category.labels]);
  const anomalous = category.labels.length - normal;
  const order = Array.from(category.scores.keys()).sort((a, b) => category.scores[b] - category.scores[a]);
  const roc = [[0, 0]];
  const pr = [];
  let [found, alarms] = [0, 0];
  order.forEach((row, place) => {
    if (category.labels[row]) found++;
    else alarms++;
    if (place + 1 < order.length && category.scores[order[place + 1]] === category.scores[row]) return; // a tie
    roc.push([alarms / (normal || 1), found / (anomalous || 1)]);
    const recall = found / (anomalous || 1);
    const precision = found / (found + alarms);
    if (!pr.length) pr.push([0, precision]);
    pr.push([pr[pr.length - 1][0], precision], [recall, precision]);
  });
  const curves = [];
  if (normal && anomalous) {
    curves.push({ key: "roc", title: "ROC", x: "false alarms", y: "found", points: roc, span: 1 });
    curves.push({ key: "pr", title: "Precision and recall", x: "found (recall)", y: "precision", points: pr, span: 1 });
  }
  if (category.pro) {
    const points = category.pro.alarms.map((x, i) => [x, category.pro.found[i]]).reverse();
    curves.push({ key: "pro", title: "PRO", x: "false alarms of pixels", y: "defect area found", points: [[0, 0], ...points], span: given.pro_limit });
  }
  return curves;
}

let curves = [];

function drawCurves() {
  const category = chosen.category;
  byId("curves").replaceChildren();
  curves = curvesOf(category).map((curve) => {
    const inside = curve.points.map(([x, y]) => [across(Math.min(x / curve.span, 1)), up(y)]);
    let [path, last] = ["", null];
    for (const [i, [x, y]] of inside.entries()) {
      if (curve.points[i][0] > curve.span && i && curve.points[i - 1][0] > curve.span) break;
      if (last && Math.abs(x - last[0]) + Math.abs(y - last[1]) < 0.4 && i + 1 < inside.length) continue; // not to be seen
      path += `${last ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      last = [x, y];
    }
    const point = svg("circle", { class: "point", r: 6 });
    const was = svg("circle", { class: "was", r: 6 });
    const label = html("b", {});
    const drawing = svg("svg", { viewBox: "0 0 240 236", role: "img", "aria-label": `${curve.title}: ${curve.y} against ${curve.x}` });
    for (const share of [0, 0.5, 1]) {
      drawing.append(
        svg("line", { class: "rule", x1: SIDE.left, x2: SIDE.right, y1: up(share), y2: up(share) }),
        svg("line", { class: "rule", y1: SIDE.top, y2: SIDE.bottom, x1: across(share), x2: across(share) }),
        svg("text", { class: "tick", x: SIDE.left - 6, y: up(share) + 4, "text-anchor": "end" }, String(share)),
        svg("text", { class: "tick", x: across(share), y: SIDE.bottom + 15, "text-anchor": "middle" }, shown(share * curve.span)),
      );
    }
    drawing.append(svg("text", { class: "tick", x: across(0.5), y: SIDE.bottom + 29, "text-anchor": "middle" }, curve.x));
    if (curve.key === "roc" && category.promised !== null) {
      const x = across(category.promised);
      drawing.append(
        svg("line", { class: "asked", x1: x, x2: x, y1: SIDE.top, y2: SIDE.bottom }),
        svg("text", { class: "tick", x: x + 5, y: SIDE.bottom - 6 }, `promised ${asPercent(category.promised)}`),
      );
    }
    drawing.append(svg("path", { class: "line", d: path }), was, point);
    byId("curves").append(html("figure", { id: `curve-${curve.key}` }, html("figcaption", {}, `${curve.title} `, label), drawing));
    return { ...curve, point, was, label };
  });
  for (const curve of curves) {
    const at = category.asked === null ? null : placeOn(curve, category, category.asked, category.askedLevel);
    setPoint(curve, curve.was, at);
  }
}

// Where a threshold lies on a curve; null where it is on none.
function placeOn(curve, category, threshold, level) {
  if (curve.key === "pro") {
    if (level === null) return null;
    const { thresholds, alarms, found } = category.pro;
    const i = thresholds.findIndex((one) => one >= level);
    if (i < 0) return [0, 0];
    if (i === 0) return [alarms[0], found[0]];
    const share = (level - thresholds[i - 1]) / (thresholds[i] - thresholds[i - 1] || 1);
    return [alarms[i - 1] + share * (alarms[i] - alarms[i - 1]), found[i - 1] + share * (found[i] - found[i - 1])];
  }
  const counts = countsOf({ ...category, threshold });
  const recall = counts.found / (counts.found + counts.missed || 1);
  if (curve.key === "roc") return [counts.alarm / (counts.alarm + counts.passed || 1), recall];
  const called = counts.found + counts.alarm;
  return called ? [recall, counts.found / called] : [0, curve.points.length ? curve.points[0][1] : 1];
}

function setPoint(curve, point, at) {
  point.style.display = at === null ? "none" : "";
  if (at === null) return;
  point.setAttribute("cx", across(Math.min(at[0] / curve.span, 1)).toFixed(2));
  point.setAttribute("cy", up(at[1]).toFixed(2));
}

// Show everything anew that depends on the threshold.
function showThreshold() {
  const category = chosen.category;
  const at = category.scale.at(category.threshold);
  const limit = Math.fround(category.threshold);
  for (const strip of strips) {
    const x = Math.max(0, Math.min(1, at)) * BINS;
    strip.cut.setAttribute("x1", x);
    strip.cut.setAttribute("x2", x);
    const wrong = strip.scores.filter((score) => score > limit !== Boolean(strip.label));
    strip.strong.setAttribute("d", barsOf(binsOf(category, wrong), strip.most));
    const above = strip.label ? strip.scores.length - wrong.length : wrong.length;
    strip.above.replaceChildren(String(above), html("small", {}, ` of ${strip.scores.length}`));
  }
  const counts = countsOf(category);
  byId("passed").textContent = counts.passed.toLocaleString("en");
  byId("alarms").textContent = counts.alarm.toLocaleString("en");
  byId("missed").textContent = counts.missed.toLocaleString("en");
  byId("found").textContent = counts.found.toLocaleString("en");
  for (const [name, label] of [["alarm", 0], ["found", 1]]) {
    const shares = sharesOf(category, label);
    const [low, high] = wilson(sum(shares), shares.length);
    byId(`${name}-rate`).textContent = shares.length ? asPercent(sum(shares) / shares.length) : "–";
    const unit = category.per === "part" ? "of parts, " : category.groupOf !== null && !label ? "on average over parts, " : "";
    byId(`${name}-interval`).textContent = shares.length ? `${unit}95%: ${asPercent(low)} to ${asPercent(high)}` : "";
  }
  const called = counts.found + counts.alarm;
  byId("precision").textContent = called ? asPercent(counts.found / called) : "–";
  byId("promise").textContent = promiseOf(category);
  byId("reset").disabled = category.asked === null || (category.threshold === category.asked && category.level === category.askedLevel);
  for (const curve of curves) {
    const place = placeOn(curve, category, category.threshold, category.level);
    setPoint(curve, curve.point, place);
    curve.label.textContent = place === null ? "" : `${asPercent(place[0])} / ${asPercent(place[1])}`;
    curve.place = place;
  }
  const slider = byId("position");
  slider.value = String(Math.round(at * 1000));
  slider.setAttribute("aria-valuetext", shown(category.threshold));
  slider.dataset.threshold = String(category.threshold); // all of its digits
  if (document.activeElement !== byId("exact")) byId("exact").value = shown(category.threshold);
  say(`Threshold ${shown(category.threshold)}: ${counted(counts.alarm, "false alarm")} of ${counts.alarm + counts.passed}, ${counts.found} of ${counts.found + counts.missed} defects found.`);
}

function promiseOf(category) {
  if (category.threshold === category.asked && category.promised !== null) {
    const about = category.approximate ? "about" : "at most";
    return `The recipe's threshold: it promises ${about} ${asPercent(category.promised)} false alarms on new normal ${category.per === "part" ? "parts" : "images"}.`;
  }
  const expected = expectedRate(category);
  if (expected === null) return "No normal images were kept back for calibration, so nothing is promised.";
  const start = category.asked === null ? "This recipe has no threshold." : category.threshold === category.asked ? "Set by hand." : "Moved, so nothing is promised.";
  return `${start} By ${counted(category.calibration.length, "calibration score")}, expect about ${asPercent(expected)} false alarms.`;
}

let saying = 0;
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => (byId("said").textContent = text), 400);
}

function setThreshold(value) {
  const category = chosen.category;
  category.threshold = value;
  category.level = levelFor(category, value);
  showThreshold();
  showLevel();
  thresholdMoved();
}

function startThreshold() {
  byId("explorer").hidden = false;
  byId("position").addEventListener("input", (event) => setThreshold(chosen.category.scale.score(Number(event.target.value) / 1000)));
  byId("exact").addEventListener("input", (event) => {
    const value = event.target.valueAsNumber;
    if (Number.isFinite(value)) setThreshold(value);
  });
  byId("reset").addEventListener("click", () => {
    setThreshold(chosen.category.asked);
    byId("position").focus(); // the button is disabled now
  });
}

function showCategory() {
  drawStrips();
  drawCurves();
  byId("notes").textContent = chosen.category.notes.join(" ");
  showThreshold();
  showLevel();
}
